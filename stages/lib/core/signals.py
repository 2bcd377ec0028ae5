"""Being stopped well: finish the step, save, leave; and never outlive the process that started us."""

import ctypes
import os
import select
import signal
import threading
from pathlib import Path
from types import FrameType

PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Stopped(Exception):
    """SIGTERM or SIGINT was obeyed: the work is saved and continues with the same command."""

    def __init__(self, signum: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(signum).name}; the same command continues from the last checkpoint"
        )
        self.signum = signum


class Watch:
    """Remembers the first SIGTERM or SIGINT; a second one of either kind ends the process at once."""

    def __init__(self) -> None:
        self.signum: int | None = None
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGINT):
                signal.signal(signum, self._remember)
        end_with_parent()

    def _remember(self, signum: int, _frame: FrameType | None) -> None:
        self.signum = signum
        outlive_parent()  # before the next line: what is on its way meets this handler
        signal.signal(signum, signal.SIG_DFL)


def end_with_parent() -> None:
    """Ask for SIGTERM when the parent dies: SIGTERM to `dvc repro` alone would leave the stage running.

    The kernel gives it, or, where the parent is a shell that DVC started and that waits for us, a thread that watches DVC itself:
    bash and zsh become the command they run, dash does not, and dash is what DVC takes where $SHELL is not set (cron, systemd,
    containers). The shell would outlive DVC, and we with it.
    """
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    behind = _dvc_behind_shell(parent)
    if behind is not None:
        threading.Thread(target=_end_with, args=(behind,), daemon=True).start()
    if os.getppid() != parent:  # it died in between
        os.kill(os.getpid(), signal.SIGTERM)


def outlive_parent() -> None:
    """Undo it, for a process that is leaving anyway.

    The kernel hands the children of a parent with several threads from one to the next as these end, and gives the signal each
    time: one death can be two signals, and a second one means at once, without saving.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0)
    with _telling:
        _leaving.set()


_telling, _leaving = threading.RLock(), threading.Event()  # a signal's handler may meet another in it


def _dvc_behind_shell(parent: int) -> int | None:
    """A descriptor of the process that started the parent, if that is a shell which runs one command for DVC."""
    if "DVC_STAGE" not in os.environ:
        return None
    try:
        words = Path(f"/proc/{parent}/cmdline").read_bytes().split(b"\0")
        if b"-c" not in words or not os.path.basename(words[0]).endswith(b"sh"):
            return None
        above = int(Path(f"/proc/{parent}/stat").read_bytes().rpartition(b")")[2].split()[1])
        return os.pidfd_open(above)
    except OSError:  # one of them has gone, or no /proc: the kernel's signal has to do
        return None


def _end_with(process: int) -> None:
    """SIGTERM to ourselves once that one has ended, unless we are leaving."""
    select.select([process], [], [])
    os.close(process)
    with _telling:
        if not _leaving.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
