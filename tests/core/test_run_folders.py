"""Old run folders: listed, removed, and never one that a process holds."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.lib.core import run_folders, runs
from stages.lib.core.outcome import Refusal
from tests.conftest import ROOT

HOLD = (
    "import sys, time; from pathlib import Path; from stages.lib.core import runs\n"
    "with runs.open_run('a', None, [], []): print('held', flush=True); time.sleep(60)"
)
START_AGAIN = """
import sys, time
from pathlib import Path
from stages.lib.core import runs
if sys.argv[1] == "careless":
    runs._is = lambda *_: True
lost, folders = 0, set()
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    try:
        with runs.open_run("a", None, [], []) as run:
            (run.folder / "work").write_text("x")
            folders.add((run.folder / "lease").stat().st_ino)
            time.sleep(0.001)
            lost += (run.folder / "work").read_text() != "x"
    except FileNotFoundError:
        lost += 1
print(lost, len(folders))
"""


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


def raced(kind: str, seconds: float) -> tuple[int, int, int]:
    """(times a run lost what it wrote, folders it had, folders removed) while one starts and ends and another removes."""
    process = started(START_AGAIN, kind, str(seconds))
    folder = Path(os.environ["TUTELAGE_RUNS"]) / "a" / runs.identity("a", [], [])[0]
    removed = 0
    while process.poll() is None:
        removed += run_folders.remove(folder)
    assert process.stdout is not None
    lost, had = map(int, process.stdout.read().split())
    return lost, had, removed


@pytest.mark.usefixtures("project")
def test_prune__racing_a_run_that_starts_costs_it_nothing() -> None:
    lost, had, removed = raced("careful", 1.5)
    assert lost == 0 and had > 1 and removed > 1


@pytest.mark.usefixtures("project")
def test_prune__racing_a_run_that_trusts_any_lease_is_seen() -> None:
    """Negative control: a run that takes the lease of a folder which has gone works in no folder."""
    assert raced("careless", 1.5)[0] > 0


def test_main__an_unknown_command_is_named() -> None:
    with pytest.raises(SystemExit, match="unknown command 'purge'"):
        run_folders.main("purge")
