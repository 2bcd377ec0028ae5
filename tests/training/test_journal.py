"""metrics.jsonl: after a resume no row stands twice and none is cut short."""

import json
from pathlib import Path

from stages.lib.core.runs import Run
from stages.lib.training.journal import Journal, forget_after


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_forget_after__takes_back_rows_past_the_checkpoint_and_a_cut_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10}\n{"step": 20}\n{"step": 30}\n{"step": 4')
    forget_after(path, 20)
    assert steps(path) == [10, 20]


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
