"""One fault tried: planted on clean data, looked at by the real stages, within a time limit."""

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stages.lib.core.outcome import Refusal, ending_of
from tests.faults.fault import Bench, Fault

SECONDS = 60  # a fault takes 0.3 s; with five sessions on two cores some take 5


@dataclass(frozen=True)
class Verdict:
    """What came of it."""

    where: str
    """Empty: nobody noticed."""
    message: str
    code: int
    retryable: bool
    kept: str


def tried(fault: Fault, folder: Path) -> Verdict:
    """Plant it and look. Any exception but a Refusal is a crash of the product and leaves here as it is."""
    with _bench(fault.bench, folder) as bench:
        bench.rejects = fault.rejects
        fault.plant(bench)
        before = bench.inputs()
        try:
            bench.look()
        except Refusal as refusal:
            ending = ending_of(refusal)
        else:
            return Verdict("", "", 0, False, "")
        where = bench.where
        assert bench.inputs() == before, "what was read has been changed"
        return Verdict(where, ending.reason, ending.code, ending.retryable, bench.kept())


def clean(kind: type[Bench], folder: Path) -> None:
    """The same without a fault: raises Refusal where there is a false alarm."""
    with _bench(kind, folder) as bench:
        before = bench.inputs()
        bench.look()
        assert bench.inputs() == before


@contextlib.contextmanager
def _bench(kind: type[Bench], folder: Path) -> Iterator[Bench]:
    """With the signal handlers that stages set taken back, and an alarm against what hangs."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with pytest.MonkeyPatch.context() as patch, _limited(SECONDS):
        yield kind(folder, patch)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in the main thread."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"still running after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
