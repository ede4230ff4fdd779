"""A Prefect server of its own for every test that asks for one."""

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def server(tracked_home: Path) -> Iterator[None]:
    """A server on loopback that the flows of this process report to; its home has an MLflow database."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield
