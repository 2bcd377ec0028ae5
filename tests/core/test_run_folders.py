"""Old run folders: listed, removed, and never one that a process holds."""

import fcntl
import os
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.lib.core import files, run_folders, runs
from stages.lib.core.outcome import Refusal
from tests.conftest import ROOT

HOLD = (
    "import sys, time; from pathlib import Path; from stages.lib.core import runs\n"
    "with runs.open_run('a', None, [], []): print('held', flush=True); time.sleep(60)"
)
START_AGAIN = """
import time
from pathlib import Path
from stages.lib.core import runs
lost = fresh = 0
while not Path("stop").exists():
    try:
        with runs.open_run("a", None, [], []) as run:
            fresh += not (run.folder / "work").exists()
            (run.folder / "work").write_text("x")
            time.sleep(0.001)
            lost += (run.folder / "work").read_text() != "x"
    except FileNotFoundError:
        lost += 1
print(lost, fresh)
"""
TIMES = 5
"""Folders that are removed while a run starts again and again."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one declared stage."""
    (tmp_path / "dvc.yaml").write_text("stages:\n  a:\n    cmd: python -m stages.a\n    deps: []\n")
    (tmp_path / "params.yaml").write_text("versions: {}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUTELAGE_RUNS", str(tmp_path / "runs"))
    return tmp_path


def started(code: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(ROOT), "TUTELAGE_RUNS": os.environ["TUTELAGE_RUNS"]},
    )


@pytest.fixture
def held(project: Path) -> Iterator[Path]:
    """A run folder that a real process holds, older than all else."""
    process = started(HOLD)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    (folder,) = (project / "runs/a").iterdir()
    for path in (*folder.iterdir(), folder):
        os.utime(path, (1e9, 1e9))
    yield folder
    process.kill()
    process.wait()


def make(project: Path, name: str, stage: str = "a", days: float = 0.0, steps: tuple[int, ...] = ()) -> Path:
    """A run folder that nobody holds."""
    folder = project / "runs" / stage / name
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "identity.json").write_text('{"inputs": {"data/index/digits.parquet": "1"}}')
    (folder / "lease").write_text("process 1 on elsewhere")
    for step in steps:
        (folder / f"checkpoints/step-{step:010d}.pt").write_bytes(b"x" * 2**20)
    then = time.time() - 86400 * days
    for path in folder.rglob("*"):
        os.utime(path, (then, then))
    return folder


def lines(command: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    run_folders.main(command)
    return capsys.readouterr().out.splitlines()


def test_list__says_age_size_how_far_and_whose(project: Path, held: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(project, "0123456789abcdef", days=3, steps=(10, 20))
    make(project, "fedcba9876543210", stage="b@x")
    said = lines("list", capsys)
    assert len(said) == 3
    assert (
        "a " in said[0] and "0123456789abcdef       2.0 MiB     3 d ago  checkpoint after step 20 of digits" in said[0]
    )
    assert (
        said[0].endswith("; newest of its stage") and "b@x" in said[2] and "0 s ago  no checkpoint of digits" in said[2]
    )
    assert held.name in said[1] and "in use by process" in said[1] and f" on {os.uname().nodename}" in said[1]
    assert len(list((project / "runs").glob("*/*/identity.json"))) == 3


def test_prune__removes_what_is_old_and_says_so(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new, other = make(project, "old", days=3, steps=(1,)), make(project, "new"), make(project, "only", stage="b")
    said = lines("prune", capsys)
    assert not old.exists() and new.exists() and other.exists()
    assert any("old" in line and line.endswith("; removed") for line in said)
    assert said[-1] == f"removed 1 run folder(s) from {project / 'runs'}, 1.0 MiB"
    assert lines("prune", capsys)[-1].startswith("removed 0 run folder(s)")


def test_prune__never_touches_what_a_process_holds(
    project: Path, held: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The oldest of its stage, but a real process works there; once that is dead, it goes (negative control)."""
    make(project, "new")
    before = sorted(held.iterdir())
    assert any("in use by process" in line for line in lines("prune", capsys))
    assert sorted(held.iterdir()) == before and not run_folders.remove(held)
    with pytest.raises(Refusal, match="already running"), runs.open_run("a", None, [], []):
        pass
    holder = int(run_folders.holder(held).split()[1])
    os.kill(holder, 9)
    while run_folders.holder(held):
        time.sleep(0.01)
    lines("prune", capsys)
    assert not held.exists()


def test_prune__takes_away_what_one_that_was_killed_has_left(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = make(project, f"old.99{run_folders.REMOVED}")
    assert lines("list", capsys) == []
    lines("prune", capsys)
    assert not left.exists()


def test_prune__racing_a_run_that_starts_costs_it_nothing(project: Path) -> None:
    """One process opens and leaves its run as fast as it can, this one removes the folder whenever nobody holds it."""
    process = started(START_AGAIN)
    folder = project / "runs/a" / runs.identity("a", [], [])[0]
    removed, end = 0, time.monotonic() + 30
    while removed < TIMES and time.monotonic() < end:
        removed += run_folders.remove(folder)
    (project / "stop").touch()
    output, _ = process.communicate(timeout=30)
    lost, fresh = map(int, output.split())
    assert lost == 0 and removed == TIMES and fresh > 1  # the run met a folder that was new, again and again


def removed_as_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the folder be removed after a starting run has opened its lease, before it has it."""
    flock, folder = fcntl.flock, files.root() / "a" / runs.identity("a", [], [])[0]
    left = [True]

    def late(descriptor: int, how: int) -> None:
        if left.pop() if left else False:
            assert run_folders.remove(folder)
        flock(descriptor, how)

    monkeypatch.setattr(runs, "fcntl", types.SimpleNamespace(flock=late, LOCK_EX=fcntl.LOCK_EX, LOCK_NB=fcntl.LOCK_NB))


@pytest.mark.usefixtures("project")
def test_prune__between_a_runs_opening_its_lease_and_having_it(monkeypatch: pytest.MonkeyPatch) -> None:
    removed_as_it_starts(monkeypatch)
    with runs.open_run("a", None, [], []) as run:
        assert (run.folder / "lease").exists() and (run.folder / "identity.json").exists()
        assert run_folders.holder(run.folder) and not run_folders.remove(run.folder)


@pytest.mark.usefixtures("project")
def test_prune__a_run_that_trusts_any_lease_loses_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: a lease of a folder that has gone holds nobody off."""
    removed_as_it_starts(monkeypatch)
    monkeypatch.setattr(runs, "is_at", lambda *_: True)
    with runs.open_run("a", None, [], []) as run:
        assert not (run.folder / "lease").exists() and not run_folders.holder(run.folder)
        with runs.open_run("a", None, [], []) as other:  # two writers
            assert other.folder == run.folder


def test_main__an_unknown_command_is_named() -> None:
    with pytest.raises(SystemExit, match="unknown command 'purge'"):
        run_folders.main("purge")
