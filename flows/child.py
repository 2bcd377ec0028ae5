"""Runs one command for a flow: streams what it says, says how it ended, and stops it surely. Used from the threads of tasks.

Between the flow and its command stands flows/leash.py, which ends only when the last process of the command has gone. So does
Child.run(), and then the same command can be started again at once. A task's thread cannot be interrupted: the flow's main
thread calls stop_all(). If the flow is killed outright, the leash notices by itself.

A stage says how it ended in <tell>/last_exit.json (stages/lib/core/outcome.py), since DVC hides exit codes. Where that does not
tell, because the stage was killed outright or DVC itself failed, the last lines of the output have to.
"""

import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows import leash
from flows.lines import Lines

log = logging.getLogger(__name__)
TELL = "TUTELAGE_TELL"
HANDING_ON_SECONDS = 10.0
"""For lines that still wait when the command has ended."""
NOTICE_SECONDS = 2.0
"""DVC dies of SIGTERM at once, so where it is still there that long after its leash, nobody has told it (seen once in CI, where the
stage then ran to its end). The stage itself is never told twice: a second signal would end it without its checkpoint."""
STOPPED = 130
KILLED = re.compile(r"exited with (-\d+|1[3-9]\d|12[89])\b")
"""As DVC says that its command died of a signal: Popen's -9, or a shell's 137."""
PASSING = re.compile(
    r"Unable to acquire lock|is busy, it is being blocked by|No space left on device|Disk quota exceeded"
    r"|timed out|Timeout|Connection (?:refused|reset|aborted|error)|Could not connect|Cannot connect|Max retries exceeded"
    r"|Temporary failure in name resolution|Name or service not known|Network is unreachable|SlowDown|IncompleteRead"
    r"|Service Unavailable|Internal Server Error|Bad Gateway|Reduce your request rate",
    re.IGNORECASE,
)
"""What DVC says when the machine or the network is at fault, and nobody has to change anything."""
OF_OTHERS = ("DVC_ROOT", "DVC_STAGE", "TUTELAGE_SPEAKER")
"""Variables that would say to a stage that it belongs to another repository or process."""


@dataclass(frozen=True)
class Ending:
    """How a command ended: exit code, why in words, whether the same may do better next time, and what it took."""

    code: int
    reason: str
    retryable: bool
    seconds: float
    stopped: bool = False
    """By stop() or stop_all(): neither a failure nor a success."""


class Stopping(Exception):
    """stop_all() was called: nothing is started any more."""


_lock = threading.RLock()  # the main thread may be interrupted while it has it
_live: set["Child"] = set()
_closed: str | None = None


