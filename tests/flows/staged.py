"""A small repository with real DVC and one stage that behaves as ours do, for drills that kill what runs in it.

The stage is a Python file beside this one's text: it takes a lease, saves when asked to stop, and ends through outcome.run. What
else it shall do stands in variables: SAVE_SECONDS it takes to save, STUBBORN (obeys no signal), CHILD (has a process in a session
of its own), STEPS of 0.05 s.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flows import child
from flows.child import Child

ROOT = Path(__file__).parents[2]
STAGE = """
import fcntl, os, signal, subprocess, sys, time
from pathlib import Path
from stages.lib.core import outcome
from stages.lib.core.outcome import Refusal
from stages.lib.core.signals import Stopped, Watch

def main():
    if os.environ.get("STUBBORN"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signum = lambda: None
    else:
        watch = Watch()
        signum = lambda: watch.signum
    lease = open("lease", "a+")
    try:
        fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Refusal("already running")
    saved = Path("checkpoint")
    step = int(saved.read_text()) if saved.exists() else 0
    if os.environ.get("CHILD"):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"], start_new_session=True)
    Path("pid").write_text(str(os.getpid()))
    print("working from step", step, flush=True)
    while step < int(os.environ.get("STEPS", "400")):
        time.sleep(0.05)
        step += 1
        if signum() is not None:
            time.sleep(float(os.environ.get("SAVE_SECONDS", "0.3")))
            saved.write_text(str(step))
            raise Stopped(signum())
    Path("out").write_text("done")

outcome.run("work", main)
"""
DVC_YAML = "stages:\n  work:\n    cmd: python work.py\n    deps: [work.py]\n    outs: [out]\n"
REPRO = ["dvc", "--wait-for-lock", "repro", "-s", "work"]
STAND_IN = [sys.executable, "work.py"]
"""The stage without DVC, where DVC does not matter: a second quicker."""


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Git and DVC with one stage, `work`; made once, as that takes a second or two."""
    folder = tmp_path_factory.mktemp("staged") / "repository"
    folder.mkdir()
    (folder / "work.py").write_text(STAGE)
    (folder / "dvc.yaml").write_text(DVC_YAML)
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder, check=True, env=child.environment({}, folder))
    return folder


@pytest.fixture
def repository(template: Path, tmp_path: Path) -> Path:
    """A copy of it for one test."""
    return Path(shutil.copytree(template, tmp_path / "repository"))


def variables(folder: Path, **more: str) -> dict[str, str]:
    """For the stage in this folder."""
    return {"PYTHONPATH": str(ROOT), "TUTELAGE_RUNS": str(folder / "runs"), **more}


def staged(folder: Path, command: list[str], said: list[str] | None = None, **options: object) -> Child:
    """A child that runs the stage; `said` gets its lines. options: of Child, and the stage's variables in capitals."""
    capitals = {key: str(value) for key, value in options.items() if key.isupper()}
    rest = {key: value for key, value in options.items() if not key.isupper()}
    on_line = (lambda _: None) if said is None else said.append
    return Child(command, folder, folder / "told", on_line, variables(folder, **capitals), **rest)  # type: ignore[arg-type]


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for something that takes a moment."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def working(folder: Path) -> int:
    """Wait until the stage works; its process id."""
    until((folder / "pid").exists)
    until((folder / "pid").read_text)
    return int((folder / "pid").read_text())


def left(folder: Path) -> list[int]:
    """Processes that belong to the stage in this folder."""
    return child.with_variable(child.TELL, str(folder / "told"))


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)
