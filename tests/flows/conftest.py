"""What tests of the flows share."""

from collections.abc import Iterator

import pytest
from prefect.testing.utilities import prefect_test_harness


@pytest.fixture(scope="session")
def harness() -> Iterator[None]:
    """A Prefect server and database of the tests' own."""
    with prefect_test_harness():
        yield
