"""Where a benchmark ran: cores, memory and the packages that both sides are made of."""

import fcntl
import importlib.metadata
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from stages.lib.core.outcome import Refusal

PACKAGES = ("torch", "torchvision", "timm", "pillow", "numpy", "webdataset")


def pin(cores: int) -> None:
    """Keep this process, its threads and the workers it will start on `cores` cores. Raises Refusal where there are fewer."""
    allowed = sorted(os.sched_getaffinity(0))
    if not 1 <= cores <= len(allowed):
        raise Refusal(f"--cores {cores}: this machine lets the benchmark use {len(allowed)}; take 1 to {len(allowed)}")
    os.sched_setaffinity(0, allowed[:cores])
    torch.set_num_threads(cores)


@contextmanager
def alone() -> Iterator[None]:
    """One benchmark at a time on a machine: two would measure each other. Waits, and says so."""
    with (Path(tempfile.gettempdir()) / f"tutelage-benchmark-{os.getuid()}.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write("another benchmark runs on this machine; waiting for its end\n")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def description() -> str:
    """One line: processor, cores it has, memory, accelerator, versions."""
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    return (
        f"{_processor()}, {os.cpu_count()} cores, {gib:.0f} GiB, {_accelerator()}, Linux {platform.release()}; "
        f"Python {platform.python_version()}, {versions}"
    )


def _version(package: str) -> str:
    """Of an installed package; not every benchmark needs all of them, and a borrowed GPU machine may lack some."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _accelerator() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def _processor() -> str:
    """The processor's name. Where a hypervisor hides it, family and model say more than it does."""
    facts = dict.fromkeys(("model name", "cpu family", "model"), "?")
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in facts:
            facts[key.strip()] = value.strip()
    return f"{facts['model name']} (family {facts['cpu family']}, model {facts['model']})"
