"""What whoever started a stage learns from it: in a folder of its own, and never at the stage's cost."""

import json
import os
from pathlib import Path

import pytest

from stages.lib.core import tell


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(tell.TELL, str(tmp_path))
    return tmp_path / "progress.json"


def test_progress__says_how_far_a_stage_is(told: Path, tmp_path: Path) -> None:
    tell.Progress("distill", 40, tmp_path / "run").say(10, 12.5, {"loss": 0.5, "images_per_second": 800.0})
    assert json.loads(told.read_text()) == {
        "title": "distill",
        "step": 10,
        "steps": 40,
        "seconds_left": 12.5,
        "numbers": {"loss": 0.5, "images_per_second": 800.0},
        "folder": str(tmp_path / "run"),
    }


def test_progress__at_most_once_a_second_but_always_the_end(told: Path, tmp_path: Path) -> None:
    progress = tell.Progress("distill", 40, tmp_path)
    for step in range(40):
        progress.say(step, 1.0, {})
    assert json.loads(told.read_text())["step"] == 0
    progress.say(40, 0.0, {})
    assert json.loads(told.read_text())["step"] == 40


def test_progress__nobody_listens_or_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(tell.TELL, raising=False)
    tell.Progress("distill", 40, tmp_path).say(1, 1.0, {})
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("where a folder should be")
    monkeypatch.setenv(tell.TELL, str(tmp_path / "file"))
    tell.Progress("distill", 40, tmp_path).say(1, 1.0, {})
    assert (tmp_path / "file").read_text() == "where a folder should be"


def test_speaks__the_first_of_a_chain_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(tell.SPEAKER, raising=False)
    monkeypatch.setenv(tell.SPEAKER, str(os.getpid()))
    tell.speak()
    assert tell.speaks()
    monkeypatch.setenv(tell.SPEAKER, "1")
    tell.speak()
    assert not tell.speaks()
