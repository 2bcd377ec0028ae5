"""Holds one command and everything it starts, and leaves when the last of it has gone. Started by flows/child.py, by its path:

    python <path of leash.py> [--alive] [--output 5] [--saving 40] [--limit 0] -- dvc --wait-for-lock repro -s teacher

A stage is a tree of processes (dvc, the stage, torchrun's workers in sessions of their own), and dvc killed outright leaves its
stage behind, still saving. So whoever waits for dvc alone and starts again meets the lease of its own past. The leash asks the
kernel to make every orphan below it its child (PR_SET_CHILD_SUBREAPER) and waits for all of them: once it has ended, nobody
writes this stage any more. Locks passed on to it (flows/devices.py) are held as long.

It stops what it holds when it gets SIGTERM or SIGINT; with --alive, when its stdin ends, which is a pipe whose other end the one
who started it holds, so that even SIGKILL of that process is noticed, and the end of a thread of it is not; after --limit seconds;
and when the command has ended but others are left. With --output it reads away what its descendants say once nobody else does, so
that they can save without stumbling over a broken pipe. Killed outright itself, it has arranged for its command to get SIGTERM
(PR_SET_PDEATHSIG), and a stage notices the end of dvc in the same way.

Stopping is SIGINT to the command's process group: dvc ignores it while its stage runs, and then gives back its locks in good
order, which SIGTERM would not let it; the stage saves a checkpoint and leaves. Nothing is sent twice, as a second signal makes a
stage leave without saving. Whoever is left after --saving seconds gets SIGTERM, and SIGKILL 5 s later.

Exit code: the command's, 128 + n if it died of signal n; 124 past the limit (0 if the command made it after all); 127 if it could
not be started. More stands in $TUTELAGE_TELL/leash.json: {"code": the command's, "stopped": null, "signal", "parent" or "limit",
"killed": whether saving took too long}. Standard library only, and none of it that is slow to import: it starts with every stage.
"""

import argparse
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
PAST_LIMIT, NOT_STARTED = 124, 127
SAVING_SECONDS = 40.0
LEFT_SECONDS = 1.0
"""For what a command that succeeded leaves behind: it has nothing to save."""
LAST_SECONDS = 5.0
LOOK_SECONDS = 0.2


def parents() -> dict[int, int]:
    """Process id -> parent's, of every process there is."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    found[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
            except OSError:  # gone meanwhile
                continue
    return found


def descendants(root: int) -> list[int]:
    """Every process below `root`, whatever its session."""
    children: dict[int, list[int]] = {}
    for process, parent in parents().items():
        children.setdefault(parent, []).append(process)
    found, todo = [], [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def send(processes: list[int], signum: int) -> None:
    """A signal to those that are still there."""
    for process in processes:
        try:
            os.kill(process, signum)
        except (ProcessLookupError, PermissionError):
            continue


class Leash:
    """The command and what is below it; one a process, as it reaps all children."""

    def __init__(self, saving_seconds: float, limit_seconds: float, alive: bool, output: int | None) -> None:
        self.saving_seconds, self.limit_seconds, self.alive, self.output = saving_seconds, limit_seconds, alive, output
        self.code: int | None = None  # the command's
        self.asked: str | None = None  # why to stop
        self.stopped: str | None = None  # why it was stopped
        self.killed = False
        self.until: float | None = None  # when whoever is left gets the next signal; None: they have all time
        self.rung = signal.SIGTERM  # which one that is
        self.ear, mouth = os.pipe()
        os.set_blocking(mouth, False)
        signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, self._remember)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def run(self, command: list[str]) -> int:
        """Until nobody is left; the exit code for whoever started us."""
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
        self.began = time.monotonic()
        try:
            self.main = _start(command)
        except (OSError, subprocess.SubprocessError) as error:
            sys.stderr.write(f"{command[0]} could not be started: {error}\n")
            return NOT_STARTED
        while self._reap():
            self._wait()
            self._stop()
            self._climb()
        assert self.code is not None
        return PAST_LIMIT if self.stopped == "limit" and self.code else self.code

    def _remember(self, *_: object) -> None:
        self.asked = self.asked or "signal"

    def _reap(self) -> bool:
        """Take note of those who have ended; whether anybody is left."""
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if process == 0:
                return True
            if process == self.main:
                code = os.waitstatus_to_exitcode(status)
                self.code = 128 - code if code < 0 else code
                if self.until is None:
                    self._give(LEFT_SECONDS if code == 0 else self.saving_seconds)

    def _wait(self) -> None:
        """Until a signal arrives, whoever started us has gone, or it is time to look at the clock."""
        orphaned = [] if self.output is None or self.alive else [self.output]
        ready, _, _ = select.select(
            [self.ear, *([0] if self.alive else orphaned)],
            [],
            [],
            LOOK_SECONDS if self.until or self.limit_seconds else None,
        )
        if self.ear in ready:
            os.read(self.ear, 4096)
        if self.output in ready:
            os.read(self.output, 65536)
        if 0 in ready and not os.read(0, 4096):
            self.alive = False
            self.asked = self.asked or "parent"
        if self.limit_seconds and time.monotonic() - self.began > self.limit_seconds:
            self.asked = self.asked or "limit"

    def _stop(self) -> None:
        """Ask all to save and leave, if we were asked to; once, and not when the command has ended: those whose parent it was
        know, and save, and what is left of them is counted by the clock."""
        if self.asked is None or self.stopped is not None or self.code is not None:
            return
        self.stopped = self.asked
        self._give(self.saving_seconds)
        try:
            os.killpg(self.main, signal.SIGINT)
        except ProcessLookupError:
            return

    def _give(self, seconds: float) -> None:
        self.until = time.monotonic() + seconds

    def _climb(self) -> None:
        """The next signal for whoever has had time enough."""
        if self.until is None or time.monotonic() < self.until:
            return
        send(descendants(os.getpid()), self.rung)
        self.killed = self.killed or self.code != 0
        self._give(LAST_SECONDS if self.rung == signal.SIGTERM else LOOK_SECONDS)
        self.rung = signal.SIGKILL


def _start(command: list[str]) -> int:
    """In a session of its own, to end with us; its process id."""
    us = os.getpid()

    def end_with_us() -> None:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != us:  # killed in between
            os._exit(128 + signal.SIGTERM)

    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=end_with_us)
    process.returncode = 0  # it is we who wait for it, as for all others
    return process.pid


def _tell(leash: Leash) -> None:
    """Say how it went where somebody wants to know."""
    folder = os.environ.get("TUTELAGE_TELL")
    if not folder:
        return
    path = os.path.join(folder, "leash.json")
    try:
        with open(f"{path}.tmp", "w") as file:
            json.dump({"code": leash.code, "stopped": leash.stopped, "killed": leash.killed}, file)
        os.replace(f"{path}.tmp", path)
    except OSError as error:
        sys.stderr.write(f"could not write {path}: {error}\n")


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Run a command; leave when the last process of it has gone.")
    parser.add_argument("--saving", type=float, default=SAVING_SECONDS, help="seconds to save in, once stopped")
    parser.add_argument("--limit", type=float, default=0.0, help="seconds the command may take; 0: as long as it likes")
    parser.add_argument("--alive", action="store_true", help="stop when stdin ends: whoever started this has gone")
    parser.add_argument("--output", type=int, help="descriptor to read our output away from, once stdin has ended")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    leash = Leash(options.saving, options.limit, options.alive, options.output)
    code = leash.run(options.command)
    _tell(leash)
    return code


if __name__ == "__main__":
    sys.exit(main())
