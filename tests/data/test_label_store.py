"""Stored answers: the same bytes for the same answers, and nothing but what was written is ever read."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from stages.lib.core import files
from stages.lib.core.outcome import Refusal
from stages.lib.data import fingerprint, label_store
from stages.lib.data.label_store import FACTS, Damaged, Facts, Store, name_of
from stages.lib.params.views import Views

VIEWS = Views(seed=3, epochs=3, batch_size=4, image_size=8)
CLASSES, POSITIONS = 300, 8


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[Path, Path]:
    """An index and a teacher, as far as a fingerprint looks."""
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher/model.safetensors").write_bytes(b"weights")
    (tmp_path / "teacher/config.json").write_bytes(b"{}")
    (tmp_path / "index.parquet").write_bytes(b"index")
    return tmp_path / "index.parquet", tmp_path / "teacher"


@pytest.fixture
def parts(inputs: tuple[Path, Path]) -> fingerprint.Parts:
    index, teacher = inputs
    return fingerprint.parts_of(VIEWS, index, 100, teacher, "same", "fp32")


def facts_of(parts: fingerprint.Parts, top_k: int = 2) -> Facts:
    return Facts(fingerprint.digest(parts), parts, VIEWS.epochs, POSITIONS, CLASSES, top_k)


def arrays(epoch: int) -> dict[str, np.ndarray]:
    """Answers like no other epoch's."""
    rng = np.random.default_rng(epoch)
    return {
        "hard": rng.integers(0, CLASSES, POSITIONS),
        "classes": rng.integers(0, CLASSES, (POSITIONS, 2)),
        "log_probabilities": -rng.random((POSITIONS, 2)),
        "log_rest": -rng.random(POSITIONS),
    }


def write(folder: Path, facts: Facts) -> None:
    for epoch in range(facts.epochs):
        label_store.write_epoch(folder / name_of(epoch), facts, epoch, arrays(epoch))
    label_store.write_facts(folder, facts)


@pytest.fixture
def folder(tmp_path: Path, parts: fingerprint.Parts) -> Path:
    """A store of three epochs."""
    write(tmp_path / "stored", facts_of(parts))
    return tmp_path / "stored"


def opened(folder: Path, parts: fingerprint.Parts, soft: bool = True) -> Store:
    return Store(folder, parts, CLASSES, soft)


def test_store__gives_the_answers_of_any_positions(folder: Path, parts: fingerprint.Parts) -> None:
    store, wanted = opened(folder, parts), arrays(1)
    places = np.array([7, 0, 3])
    said = store.answers(1, places)
    assert said.hard.tolist() == wanted["hard"][places].tolist()
    assert said.classes is not None and said.classes.tolist() == wanted["classes"][places].tolist()
    assert said.log_probabilities is not None and said.log_rest is not None
    np.testing.assert_allclose(said.log_probabilities.numpy(), wanted["log_probabilities"][places], rtol=2**-10)
    np.testing.assert_allclose(said.log_rest.numpy(), wanted["log_rest"][places], rtol=2**-10)
    assert said.hard.tolist() != store.answers(2, places).hard.tolist()


def test_store__with_decisions_alone_is_two_bytes_a_view(tmp_path: Path, parts: fingerprint.Parts) -> None:
    facts = dataclasses.replace(facts_of(parts, top_k=0), positions=10_000)
    label_store.write_epoch(tmp_path / name_of(0), facts, 0, {"hard": np.arange(10_000)})
    assert (tmp_path / name_of(0)).stat().st_size < 2 * 10_000 + 512
    assert label_store.verified(tmp_path / name_of(0), facts, 0)["hard"][-1] == 9_999


def test_store__equal_answers_are_equal_bytes_another_librarys_reader_knows(
    folder: Path, tmp_path: Path, parts: fingerprint.Parts
) -> None:
    write(tmp_path / "again", facts_of(parts))
    assert files.sha256(tmp_path / "again") == files.sha256(folder)
    read = safetensors.numpy.load_file(folder / name_of(2))
    assert read["hard"].tolist() == arrays(2)["hard"].tolist()
    other = arrays(1) | {"hard": (arrays(1)["hard"] + 1) % CLASSES}  # negative control
    label_store.write_epoch(tmp_path / "again" / name_of(1), facts_of(parts), 1, other)
    assert files.sha256(tmp_path / "again") != files.sha256(folder)


def shuffled(path: Path) -> None:
    """Every answer is there, and none where it was."""
    data = bytearray(path.read_bytes())
    data[-2 * POSITIONS :] = data[-2 * POSITIONS :][::-1]
    path.write_bytes(data)


def one_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5])


def swapped(path: Path) -> None:
    shutil.copyfile(path.with_name(name_of(2)), path)


def renumbered(path: Path) -> None:
    """Epoch 2's answers under epoch 1's number: the checksum is right, the store knows better."""
    facts, _ = label_store.read_facts(path.parent)
    label_store.write_epoch(path, facts, 1, arrays(2))


