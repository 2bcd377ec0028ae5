"""Stage `label` and the students that read it: equal to the teacher beside them bit for bit, and nothing but their own labels."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from stages import distill, label
from stages.lib.core import files, load
from stages.lib.core.outcome import Refusal
from stages.lib.core.ranks import Rank
from stages.lib.core.runs import Run
from stages.lib.data import label_store
from stages.lib.data.batches import batches
from stages.lib.data.classifier_stream import stream_of
from stages.lib.data.index import read_index
from stages.lib.data.label_store import FACTS, Facts, Store, name_of
from stages.lib.data.pixels import classifier_pixels
from stages.lib.data.shards import ShardReader
from stages.lib.models import teaching
from stages.lib.params.train import Train
from stages.lib.params.views import Views
from stages.lib.training import kernel_memory, kernels, labelling
from stages.lib.training.labelling import Way
from tests.workspace import SET, edit, run, start, workers

STORED, STUDENT = Path("data/labels/stored"), Path("data/models/student/model.safetensors")
HISTORY = Path("data/history/student.csv")
EPOCHS = 4


def variant(of: Path, tmp_path: Path, **changes: object) -> Path:
    """A copy of a project, with some parameters changed."""
    folder = tmp_path / "variant"
    shutil.copytree(of, folder, symlinks=True)
    edit(folder, {key.replace("__", "."): value for key, value in changes.items()})
    return folder


@pytest.fixture(scope="module")
def taught(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of its own whose teacher is trained, and nothing labelled."""
    folder = variant(project, tmp_path_factory.mktemp("label"), train__labels="stored")
    run(folder, "stages.teacher", SET)
    return folder


