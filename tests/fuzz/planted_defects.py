"""A reader with every kind of defect: the control of the driver, which must find each and go on."""

import os
import signal
import time
from pathlib import Path

from stages.lib.core.outcome import Refusal
from tests.fuzz.target import Target


def read(path: Path) -> None:
    """The number in the file says what goes wrong."""
    number = int(path.read_bytes())
    if number == 1:
        raise KeyError("let out")
    if number == 2:
        while True:
            pass
    if number == 3:
        bytearray(1 << 40)
    if number == 4:
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == 5:
        raise Refusal("as it should be")
    if number == 6:
        time.sleep(0.01)


def target(_folder: Path) -> Target:
    """Its good file is refused, and all others are made of the numbers 0 to 6."""
    return Target(read, [b"5"], changes=[lambda dice, _: str(dice.randint(0, 6)).encode()])
