"""Being stopped well: finish the step, save, leave; and never outlive the process that started us."""

import ctypes
import os
import signal
import threading
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
    """Ask the kernel for SIGTERM when the parent dies: SIGTERM to `dvc repro` alone would leave the stage running."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died in between
        os.kill(os.getpid(), signal.SIGTERM)


def outlive_parent() -> None:
    """Undo it, for a process that is leaving anyway.

    The kernel hands the children of a parent with several threads from one to the next as these end, and gives the signal each
    time: one death can be two signals, and a second one means at once, without saving.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0)
