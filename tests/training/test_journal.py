"""metrics.jsonl: after a resume no row stands twice and none is cut short."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from stages.lib.core.runs import Run
from stages.lib.training.journal import Journal, forget_after, speed


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_forget_after__takes_back_rows_past_the_checkpoint_and_a_cut_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10}\n{"step": 20}\n{"step": 30}\n{"step": 4')
    forget_after(path, 20)
    assert steps(path) == [10, 20]


@pytest.mark.parametrize(
    "torn", [b"\0\0\0\0\n", b'{"step": 4\n', b"[]\n", b'{"loss": 1}\n', b'\xff\xfe{"step": 1}\n', b"7\n"]
)
def test_forget_after__what_a_power_cut_left_is_no_row(tmp_path: Path, torn: bytes) -> None:
    """Blocks that were never written read as zeros, or as what stood there before."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 10}\n' + torn + b'{"step": 20}\n')
    forget_after(path, 20)
    assert steps(path) == [10, 20]


def test_settle__rows_are_on_disk_when_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed, fsync = list[str](), os.fsync

    def watched(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        flushed.append(path.read_text() if path.is_file() else "")
        fsync(descriptor)

    with Journal(Run(tmp_path, "x"), "t", 40, 1.0).start(0) as journal:
        journal.row(10, {"loss": 0.5})
        monkeypatch.setattr(os, "fsync", watched)
        journal.settle()
        assert flushed == ['{"step": 10, "loss": 0.5}\n']


def test_journal__resumed_rows_follow_without_doubles(tmp_path: Path) -> None:
    run = Run(tmp_path, "x")
    with Journal(run, "t", 40, 1.0).start(0) as journal:
        for step in (10, 20, 30):
            journal.row(step, {"loss": 1.0 / step})
    with Journal(run, "t", 40, 1.0).start(20) as journal:  # the checkpoint was at 20
        for step in (30, 40):
            journal.row(step, {"loss": 1.0 / step})
    assert steps(tmp_path / "metrics.jsonl") == [10, 20, 30, 40]
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_journal__tensorboard_shows_rows_what_validation_saw_and_pictures(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Journal(Run(tmp_path, "x"), "t", 40, 1.0).start(0) as journal:
        journal.row(10, {"loss": 0.5})
        journal.seen(10, {"val_top1": 75.0})
        journal.picture(10, "reconstructions", np.zeros((4, 4, 3), np.uint8))
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in found.Scalars("val_top1")] == [(10, 75.0)]
    assert found.Tags()["scalars"] == ["loss", "val_top1"] and found.Tags()["images"] == ["reconstructions"]
    assert "val_top1" not in (tmp_path / "metrics.jsonl").read_text()  # history.csv has it, once


def test_journal__tensorboard_too_has_every_row_once_after_a_resume(tmp_path: Path) -> None:
    """A new file of events takes back what earlier ones said past the checkpoint, and not the checkpoint's own row."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first in (0, 20):  # killed after 30; the checkpoint was at 20
        with Journal(Run(tmp_path, "x"), "t", 40, 1.0).start(first) as journal:
            for step in range(first + 10, 40, 10):
                journal.row(step, {"loss": float(first + step)})
        [path.rename(path.with_name(f"{path.name}.{first}")) for path in (tmp_path / "tensorboard").glob("events*v2")]
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(10, 10.0), (20, 20.0), (30, 50.0)]


def test_journal__a_run_that_went_back_has_a_row_for_it_once(tmp_path: Path) -> None:
    """Rows past the epoch's end are taken back; killed before or after the row was written, it stands there once."""
    run, path = Run(tmp_path, "x"), tmp_path / "metrics.jsonl"
    with Journal(run, "t", 40, 1.0).start(0) as journal:
        for step in (5, 6):
            journal.row(step, {"loss": 1.0})
        journal.go_back(5, [7])
        journal.row(6, {"loss": 2.0})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    told = {"step": 5, "rewind": 1, "diverged_at": 7}
    assert rows == [{"step": 5, "loss": 1.0}, told, {"step": 6, "loss": 2.0}]
    with Journal(run, "t", 40, 1.0).start(5, [7]):
        pass
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows[:2]
    with Journal(run, "t", 40, 1.0).start(5):  # from a checkpoint that is older than the rewind
        pass
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows[:1]
    with Journal(run, "t", 40, 1.0).start(5, [7]):
        pass
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows[:2]


def test_journal__tells_whoever_listens_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_TELL", str(tmp_path / "told"))
    (tmp_path / "x").mkdir()
    with Journal(Run(tmp_path / "x", "x"), "t", 40, 1e6).start(20) as journal:
        told = json.loads((tmp_path / "told/progress.json").read_text())
        assert (told["title"], told["step"], told["steps"], told["seconds_left"]) == ("t", 20, 40, None)
        journal.progress(40, 0.5, {"images_per_second": 800.0, "waiting_share": 0.1})
    told = json.loads((tmp_path / "told/progress.json").read_text())
    assert told["step"] == 40 and told["seconds_left"] == 0.0 and told["folder"] == str(tmp_path / "x")
    assert told["numbers"] == {"loss": 0.5, "images_per_second": 800.0, "waiting_share": 0.1}


def test_speed__says_why_training_waits() -> None:
    rates = {"images_per_second": 812.4, "waiting_share": 0.43}
    assert speed(rates) == "812 images/s, 43% of the time waiting for data"
    rates |= {"mfu": 0.517, "peak_bytes": 3.21e9}
    assert speed(rates) == "812 images/s, 43% of the time waiting for data, MFU 52%, 3.2 GB"
    del rates["mfu"], rates["peak_bytes"]
    costs = {"read_ms": 0.01, "decode_ms": 0.6, "augment_ms": 0.085}
    assert speed(rates | costs).endswith("data (ms a view and thread: read 0.01, decode 0.60, augment 0.09)")
