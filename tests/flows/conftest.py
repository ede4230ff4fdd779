"""A Prefect server of its own for every test that asks for one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect_servers import prefect_of


@pytest.fixture
def server(tracked_home: Path) -> Iterator[None]:
    """A server on loopback that the flows of this process report to; its home has an MLflow database."""
    with prefect_of(tracked_home):
        yield
