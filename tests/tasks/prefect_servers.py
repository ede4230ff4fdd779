"""A Prefect server for tests: flows of their process report to it, and so does whatever is told its URL."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

from data_contracts.settings import get_settings, use_home


@contextmanager
def prefect_of(home: Path) -> Iterator[str]:
    """A Prefect server on loopback with the settings of a home and a database of its own: its URL."""
    with ExitStack() as ending:
        with patch.dict(os.environ):  # it keeps what it starts with
            use_home(home)
            from prefect.settings import PREFECT_API_URL
            from prefect.testing.utilities import prefect_test_harness

            ending.enter_context(prefect_test_harness(server_startup_timeout=120))
        get_settings.cache_clear()
        yield str(PREFECT_API_URL.value())
