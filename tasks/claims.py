"""One worker at a time for one piece of work, over any number of processes and machines that share a lake.

A claim is a row committed with a Delta application transaction, so of many who try at once exactly one succeeds. The
others wait until its work is seen done; if its lease runs out first, one of them takes over.
"""

import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pyarrow as pa

from data_contracts.errors import ServiceUnavailable
from data_contracts.tables import CLAIMS
from tasks.lake import Lake

Done = TypeVar("Done")

POLL_S = 0.2


def once(
    lake: Lake,
    key: str,
    *,
    find: Callable[[], Done | None],
    work: Callable[[], Done],
    lease_s: float = 300.0,
) -> tuple[Done, bool]:
    """Return what `find` sees done under `key`, or claim the key and do `work`; the flag says whether we worked.

    `work` must leave behind what `find` finds. If it raises, the claim is given up at once and the error goes on.

    Raises:
        ServiceUnavailable: others claimed the key again and again without finishing.
    """
    deadline = time.monotonic() + 3 * lease_s
    while time.monotonic() < deadline:
        if (done := find()) is not None:
            return done, False
        claim = _claim(lake, key, lease_s)
        if claim is None:
            time.sleep(POLL_S)
            continue
        if (done := find()) is not None:  # done between our look and our claim
            return done, False
        try:
            return work(), True
        except BaseException:
            _release(lake, key, claim)
            raise
    raise ServiceUnavailable(
        f"the work {key!r} was claimed by others for {3 * lease_s:.0f} s without being finished. "
        "See their runs in Prefect, then try again.",
        key=key,
    )


RELEASED = ""
"""Holder of an attempt that was given up."""


def _claim(lake: Lake, key: str, lease_s: float) -> int | None:
    """Return the number of the attempt that is now ours, or None while another's lease runs."""
    attempts = _attempts(lake, key)
    if attempts:
        last = max(attempts, key=lambda row: (row["attempt"], row["holder"] == RELEASED))
        is_held = last["holder"] != RELEASED and datetime.now(UTC) - last["at"] < timedelta(seconds=lease_s)
        if is_held:
            return None
    number = 1 + max((row["attempt"] for row in attempts), default=0)
    holder = uuid.uuid4().hex
    _write(lake, key, number, holder, transaction=(f"claim/{key}", number))
    won = any(row["attempt"] == number and row["holder"] == holder for row in _attempts(lake, key))
    return number if won else None


def _release(lake: Lake, key: str, attempt: int) -> None:
    _write(lake, key, attempt, RELEASED, transaction=None)


def _write(lake: Lake, key: str, attempt: int, holder: str, transaction: tuple[str, int] | None) -> None:
    row = {"key": key, "attempt": attempt, "holder": holder, "at": datetime.now(UTC)}
    lake.append("claims", pa.Table.from_pylist([row], schema=CLAIMS), transaction=transaction)


def _attempts(lake: Lake, key: str) -> list[dict[str, Any]]:
    if lake.version("claims") is None:
        return []
    quoted = key.replace("'", "''")
    rows: list[dict[str, Any]] = lake.read("claims", where=f"key = '{quoted}'").to_pylist()
    return rows