def another_stores(path: Path) -> None:
    facts, _ = label_store.read_facts(path.parent)
    label_store.write_epoch(path, dataclasses.replace(facts, fingerprint="0" * 64), 1, arrays(1))


def of_other_shape(path: Path) -> None:
    facts, _ = label_store.read_facts(path.parent)
    label_store.write_epoch(path, dataclasses.replace(facts, top_k=0), 1, arrays(1))


@pytest.mark.parametrize(
    "harm", [shuffled, one_bit, cut, cut_short, swapped, renumbered, another_stores, of_other_shape, Path.unlink]
)
def test_store__a_file_that_is_not_what_was_written_is_refused_before_it_is_used(
    folder: Path, parts: fingerprint.Parts, harm
) -> None:  # type: ignore[no-untyped-def]
    harm(folder / name_of(1))
    with pytest.raises(Refusal, match=r"epoch-0001\.safetensors.*dvc checkout"):
        opened(folder, parts).answers(1, np.arange(2))
    if (folder / name_of(1)).exists() and harm is not renumbered:
        with pytest.raises(Damaged):
            label_store.verified(folder / name_of(1), facts_of(parts), 1)


@pytest.mark.parametrize("harm", [cut, swapped, renumbered, another_stores, of_other_shape, Path.unlink])
def test_store__what_a_header_tells_is_noticed_when_the_store_is_opened(
    folder: Path, parts: fingerprint.Parts, harm
) -> None:  # type: ignore[no-untyped-def]
    harm(folder / name_of(1))
    with pytest.raises(Refusal, match=r"epoch-0001\.safetensors"):
        opened(folder, parts)


def test_store__edited_facts_are_refused(folder: Path, parts: fingerprint.Parts) -> None:
    path = folder / FACTS
    content = json.loads(path.read_text())
    for change in (
        {"parts": {**content["parts"], "train.teacher_normalisation": "own"}},
        {"sha256": []},
        {"labels": 1, "epochs": "x"},
    ):
        path.write_text(json.dumps({**content, **change}))
        with pytest.raises(Refusal, match=r"store\.json is missing or damaged"):
            opened(folder, parts)
    path.unlink()
    with pytest.raises(Refusal, match=r"store\.json is missing"):
        opened(folder, parts)


def test_store__of_live_labels_says_what_to_do(tmp_path: Path, parts: fingerprint.Parts) -> None:
    label_store.write_live(tmp_path / "stored")
    assert json.loads((tmp_path / "stored" / FACTS).read_text()) == {"labels": "live"}
    with pytest.raises(Refusal, match="dvc repro label"):
        opened(tmp_path / "stored", parts)


def test_store__other_classes_or_too_little_for_soft_are_refused(
    folder: Path, tmp_path: Path, parts: fingerprint.Parts
) -> None:
    with pytest.raises(Refusal, match="300 classes and the set has 10"):
        Store(folder, parts, 10, soft=False)
    write(tmp_path / "hard", facts_of(parts, top_k=0))
    opened(tmp_path / "hard", parts, soft=False)
    with pytest.raises(Refusal, match="top_k"):
        opened(tmp_path / "hard", parts, soft=True)


def test_fingerprint__every_part_counts_and_the_refusal_names_it(
    folder: Path, inputs: tuple[Path, Path], parts: fingerprint.Parts
) -> None:
    index, teacher = inputs
    assert fingerprint.digest(fingerprint.parts_of(VIEWS, index, 100, teacher, "same", "fp32")) == fingerprint.digest(
        parts
    )
    others = {
        "train.views.seed is 4, the store has 3": fingerprint.parts_of(
            VIEWS.model_copy(update={"seed": 4}), index, 100, teacher, "same", "fp32"
        ),
        "train.views.mixup is 0.8, the store has 0.0": fingerprint.parts_of(
            VIEWS.model_copy(update={"mixup": 0.8}), index, 100, teacher, "same", "fp32"
        ),
        "data.subset is 10, the store has nothing": fingerprint.parts_of(VIEWS, index, 10, teacher, "same", "fp32"),
        "train.teacher_normalisation is own": fingerprint.parts_of(VIEWS, index, 100, teacher, "own", "fp32"),
        "train.labelling.precision is bf16": fingerprint.parts_of(VIEWS, index, 100, teacher, "same", "bf16"),
    }
    index.write_bytes(b"another index")
    others["the index is "] = fingerprint.parts_of(VIEWS, index, 100, teacher, "same", "fp32")
    index.write_bytes(b"index")
    (teacher / "config.json").write_bytes(b"{ }")
    others["the teacher is "] = fingerprint.parts_of(VIEWS, index, 100, teacher, "same", "fp32")
    assert len({fingerprint.digest(other) for other in [parts, *others.values()]}) == 1 + len(others)
    for words, other in others.items():
        with pytest.raises(Refusal) as caught:
            opened(folder, other)
        assert words in str(caught.value) and str(caught.value).count(", the store has ") == 1
