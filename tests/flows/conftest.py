"""What the tests of the flows share."""

from collections.abc import Iterator

import pytest
from prefect.testing.utilities import prefect_test_harness


@pytest.fixture(scope="session")
def harness() -> Iterator[None]:
    """A Prefect server of our own with an empty database, for the whole session."""
    with prefect_test_harness():
        yield
