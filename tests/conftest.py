"""What every test shares."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Small tensors gain nothing from threads, and two test processes would fight for two cores."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """A stage's main() called in this process listens to SIGTERM; whoever is forked later would too, and not end when told."""
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    yield
    for signum, handler in before.items():
        if handler is not None:  # one of C's
            signal.signal(signum, handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference material outside the repository: $TUTELAGE_SHARED, else ../shared beside it; skips where it is absent."""
    folder = ROOT / os.environ.get("TUTELAGE_SHARED", "../shared")
    if not folder.is_dir():
        pytest.skip(
            f"no reference material at {folder}: set TUTELAGE_SHARED to the folder that holds golden/ and data/"
        )
    return folder.resolve()


pytest_plugins = ["tests.workspace", "tests.forks", "tests.s3", "tests.e2e.postgres", "tests.e2e.fleet"]