@pytest.fixture(scope="module")
def labelled(taught: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after one undisturbed `label`."""
    folder = variant(taught, tmp_path_factory.mktemp("labelled"))
    output = run(folder, "stages.label", SET)
    assert "0 % of the labels differ" in output and "images/s" in output and "waiting for data" in output
    return folder


@pytest.fixture(scope="module")
def student(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after a student has learnt from the stored labels."""
    folder = variant(labelled, tmp_path_factory.mktemp("student"))
    run(folder, "stages.distill", SET)
    return folder


def refusal(folder: Path, stage: ModuleType, monkeypatch: pytest.MonkeyPatch) -> str:
    """Why a stage does not even begin; in this process, since starting another takes seconds."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [stage.__name__, SET])
    with pytest.raises(Refusal) as caught:
        stage.main()
    return str(caught.value)


@pytest.fixture
def distill_refuses(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], str]:
    return lambda folder: refusal(folder, distill, monkeypatch)


def store_of(folder: Path) -> tuple[Facts, Store]:
    facts, _ = label_store.read_facts(folder / STORED)
    return facts, Store(folder / STORED, facts.parts, facts.classes, soft=False)


def test_label__is_what_the_teacher_says_of_every_view(labelled: Path) -> None:
    """Asked again here, of the pixels a student sees; two epochs differ, or an exchange would go unseen."""
    facts, store = store_of(labelled)
    index = read_index(labelled / f"data/index/{SET}.parquet", "train")
    views = Views.model_validate(facts.parts["train.views"], strict=False)
    stream = stream_of(views, index, ShardReader(index, labelled / f"data/shards/{SET}"), 0)
    teacher = teaching.load(labelled / "data/models/teacher", index.classes, "same")
    steps, seen = stream.steps_per_epoch, set()
    assert (facts.epochs, facts.positions, facts.classes) == (EPOCHS, steps * views.batch_size, 3)
    for step, batch in enumerate(batches(stream, 0, 2 * steps, Rank(), 0, 1)):
        wanted = teaching.ask(teacher, classifier_pixels(batch), "fp32").argmax(-1)
        assert torch.equal(store.answers(step // steps, batch.positions.numpy()).hard, wanted), step
        seen |= set(wanted.tolist())
    assert len(seen) > 1
    every = np.arange(facts.positions)
    assert not torch.equal(store.answers(0, every).hard, store.answers(1, every).hard)


def test_distill__from_stored_labels_equals_live_bit_for_bit_without_the_teacher(student: Path, tmp_path: Path) -> None:
    live = variant(student, tmp_path, train__labels="live")
    run(live, "stages.distill", SET)
    assert (live / HISTORY).read_text() == (student / HISTORY).read_text()
    assert files.sha256((live / STUDENT).parent) == files.sha256((student / STUDENT).parent)
    assert len(list((live / "data/runs/distill").glob("*/identity.json"))) == 2, "the second was a run of its own"


def test_distill__does_not_load_the_teacher_it_has_answers_of(
    labelled: Path, tmp_path: Path, distill_refuses: Callable[[Path], str]
) -> None:
    """Weights that timm cannot load, with a store that is about them: live stumbles, stored does not look."""
    folder = variant(labelled, tmp_path)
    (folder / "data/models/teacher/model.safetensors").write_bytes(b"no weights")
    assert "the teacher is" in distill_refuses(folder)  # negative control: it is another teacher now
    facts, _ = label_store.read_facts(folder / STORED)
    parts = {**facts.parts, "the teacher": files.sha256(folder / "data/models/teacher")}
    rewrite(folder, parts, lambda hard: hard)
    run(folder, "stages.distill", SET)
    edit(folder, {"train.labels": "live"})
    process = start(folder, "stages.distill", SET)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2 and "missing or damaged" in output, output


def rewrite(folder: Path, parts: dict[str, object], change: Callable[[np.ndarray], np.ndarray]) -> None:
    """A store in which everything agrees, of changed parts or labels."""
    old, _ = label_store.read_facts(folder / STORED)
    new = Facts(label_store.fingerprint.digest(parts), parts, old.epochs, old.positions, old.classes, 0)
    for epoch in range(old.epochs):
        path = folder / STORED / name_of(epoch)
        hard = np.array(label_store.verified(path, old, epoch)["hard"])
        path.unlink()  # what is linked elsewhere stays as it is
        label_store.write_epoch(path, new, epoch, {"hard": change(hard)})
    label_store.write_facts(folder / STORED, new)


def test_distill__other_labels_make_another_student(student: Path, tmp_path: Path) -> None:
    """Negative control: labels shuffled by somebody who also put every checksum right teach something else, as another run."""
    folder = variant(student, tmp_path)
    facts, _ = label_store.read_facts(folder / STORED)
    rewrite(folder, facts.parts, lambda hard: np.roll(hard, 1))
    output = run(folder, "stages.distill", SET)
    assert "continuing" not in output
    assert files.sha256(folder / STUDENT) != files.sha256(student / STUDENT)


def shuffle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-384:] = data[-384:][::-1]
    path.unlink()
    path.write_bytes(data)


def swap(path: Path) -> None:
    content = path.with_name(name_of(3)).read_bytes()
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [shuffle, swap, Path.unlink])
def test_distill__a_file_that_is_not_what_was_stored_stops_it(
    labelled: Path, tmp_path: Path, harm: Callable[[Path], None], distill_refuses: Callable[[Path], str]
) -> None:
    folder = variant(labelled, tmp_path)
    harm(folder / STORED / name_of(0))
    assert "epoch-0000.safetensors" in distill_refuses(folder)
    assert not (folder / STUDENT).exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train__views__seed": 1}, "train.views.seed is 1, the store has 0"),
        ({"train__views__erase": 0.2}, "train.views.erase is 0.2, the store has 0.1"),
        ({"train__labelling__precision": "bf16"}, "train.labelling.precision is bf16, the store has fp32"),
        ({"train__distill": "soft", "train__labelling__top_k": 2}, "decisions alone"),
    ],
)
def test_distill__refuses_labels_of_other_views(
    labelled: Path, tmp_path: Path, changes: dict[str, object], said: str, distill_refuses: Callable[[Path], str]
) -> None:
    assert said in distill_refuses(variant(labelled, tmp_path, **changes))


def test_distill__alpha_tau_and_the_student_ask_for_no_other_labels(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = variant(
        labelled, tmp_path, train__alpha=0.9, train__tau=1.0, train__model__depth=2, train__optimizer__lr=1.0
    )
    monkeypatch.chdir(folder)
    index = read_index(Path(f"data/index/{SET}.parquet"), "train")
    assert distill.stored(load.load("train", Train), index).facts.epochs == EPOCHS


def test_label__killed_it_goes_on_with_the_next_epoch_to_the_same_bytes(
    taught: Path, labelled: Path, tmp_path: Path
) -> None:
    folder = variant(taught, tmp_path)
    process = start(folder, "stages.label", SET)
    follow(process, "epoch 2,")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    (run_folder,) = (folder / "data/runs/label").iterdir()
    there = sorted(path.name for path in run_folder.glob("epoch-*"))
    assert [name_of(0), name_of(1)] == there[:2] and len(there) < EPOCHS and not (folder / STORED).exists()
    damaged = run_folder / name_of(0)  # and what was finished before is not believed unseen
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    output = run(folder, "stages.label", SET)
    assert "going on" in output and "asked again" in output and "epoch 1," not in output
    assert files.sha256(folder / STORED) == files.sha256(labelled / STORED)
    assert len({files.sha256(path) for path in (folder / STORED).iterdir()}) == 1 + EPOCHS  # negative control


def follow(process: "subprocess.Popen[str]", words: str) -> None:
    """Read the output until they come."""
    assert process.stdout is not None
    if not any(words in line for line in process.stdout):
        raise AssertionError(f"{words} never came")


@pytest.mark.slow
def test_label__asked_to_stop_it_says_how_to_go_on(taught: Path, labelled: Path, tmp_path: Path) -> None:
    folder = variant(taught, tmp_path)
    process = start(folder, "stages.label", SET)
    follow(process, "epoch 1,")
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert json.loads((folder / f"data/runs/label@{SET}/last_exit.json").read_text())["retryable"]
    run(folder, "stages.label", SET)
    assert files.sha256(folder / STORED) == files.sha256(labelled / STORED)
    edit(folder, {"train.views.seed": 1})  # negative control: another seed asks about other views
    assert "going on" not in run(folder, "stages.label", SET)
    (mine, _), (theirs, _) = store_of(folder), store_of(labelled)
    hard = [
        np.array(label_store.verified(where / STORED / name_of(0), facts, 0)["hard"])
        for where, facts in ((folder, mine), (labelled, theirs))
    ]
    assert (hard[0] != hard[1]).any()


def test_label__epochs_are_dealt_to_processes_and_the_bytes_are_those_of_one(
    taught: Path, labelled: Path, tmp_path: Path
) -> None:
    folder = variant(taught, tmp_path, system__ranks=3)
    output = run(folder, "stages.label", SET)
    assert "3 processes on this machine" in output
    assert {epoch for epoch in range(EPOCHS) if f"epoch {epoch}," in output} == {
        0,
        3,
    }  # the first process speaks of its own
    assert files.sha256(folder / STORED) == files.sha256(labelled / STORED)


@pytest.mark.slow
def test_label__a_process_that_dies_is_started_again_and_finished_epochs_stay(
    taught: Path, labelled: Path, tmp_path: Path
) -> None:
    folder = variant(taught, tmp_path, system__ranks=2)
    process = start(folder, "stages.label", SET)
    follow(process, "epoch 0,")
    os.kill(workers(process.pid)[1], signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert files.sha256(folder / STORED) == files.sha256(labelled / STORED)


def test_label__with_live_labels_it_says_so_and_distill_refuses_that_store(
    taught: Path, tmp_path: Path, distill_refuses: Callable[[Path], str]
) -> None:
    folder = variant(taught, tmp_path, train__labels="live")
    shutil.rmtree(folder / "data/models/teacher")  # it asks nobody
    run(folder, "stages.label", SET)
    assert [path.name for path in (folder / STORED).iterdir()] == [FACTS]
    edit(folder, {"train.labels": "stored"})
    shutil.copytree(taught / "data/models/teacher", folder / "data/models/teacher")
    assert "train.labels: live and holds no answers" in distill_refuses(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train__teacher": "none"}, "train.teacher: teacher"),
        ({"train__labelling__top_k": 4}, "top_k is 4 and the set has 3 classes"),
    ],
)
def test_label__refuses_what_cannot_be_stored(
    taught: Path, tmp_path: Path, changes: dict[str, object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = variant(taught, tmp_path, **changes)
    assert said in refusal(folder, label, monkeypatch)
    assert not (folder / "data/runs/label").exists()


def test_label__more_classes_than_16_bits_number_are_refused() -> None:
    label.must_be_storable(Facts("", {}, 1, 1, 65_535, 0))
    with pytest.raises(Refusal, match="65,536 classes"):
        label.must_be_storable(Facts("", {}, 1, 1, 65_536, 0))


@pytest.mark.slow
def test_label__soft_with_every_class_learns_what_live_soft_learns(taught: Path, tmp_path: Path) -> None:
    """Losses agree to the rounding of 16-bit logarithms; with one class of three they do not."""
    folder = variant(taught, tmp_path, train__distill="soft", train__labelling__top_k=3, train__views__epochs=2)
    curves = {}
    for labels, top_k in (("stored", 3), ("live", 3), ("stored", 1)):
        edit(folder, {"train.labels": labels, "train.labelling.top_k": top_k})
        run(folder, "stages.label", SET)
        run(folder, "stages.distill", SET)
        rows = (folder / HISTORY).read_text().splitlines()
        assert rows[0].split(",")[4] == "distillation"
        curves[labels, top_k] = np.array([[float(value) for value in row.split(",")[:5]] for row in rows[1:]])
    np.testing.assert_allclose(curves["stored", 3], curves["live", 3], rtol=2e-3)
    assert np.abs(curves["stored", 1] / np.maximum(curves["live", 3], 1e-9) - 1)[:, 4].max() > 1e-2


@pytest.mark.slow
def test_label__bf16_prints_what_it_flips_and_a_changed_partition_is_kept_on_resume(
    taught: Path, tmp_path: Path
) -> None:
    folder = variant(taught, tmp_path, train__labelling__precision="bf16", system__label_batch=40)
    output = run(folder, "stages.label", SET)
    assert "asked about 40 images at once" in output and "bf16 changes" in output
    (run_folder,) = (folder / "data/runs/label").iterdir()
    flips = json.loads((run_folder / "flips.json").read_text())
    assert flips["images"] == 384 and 0 <= flips["from_live"] < 1 and 0 <= flips["of_precision"] < 1
    edit(folder, {"system.label_batch": 0})
    (run_folder / name_of(2)).unlink()
    assert "keeping this run's forward passes {'images': 40" in run(folder, "stages.label", SET)
    facts, _ = store_of(folder)
    assert facts.parts["train.labelling.precision"] == "bf16"


@pytest.mark.parametrize(
    ("device", "found", "last"), [("cuda", "contiguous", False), ("cuda", "channels-last", True), ("cpu", "", True)]
)
def test_way_of__a_gpus_layout_is_measured_once_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, found: str, last: bool
) -> None:
    """By nobody on a CPU, where a compiled teacher wants its channels last. The teacher stands for one on a GPU."""
    weight = SimpleNamespace(device=torch.device(device), shape=(8, 3, 3, 3))
    teacher = SimpleNamespace(parameters=lambda: iter([weight]))
    answering, system = SimpleNamespace(precision="bf16"), SimpleNamespace(label_batch=0, label_compile=True)
    measured: list[int] = []
    monkeypatch.setattr(kernel_memory, "place", lambda: tmp_path / "memory.json")
    monkeypatch.setattr(labelling, "layout", lambda *_: measured.append(1) or found)
    monkeypatch.setattr(kernels, "refuse_without_compiler", lambda _: None)
    for _ in range(2):
        way = label.way_of(answering, Run(tmp_path, "x"), system, teacher, 16)  # type: ignore[arg-type]
        assert way == Way("bf16", 0, last, True)
    assert len(measured) == (device == "cuda")
