"""What every test shares."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Small tensors gain nothing from threads, and two test processes would fight for two cores."""
    torch.set_num_threads(1)


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
