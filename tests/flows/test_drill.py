"""The drill: real in its short form, and able to fail."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows import drill, drill_faults, drill_ground
from flows.drill_faults import Fault, Found
from flows.drill_ground import Broken, Ground
from stages.lib.core import load
from stages.lib.params.everything import Everything
from tests.workspace import ROOT, environment

FORGETFUL = (
    "    def restore(self, device: torch.device) -> dict[str, Any] | None:\n        return None\n\n    def _restore("
)


def drilled(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "flows.drill", "--folder", str(folder), *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=500)


def started_by(folder: Path) -> list[int]:
    return Ground(folder).left()


def test_short_form__holds_on_this_machine_and_leaves_nothing(tmp_path: Path) -> None:
    done = drilled(tmp_path / "drills", "--short")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == sum(fault.short for fault in drill_faults.FAULTS)
    assert "NOT:" not in done.stdout and "nothing is left behind" in done.stdout
    assert not (tmp_path / "drills").exists() and not started_by(tmp_path / "drills")


@pytest.mark.slow
def test_whole__holds_on_this_machine(tmp_path: Path) -> None:
    done = drilled(tmp_path / "drills")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 of 8 promises held" in done.stdout


@pytest.mark.slow
def test_control__a_product_that_forgets_its_checkpoints_does_not_pass(tmp_path: Path) -> None:
    """A trainer that starts anew instead of going on reaches the same weights, and is found out nevertheless."""
    with drill_ground.ground(tmp_path / "drills") as ground:
        path = ground.root / "stages/lib/training/checkpoint.py"
        text = path.read_text()
        assert text.count("    def restore(") == 1
        path.write_text(text.replace("    def restore(", FORGETFUL, 1))
        found = drill_faults.trainer_killed(ground)
    assert found.problems == ('nothing said "continuing after step"',), found


def fault(found: Found | Exception, short: bool = True) -> Fault:
    """One that ends so without doing anything."""

    def strike(_: Ground) -> Found:
        if isinstance(found, Exception):
            raise found
        return found

    return Fault("a fault", "all goes well", strike, short)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ground that needs no preparation."""
    monkeypatch.setattr(Ground, "prepare", lambda _: None)


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    ("found", "held", "row"),
    [
        (Found("it went on", (), 1.25), True, "| a fault | all goes well | it went on | 1.2 s |"),
        (Found("other | weights", ("other | weights",), 2.0), False, "| NOT: other / weights | 2.0 s |"),
        (Broken("nothing ever came"), False, "| NOT: could not be seen: nothing ever came | - |"),
    ],
)
def test_hold__says_what_happened_and_whether_it_should(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, found: Found | Exception, held: bool, row: str
) -> None:
    caplog.set_level(logging.INFO)
    assert drill.hold(tmp_path / "drills", [fault(found)]) is held
    assert row in caplog.text
    assert f"{int(held)} of 1 promises held" in caplog.text


@pytest.mark.usefixtures("bare")
def test_hold__a_process_that_is_left_is_found_and_ended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    left: list[subprocess.Popen[bytes]] = []

    def strike(ground: Ground) -> Found:
        told = {**os.environ, "TUTELAGE_TELL": str(ground.folder / "told/1")}
        left.append(subprocess.Popen(["sleep", "100"], env=told))
        return Found("well", (), 0.0)

    assert not drill.hold(tmp_path / "drills", [Fault("a fault", "all goes well", strike, short=True)])
    assert f"still running afterwards: {left[0].pid}" in caplog.text
    assert left[0].wait(10) == -signal.SIGKILL


@pytest.mark.usefixtures("bare")
def test_ground__of_a_killed_drill_goes_with_the_next_and_a_live_one_stays(tmp_path: Path) -> None:
    home = tmp_path / "drills"
    (dead := home / "drill-dead").mkdir(parents=True)
    (dead / "lease").touch()
    (dead / "clone").mkdir()
    with drill_ground.ground(home) as one, drill_ground.ground(home) as other:
        assert not dead.exists() and one.folder.is_dir() and other.folder.is_dir()
    assert not home.exists()


def test_only__a_word_that_fits_nothing_is_refused_with_those_that_would() -> None:
    assert [one.name for one in drill.chosen(False, ["S3"])] == ["S3 answers 503 and cuts bodies"]
    with pytest.raises(Broken, match=r"no fault has 'S4' in its name; there are: the trainer is killed"):
        drill.chosen(False, ["S4"])


def test_main__that_cannot_be_held_leaves_with_two(tmp_path: Path) -> None:
    done = drilled(tmp_path, "--only", "meteor")
    assert done.returncode == 2 and "'meteor'" in done.stdout


@pytest.mark.parametrize(
    "params", ["params.yaml", *sorted(f"presets/{path.name}" for path in (ROOT / "presets").glob("*.yaml"))]
)
def test_copy__has_parameters_that_hold_together_whatever_the_user_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, params: str
) -> None:
    clone = tmp_path / "clone"
    for name in drill_ground.COPIED:
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).symlink_to(ROOT / name)
    (clone / "params.yaml").write_text((ROOT / params).read_text())
    monkeypatch.setattr(drill_ground, "ROOT", clone)
    ground = Ground(tmp_path / "ground")
    ground._copy()
    monkeypatch.chdir(ground.root)
    found = load.whole(Everything)
    assert (found.sets.main, found.pretrain.epochs) == (drill_ground.SET, drill_ground.RECIPE["pretrain"]["epochs"])
    assert found.system.checkpoint_seconds == 0