class Child:
    """One command; run() once."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        tell: Path,
        on_line: Callable[[str], None] = lambda _: None,
        variables: Mapping[str, str] | None = None,
        descriptors: Sequence[int] = (),
        limit_seconds: float = 0.0,
        saving_seconds: float = leash.SAVING_SECONDS,
    ) -> None:
        """folder: to run in. tell: a folder of this child alone, made here: $TUTELAGE_TELL. variables: besides os.environ.

        descriptors: kept open until the last process has gone (flows/devices.py). limit_seconds: 0 is no limit. saving_seconds:
        what a stage gets to save in when it is stopped, before it is killed.
        """
        self.command, self.folder, self.tell, self.on_line = list(command), folder, tell.absolute(), on_line
        self.variables, self.descriptors = dict(variables or {}), tuple(descriptors)
        self.limit_seconds, self.saving_seconds = limit_seconds, saving_seconds
        self.reason: str | None = None  # why it was stopped
        self._process: subprocess.Popen[bytes] | None = None
        self._gone = threading.Event()

    def run(self) -> Ending:
        """Start it and wait until its last process has gone. Raises Stopping after stop_all()."""
        self.tell.mkdir(parents=True, exist_ok=True)
        for name in ("last_exit.json", "leash.json", "progress.json"):
            (self.tell / name).unlink(missing_ok=True)
        began = time.monotonic()
        try:
            process, lines = self._start()
            code = self._wait(process)
            lines.finish(HANDING_ON_SECONDS)
        finally:
            with _lock:
                _live.discard(self)
            self._gone.set()
        return self._ending(code, "\n".join(lines.tail), time.monotonic() - began)

    def stop(self, reason: str) -> None:
        """Ask it to save and leave; run() returns when it has. Does not wait."""
        with _lock:  # either it is not started, or it is told
            self.reason = self.reason or reason
            if self._process is not None:
                self._process.send_signal(signal.SIGTERM)  # does nothing to one that has ended

    def wait_until_gone(self, seconds: float) -> bool:
        """Whether its last process has gone by then."""
        return self._gone.wait(seconds)

    def _start(self) -> tuple["subprocess.Popen[bytes]", Lines]:
        """Under the lock: either stop_all() sees it, or it is not started."""
        output, mouth = os.pipe()
        holder = [sys.executable, leash.__file__, "--alive", "--output", str(output)]
        holder += ["--saving", str(self.saving_seconds), "--limit", str(self.limit_seconds), "--", *self.command]
        try:
            with _lock:
                if (why := _closed or self.reason) is not None:
                    raise Stopping(f"nothing is started any more: {why}")
                self._process = subprocess.Popen(
                    holder,
                    cwd=self.folder,
                    env=environment(self.variables, self.tell),
                    stdin=subprocess.PIPE,
                    stdout=mouth,
                    stderr=mouth,
                    pass_fds=(output, *self.descriptors),
                    start_new_session=True,  # Ctrl-C is for the flow, which then stops its children
                )
                _live.add(self)
        except BaseException:
            os.close(output)
            raise
        finally:
            os.close(mouth)
        return self._process, Lines(output, self.on_line)

    def _wait(self, process: "subprocess.Popen[bytes]") -> int:
        """Until the leash has ended, and if it was killed, until those have it would have waited for."""
        try:
            code = process.wait()
        except BaseException:  # run() in a main thread that was interrupted
            self.stop("interrupted")
            process.wait()
            raise
        finally:
            if process.stdin is not None:
                process.stdin.close()
        if code < 0:
            self._sweep()
        return code

    def _sweep(self) -> None:
        """Wait for the processes of a leash that was killed: DVC and the stage notice the end of their parents, and save."""
        began, told = time.monotonic(), False
        until, rungs = began + self.saving_seconds, [signal.SIGTERM, signal.SIGKILL]
        while left := with_variable(TELL, str(self.tell)):
            time.sleep(leash.LOOK_SECONDS)
            if not told and time.monotonic() - began > NOTICE_SECONDS:
                leash.send(list(filter(_is_dvc, left)), signal.SIGTERM)
                told = True
            if time.monotonic() > until:
                leash.send(left, rungs.pop(0) if len(rungs) > 1 else rungs[0])
                until = time.monotonic() + leash.LAST_SECONDS

    def _ending(self, code: int, tail: str, seconds: float) -> Ending:
        """In words. tail: the last lines it said."""
        told, held = _read(self.tell / "last_exit.json"), _read(self.tell / "leash.json")
        late = f" It had not left after {self.saving_seconds:g} s and was killed." if held.get("killed") else ""
        if code == 0:
            return Ending(0, "finished", False, seconds)
        if self.reason is not None:
            how = f"; the stage says: {told['reason']}" if told.get("code") else f".{late}"
            return Ending(STOPPED, f"stopped: {self.reason}{how}", False, seconds, stopped=True)
        if held.get("stopped") == "limit":
            what = f"It took longer than its limit of {self.limit_seconds:g} s and was stopped.{late}"
            return Ending(code, f"{what} The same command continues; give it more time.", False, seconds)
        if told.get("code"):
            return Ending(int(told["code"]), str(told["reason"]), bool(told["retryable"]), seconds)
        if code < 0:
            return Ending(128 - code, f"its leash was killed by {_name(-code)}", True, seconds)
        if 128 < code <= 128 + max(signal.valid_signals()):
            return Ending(code, f"{Path(self.command[0]).name} was killed by {_name(code - 128)}", True, seconds)
        if killed := KILLED.search(tail):
            number = int(killed[1])
            return Ending(
                code, f"its stage was killed by {_name(-number if number < 0 else number - 128)}", True, seconds
            )
        retryable = bool(PASSING.search(tail))
        return Ending(code, tail or f"it ended with {code} and said nothing", retryable, seconds)


def stop_all(reason: str) -> None:
    """Stop every child of this process and return when all have gone; no other starts until open_again(). From any thread."""
    global _closed
    with _lock:
        _closed = _closed or reason
        children = list(_live)
    for child in children:
        child.stop(reason)
    for child in children:
        if not child.wait_until_gone(child.saving_seconds + 4 * leash.LAST_SECONDS):
            log.error("%s is still there after it was stopped and killed", " ".join(child.command))


def stopping() -> bool:
    """Whether stop_all() was called."""
    return _closed is not None


def open_again() -> None:
    """Children may start: at the beginning of a flow, as one process may run several after each other."""
    global _closed
    with _lock:
        _closed = None


def environment(variables: Mapping[str, str], tell: Path) -> dict[str, str]:
    """os.environ without what is only the flow's, with this Python's programs first, and with `variables`.

    PREFECT__* tells a process that it is the engine of a flow run; a stage is not. DVC_DAEMON keeps DVC from asking for updates
    in a process of its own.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT__") and key not in OF_OTHERS}
    ours = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "DVC_NO_ANALYTICS": "1",
        "DVC_DAEMON": "1",
        "PYTHONUNBUFFERED": "1",
        TELL: str(tell),
    }
    return {**kept, **ours, **variables}


def with_variable(name: str, value: str) -> list[int]:
    """Processes that were started with this variable, but this one."""
    wanted, found = f"{name}={value}".encode(), []
    for process in leash.parents():
        with contextlib.suppress(OSError):  # gone, or somebody else's
            if process != os.getpid() and wanted in Path(f"/proc/{process}/environ").read_bytes().split(b"\0"):
                found.append(process)
    return found


def _is_dvc(process: int) -> bool:
    """Whether that process is DVC, by its command line; not so what it has started."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
        return words[1:3] == [b"-m", b"dvc"] or any(os.path.basename(word) == b"dvc" for word in words[:2])
    return False


def _read(path: Path) -> dict[str, Any]:
    """What a process told; nothing where it did not."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _name(signum: int) -> str:
    """SIGKILL for 9."""
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"
