"""A process that imports what stages import, once, and forks: what runs in a fork starts at once, and dies for real.

    forks.run("tests.killed:stage", "stages.distill", ["digits-7-9"], None, folder=project)

calls a function of a test module in a fork of its own. Nothing of the process that runs the tests (threads, servers, patches) is in
it, and a SIGKILL, a limit of the kernel or another user's rights meet nobody else.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.workspace import ROOT, environment

HEAVY = ("torch", "timm", "pandas", "stages.lib.training.classifier", "stages.lib.training.transformer_kernels")


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a fork ended: exit code, or minus the signal; and all it said."""

    code: int
    output: str


class Forks:
    """The end in the process that runs the tests."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forks"],
            cwd=ROOT,
            env=environment() | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, function: str, *arguments: Any, folder: Path, kill_after: float = 240.0) -> Ended:
        """module:name(*arguments) with `folder` as the working directory, and SIGKILL if it lives for kill_after seconds."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with tempfile.NamedTemporaryFile("r", suffix=".txt", errors="replace") as said:
            request = {"function": function, "arguments": arguments, "folder": str(folder), "said": said.name}
            self._process.stdin.write(json.dumps(request | {"seconds": kill_after}) + "\n")
            self._process.stdin.flush()
            code = json.loads(self._process.stdout.readline())
            output = said.read()
        return Ended(code, output)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    one = Forks()
    yield one
    one.close()


def serve() -> None:
    """One fork a line of stdin; its exit code, or minus the signal it died of, is a line of stdout."""
    for name in HEAVY:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            _be(request)
        sys.stdout.write(f"{_waited(child, request['seconds'])}\n")
        sys.stdout.flush()


def _waited(child: int, seconds: float) -> int:
    """Its exit code; SIGKILL once its time is over."""
    end, killed = time.monotonic() + seconds, False
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if not killed and time.monotonic() >= end:
            os.kill(child, signal.SIGKILL)
            killed = True
        time.sleep(0.0002 if seconds < 1 else 0.005)


def _be(request: dict[str, Any]) -> None:
    """The fork: call the function, leave with what it says."""
    code = 1
    try:
        said = os.open(request["said"], os.O_WRONLY | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(said, stream)
        os.chdir(request["folder"])
        module, _, name = request["function"].partition(":")
        getattr(importlib.import_module(module), name)(*request["arguments"])
        code = 0
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
    os._exit(0)  # torch takes its time to leave
