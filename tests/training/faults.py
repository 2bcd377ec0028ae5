"""What runs in a fork (tests/forks.py): a process that saves checkpoints while something is wrong."""

import ctypes
import os
import resource
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from stages.lib.core import outcome
from stages.lib.training.checkpoint import Keeper

VALUES = 1 << 18  # a megabyte


def state(step: int) -> dict[str, Any]:
    """Of a run after `step` steps: what is in it tells which."""
    return {"step": step, "weights": torch.full((VALUES,), float(step)), "more": [torch.arange(step % 7 + 1)]}


def save_until_killed(folder: str, announce: str, share: float) -> None:
    """Go on from the newest checkpoint and save after every step, until a child of ours kills us.

    share: when, in times that a save takes here and now. announce: a file that always says how many steps were saved.
    """
    keeper = Keeper(Path(folder), every_seconds=0, keep=2)
    found = keeper.restore(torch.device("cpu"))
    step = 0 if found is None else found["step"]
    told = os.open(announce, os.O_WRONLY)
    while True:
        os.pwrite(told, step.to_bytes(8, "little"), 0)
        began, step = time.monotonic(), step + 1
        keeper.save(step, state(step))
        if share:
            _kill_after(share * (time.monotonic() - began))
            share = 0.0


def _kill_after(seconds: float) -> None:
    victim = os.getpid()
    if not os.fork():
        time.sleep(seconds)
        os.kill(victim, signal.SIGKILL)
        os._exit(0)


def save_as_a_stage(folder: str, step: int) -> None:
    """Save once, and leave as a stage leaves."""
    os.environ["TUTELAGE_RUNS"] = str(Path(folder).parent / "runs")
    outcome.run("stage", lambda: Keeper(Path(folder), every_seconds=0, keep=2).save(step, state(step)))


def save_under_a_limit(folder: str, step: int, most: int) -> None:
    """No file may become larger than `most` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    save_as_a_stage(folder, step)


def save_as_nobody(folder: str, step: int) -> None:
    """As a user who may read but not write there."""
    os.setgid(65534)
    os.setuid(65534)
    save_as_a_stage(folder, step)


def save_on_a_small_disk(folder: str, step: int, kib: int) -> None:
    """On a file system of `kib` KiB, mounted in this process alone; what is saved is copied there first, and back at the end.

    Leaves with 77 where a process may not mount one.
    """
    disk = Path(folder).parent / "disk"
    disk.mkdir(exist_ok=True)
    if ctypes.CDLL(None).unshare(0x00020000):  # CLONE_NEWNS, linux/sched.h
        raise SystemExit(77)
    for command in (
        ["mount", "--make-rprivate", "/"],
        ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", str(disk)],
        ["cp", "-a", folder, str(disk / "run")],
    ):
        if subprocess.run(command).returncode:
            raise SystemExit(77)
    try:
        save_as_a_stage(str(disk / "run"), step)
    finally:
        subprocess.run(["cp", "-aT", str(disk / "run"), folder], check=True)
