"""real: an answer is right if it is among an image's ReaL labels; images without any are left out; nothing is matched by guess."""

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from stages import real
from stages.lib.core import load
from stages.lib.core.outcome import Refusal
from stages.lib.data import chance, predictions, stamp
from stages.lib.ingestion import index_writer
from stages.lib.ingestion.index_writer import Place
from stages.lib.params.everything import Everything
from tests.conftest import ROOT

WNIDS = ("n00000010", "n00000020", "n00000030")
ORDER = [3, 1, 5, 2, 4]
"""Numbers of the validation images as the index has them: shards are shuffled."""
LABELS = {1: 0, 2: 1, 3: 2, 4: 0, 5: 1}
CLASS = {1: 0, 2: 2, 3: 0, 4: 0, 5: 1}
DIST = {1: 1, 2: 1, 3: 2, 4: 1, 5: 0}
REAL = [[0], [1, 2], [2, 1], [], [0, 2]]
"""By them the class head is right on 1 and 2, the distillation head on 2, 3 and 5; 4 has no label."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three classes, five validation images, a student and a fine-tuned model that is always right by the first label."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["real", "imagenet"])
    write_index(tmp_path, WNIDS)
    first = {number: labels[0] if labels else 0 for number, labels in enumerate(REAL, start=1)}
    predict(tmp_path, "student", {"class": CLASS, "dist": DIST})
    predict(tmp_path, "finetuned", {"class": first})
    relabel(tmp_path, REAL)
    return tmp_path


def write_index(root: Path, wnids: tuple[str, ...]) -> None:
    """Class n is that of the n-th of these."""
    keys = [("train", f"train/{wnid}/{wnid}_7", label) for label, wnid in enumerate(wnids)]
    keys += [("val", f"val/ILSVRC2012_val_{number:08d}", LABELS[number]) for number in ORDER]
    tars = {split: f"imagenet-{split}-000000.tar" for split in ("train", "val")}
    places = [
        Place(key, split, label, tars[split], 512 * row, 9, "0" * 64, 8, 8, 1)
        for row, (split, key, label) in enumerate(keys)
    ]
    shards = {
        tar: {"sha256": "0" * 64, "bytes": 10240, "images": sum(split == one for one, _, _ in keys), "split": split}
        for split, tar in tars.items()
    }
    (root / "data/index").mkdir(parents=True, exist_ok=True)
    index_writer.write(root / "data/index/imagenet.parquet", places, tuple("abc"), shards)


OUT = "data/metrics/real-imagenet.json"


def predict(root: Path, model: str, heads: dict[str, dict[int, int]], form: str = "val/ILSVRC2012_val_{:08d}") -> None:
    """What evaluate would leave of heads that answer so, image number -> class."""
    columns = {
        "key": pa.array([form.format(n) for n in ORDER]),
        "label": pa.array([LABELS[n] for n in ORDER], pa.int32()),
    }
    columns |= {f"{head}_top1": pa.array([said[n] for n in ORDER], pa.int32()) for head, said in heads.items()}
    columns["model_top1"] = columns["class_top1"]
    (root / "data/models" / model).mkdir(parents=True, exist_ok=True)
    of = stamp.of(root / "data/models" / model, root / "data/index/imagenet.parquet")
    predictions.write(root / f"data/predictions/{model}.parquet", columns, "imagenet", "val", of)


def relabel(root: Path, lists: Any) -> None:
    (root / "data/real").mkdir(exist_ok=True)
    (root / "data/real/imagenet.json").write_text(json.dumps(lists))


def judged() -> dict[str, Any]:
    real.main()
    values: dict[str, Any] = json.loads(Path(OUT).read_text())
    return values


@pytest.mark.usefixtures("project")
def test_real__counts_an_answer_that_is_among_the_labels_of_its_image() -> None:
    values = judged()
    assert {key: values[key] for key in ("set", "split", "images", "unlabelled")} == {
        "set": "imagenet", "split": "val", "images": 4, "unlabelled": 1,
    }  # fmt: skip
    heads = values["student"]["heads"]
    low, high = (round(bound, 4) for bound in chance.bootstrap(2, 4))
    assert heads["class"] == {"top1": 50.0, "top1_low": low, "top1_high": high}
    assert heads["dist"]["top1"] == 75.0 and set(heads) == {"class", "dist"}
    assert values["finetuned"]["heads"] == {"class": {"top1": 100.0, "top1_low": 100.0, "top1_high": 100.0}}


def test_real__the_old_labels_give_the_old_accuracy_and_shifted_ones_do_not(project: Path) -> None:
    """Images are found by their number: lists in the order of the index would give another figure."""
    relabel(project, [[LABELS[number]] for number in range(1, 6)])
    found = predictions.read(project / "data/predictions/student.parquet")
    heads = judged()["student"]["heads"]
    assert {head: numbers["top1"] for head, numbers in heads.items()} == {
        head: 100 * found.right(head).mean() for head in ("class", "dist")
    }
    relabel(project, [[(LABELS[number] + 1) % 3] for number in range(1, 6)])
    assert (
        judged()["student"]["heads"]["class"]["top1"] == 40.0
    )  # images 2 and 3, where its wrong answer is the next class
    relabel(project, [[LABELS[number]] for number in ORDER])
    assert judged()["student"]["heads"]["class"]["top1"] != heads["class"]["top1"]


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        (REAL[:-1], r"has 4 lists, and .*student\.parquet 5 images, numbered 1 to 5: each image needs a list"),
        ([*REAL, [0]], r"has 6 lists, and .* 5 images"),
        ([*REAL[:-1], [3]], r"list 5 is \[3\]; allowed are whole numbers from 0 to 2"),
        ([*REAL[:-1], [-1]], r"list 5 is \[-1\]"),
        ([*REAL[:-1], [True]], r"list 5 is \[True\]"),
        ([*REAL[:-1], 1], r"list 5 is 1;"),
        ({"1": [0]}, r"holds a dict, not a list"),
        ([[]] * 5, r"has no label for any image"),
    ],
)
def test_real__refuses_other_labels(project: Path, lists: Any, words: str) -> None:
    relabel(project, lists)
    with pytest.raises(Refusal, match=words):
        real.main()
    assert not Path(OUT).exists()


@pytest.mark.parametrize("text", ["[[0], [1", "", "[" * 100_000, "\udc80"])
def test_real__refuses_what_is_no_json(project: Path, text: str) -> None:
    (project / "data/real/imagenet.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(Refusal, match=r"is no JSON .*Get real\.json again"):
        real.main()


def test_real__refuses_images_of_other_names_and_a_missing_file(project: Path) -> None:
    (project / "data/real/imagenet.json").unlink()
    with pytest.raises(Refusal, match=r"There is no data/real/imagenet\.json\. Put real\.json"):
        real.main()
    relabel(project, REAL)
    for model in real.MODELS:
        predict(project, model, {"class": CLASS}, "test/ILSVRC2012_test_{:08d}")
    with pytest.raises(Refusal, match=r"has 'test/ILSVRC2012_test_00000003', which is no ILSVRC2012_val_<number>"):
        real.main()


def test_real__refuses_classes_that_are_not_in_the_order_of_wnids(project: Path) -> None:
    for wnids, found in ((WNIDS[::-1], "3 of 3"), (("cat", "dog", "eel"), "0 of 3")):
        write_index(project, wnids)
        for model in real.MODELS:
            predict(project, model, {"class": CLASS})
        with pytest.raises(Refusal, match=rf"order of their wnids.*: {found} classes have a wnid"):
            real.main()


def test_real__refuses_predictions_of_another_index_or_of_other_images(project: Path) -> None:
    write_index(project, (*WNIDS[:2], "n00000031"))
    with pytest.raises(
        Refusal, match=r"student\.parquet was not made from data/index/imagenet\.parquet: different index"
    ):
        real.main()
    predict(project, "student", {"class": CLASS})
    predict(project, "finetuned", {"class": CLASS}, "val/x/ILSVRC2012_val_{:08d}")
    with pytest.raises(Refusal, match=r"not comparable"):
        real.main()


def test_everything__real_is_the_main_set_or_nothing() -> None:
    values = load.parse((ROOT / "params.yaml").read_text())
    values["sets"]["real"] = ["digits-0-6"]
    assert Everything.model_validate(values).sets.real == ["digits-0-6"]
    values["sets"]["real"] = ["digits-7-9"]
    with pytest.raises(ValidationError, match=r"sets\.real is \['digits-7-9'\]; allowed are \[\] and \[digits-0-6\]"):
        Everything.model_validate(values)
