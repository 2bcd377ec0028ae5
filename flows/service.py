"""A program that runs for days beside us (Prefect's server, its worker, ...) and is gone when we are: used by embedded.py,
worker.py.

It is started with signals as they are by default: Prefect's worker turns SIGTERM into SIGINT for itself, which a shell has the
programs in its background ignore, and so such a worker is never stopped. What it started itself is found through the kernel,
and stopped with it.
"""

import ctypes
import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

log = logging.getLogger(__name__)
LIBC = ctypes.CDLL(None)  # loaded here: nothing may be imported between fork and exec
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
LONGEST_PAUSE_SECONDS = 60.0
STEADY_SECONDS = 60.0
"""After so long a service counts as having started well, and the next failure is met by the shortest pause."""


class Service:
    """One program, started again when it ends by itself; `look()` is to be called every second or so from the main thread.

    The kernel ends it with the thread that started it, hence the main thread.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        output: Path,
        with_us: signal.Signals = signal.SIGTERM,
    ) -> None:
        """with_us: the signal that it gets from the kernel when we die without a word."""
        self.name, self.command, self.environment, self.folder, self.output = name, command, environment, folder, output
        self.with_us = with_us
        self.process: subprocess.Popen[bytes] | None = None
        self.failures = 0
        self._started = self._due = 0.0

    def start(self) -> None:
        """Start it in a session of its own, so that Ctrl-C at the terminal reaches us alone; its words are added to `output`."""
        self.output.parent.mkdir(parents=True, exist_ok=True)
        parent, signum = os.getpid(), self.with_us
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                env=dict(self.environment),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: _before(parent, signum),
            )
        self._started = time.monotonic()

    @property
    def runs(self) -> bool:
        """Whether it has been started and has not ended."""
        return self.process is not None and self.process.poll() is None

    def look(self) -> None:
        """Start it again if it ended, after a pause that doubles from 1 s with every failure, up to a minute."""
        now = time.monotonic()
        if self.runs:
            return
        if self.process is not None:
            if now - self._started > STEADY_SECONDS:
                self.failures = 0
            pause = min(2.0**self.failures, LONGEST_PAUSE_SECONDS)
            self.failures += 1
            self._due = now + pause
            how = ending(self.process.returncode)
            log.warning(
                "%s ended (%s); starting it again in %.0f s. What it said: %s", self.name, how, pause, self.output
            )
            self.process = None
        elif now >= self._due:
            self.start()

    def stop(self, seconds: float) -> None:
        """SIGTERM to its group, SIGKILL to what is left of it after `seconds`."""
        if self.process is None:
            return
        _signal(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            log.warning("%s did not stop within %.0f s of SIGTERM: killed", self.name, seconds)
        _signal(self.process.pid, signal.SIGKILL)
        self.process.wait()


def ending(code: int) -> str:
    """An exit code in words."""
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def adopt_orphans() -> None:
    """From now on a process whose parent dies under us becomes our child, so that `stop_children` finds it."""
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)


def children(parent: int) -> list[int]:
    """Process ids of the children of `parent` that live (no zombies)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, above = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it ended while we looked
            continue
        if int(above) == parent and state not in "ZX":
            found.append(int(stat.parent.name))
    return found


def stop_children(parent: int, seconds: float, spare: Sequence[int] = ()) -> list[int]:
    """SIGTERM to the children of `parent` and their groups, but for `spare`; SIGKILL after `seconds`. Returns whom that met.

    A child that comes up meanwhile, an orphan of one that just went, is treated the same.
    """
    deadline = time.monotonic() + seconds
    asked: set[int] = set()
    killed: set[int] = set()
    while alive := [pid for pid in children(parent) if pid not in spare]:
        late = time.monotonic() >= deadline
        for pid in alive:
            if pid not in asked or late:
                _signal(pid, signal.SIGKILL if late else signal.SIGTERM)
        asked.update(alive)
        killed.update(alive if late else ())
        if late and time.monotonic() >= deadline + 5:  # not even SIGKILL: it waits for a disk
            log.error("still there after SIGKILL: %s", ", ".join(map(str, alive)))
            break
        reap()
        time.sleep(0.1)
    reap()
    return sorted(killed)


def reap(spare: Sequence[int] = ()) -> None:
    """Take note of adopted children that ended; those in `spare` are left to who started them."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, above = stat.read_text().rpartition(")")[2].split()[:2]
            pid = int(stat.parent.name)
            if state == "Z" and int(above) == os.getpid() and pid not in spare:
                os.waitpid(pid, os.WNOHANG)
        except (OSError, ChildProcessError):
            continue


def end_with_parent(parent: int, signum: int = signal.SIGTERM) -> None:
    """Ask the kernel for a signal when the process `parent`, our parent so far, dies."""
    LIBC.prctl(PR_SET_PDEATHSIG, signum)
    if os.getppid() != parent:  # it died in between
        os.kill(os.getpid(), signum)


def end_with_worker() -> None:
    """For a flow's first line: where a worker started us, SIGTERM comes when it dies. An engine would go on alone."""
    if "PREFECT__FLOW_RUN_ID" in os.environ:
        end_with_parent(os.getppid())


def _before(parent: int, signum: int) -> None:
    """In the child, before the program: signals as a terminal's foreground has them, and no life without us."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_DFL)
    end_with_parent(parent, signum)


def _signal(pid: int, signum: int) -> None:
    """To the group it leads, else to it alone: a group it merely belongs to may hold others, us even."""
    try:
        if os.getpgid(pid) == pid:
            os.killpg(pid, signum)
        else:
            os.kill(pid, signum)
    except ProcessLookupError:
        pass
