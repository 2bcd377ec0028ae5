"""Being stopped: one reason is one signal, and a second one ends at once."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.flows.staged import until

PARENT = """
import subprocess, sys, threading, time
for _ in range(30):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
subprocess.run([sys.executable, "-c", sys.argv[1], *sys.argv[2:]])
"""
STAGE = """
import os, sys, time
from stages.lib.core.signals import Watch
watch = Watch()
open(sys.argv[1] + "/pid", "w").write(str(os.getpid()))
while watch.signum is None:
    time.sleep(0.01)
time.sleep(0.5)
open(sys.argv[1] + "/saved", "w").close()
"""


SHELL_BETWEEN = """
import subprocess, sys
subprocess.run(["dash", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", *sys.argv[1:]])
"""


def stage(folder: Path, *before: str, **variables: str) -> "tuple[subprocess.Popen[bytes], int]":
    """A process that saves for half a second, perhaps below another one, and its id once it works."""
    folder.mkdir()
    command = [sys.executable, "-c", *before, STAGE, str(folder)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT), **variables})
    end = time.monotonic() + 30
    while not ((folder / "pid").exists() and (folder / "pid").read_text()) and time.monotonic() < end:
        time.sleep(0.01)
    return process, int((folder / "pid").read_text())


def test_watch__a_parent_with_many_threads_dies_once(tmp_path: Path) -> None:
    """The kernel hands children from thread to thread as these end, and gives the signal each time."""
    folders = [tmp_path / str(number) for number in range(6)]
    for parent, _ in [stage(folder, PARENT) for folder in folders]:
        parent.terminate()
        parent.wait()
    end = time.monotonic() + 20
    while not all((folder / "saved").exists() for folder in folders) and time.monotonic() < end:
        time.sleep(0.05)
    assert all((folder / "saved").exists() for folder in folders)


def test_watch__a_second_signal_ends_at_once(tmp_path: Path) -> None:
    process, pid = stage(tmp_path / "0")
    os.kill(pid, signal.SIGTERM)
    time.sleep(0.2)
    os.kill(pid, signal.SIGTERM)
    assert process.wait(20) == -signal.SIGTERM and not (tmp_path / "0/saved").exists()


@pytest.mark.skipif(shutil.which("dash") is None, reason="no dash, the shell of Debian's /bin/sh")
def test_watch__a_shell_between_dvc_and_its_stage_hides_no_death(tmp_path: Path) -> None:
    """dash starts the stage instead of becoming it, and outlives DVC. Control: without DVC nobody watches the one above a shell."""
    (dvc, _), (person, other) = (
        stage(tmp_path / "0", SHELL_BETWEEN, DVC_STAGE="work"),
        stage(tmp_path / "1", SHELL_BETWEEN),
    )
    for parent in (dvc, person):
        parent.kill()
        parent.wait()
    until((tmp_path / "0/saved").exists)
    time.sleep(0.5)
    assert not (tmp_path / "1/saved").exists() and os.path.exists(f"/proc/{other}")
    os.kill(other, signal.SIGTERM)
    until((tmp_path / "1/saved").exists)


@pytest.mark.skipif(shutil.which("dash") is None, reason="no dash, the shell of Debian's /bin/sh")
def test_watch__told_and_left_alone_by_dvc_at_once_is_told_once(tmp_path: Path) -> None:
    """SIGTERM to DVC and to its stage, as `kill -- -group` sends it: the second reason is not a second signal."""
    folders = [tmp_path / str(number) for number in range(6)]
    for parent, pid in [stage(folder, SHELL_BETWEEN, DVC_STAGE="work") for folder in folders]:
        os.kill(pid, signal.SIGTERM)
        parent.kill()
        parent.wait()
    until(lambda: all((folder / "saved").exists() for folder in folders))
