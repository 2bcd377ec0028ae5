"""Being stopped: one reason is one signal, and a second one ends at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import ROOT

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


def stage(folder: Path, *before: str) -> "tuple[subprocess.Popen[bytes], int]":
    """A process that saves for half a second, perhaps below another one, and its id once it works."""
    folder.mkdir()
    command = [sys.executable, "-c", *before, STAGE, str(folder)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
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
