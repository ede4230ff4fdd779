"""One worker at a time for one piece of work, over any number of processes and machines that share a lake.

A claim is a row committed with a Delta application transaction, so of many who try at once exactly one succeeds. The
others wait until its work is seen done. Whoever works renews the lease, so it runs out only if they died, and then one
of the others takes over.
"""

import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from threading import Event, Thread
from typing import TypeVar

import pyarrow as pa

from data_contracts.errors import MetafuseError, ServiceUnavailable
from data_contracts.tables import CLAIMS
from tasks import progress
from tasks.lake import Lake, Snapshot

Done = TypeVar("Done")

FIRST_POLL_S, LONGEST_POLL_S = 0.1, 3.0
"""Pauses between looks at another's work grow from the one to the other, so that many who wait cost little."""
RELEASED = ""
"""Holder of a claim that was given up."""


def once(
    lake: Lake,
    key: str,
    *,
    find: Callable[[], Done | None],
    work: Callable[[], Done],
    lease_s: float = 300.0,
    patience_s: float = 900.0,
) -> tuple[Done, bool]:
    """Return what `find` sees done under `key`, or claim the key and do `work`; the flag says whether we worked.

    `work` must leave behind what `find` finds. If it raises, the claim is given up at once and the error goes on.

    Raises:
        ServiceUnavailable: others claimed the key for longer than `patience_s` without finishing.
    """
    deadline = time.monotonic() + patience_s
    pause = FIRST_POLL_S
    while time.monotonic() < deadline:
        if (done := find()) is not None:
            return done, False
        if not claim(lake, key, lease_s):
            progress.report(0, 0, "wait for another run of the same")
            time.sleep(random.uniform(0.5, 1.0) * pause)
            pause = min(2 * pause, LONGEST_POLL_S)
            continue
        if (done := find()) is not None:  # done between our look and our claim
            return done, False
        try:
            with _renewed(lake, key, lease_s):
                return work(), True
        except BaseException:
            lake.append("claims", _row(key, RELEASED))
            raise
    raise ServiceUnavailable(
        f"the work {key!r} was claimed by others for {patience_s:.0f} s without being finished. "
        "See their runs in Prefect, then try again.",
        key=key,
    )


def claim(lake: Lake, key: str, lease_s: float) -> bool:
    """Claim `key` unless another's lease runs; say whether it is ours now."""

    def decide(claims: Snapshot) -> pa.Table:
        rows = claims.read(where=f"key = {quoted}").sort_by("at").to_pylist()
        last = rows[-1] if rows else None
        is_held = last and last["holder"] != RELEASED and datetime.now(UTC) < last["at"] + timedelta(seconds=lease_s)
        return CLAIMS.empty_table() if is_held else _row(key, uuid.uuid4().hex)

    quoted = "'" + key.replace("'", "''") + "'"
    _, written = lake.transact("claims", CLAIMS, f"claim/{key}", decide)
    return len(written) > 0


@contextmanager
def _renewed(lake: Lake, key: str, lease_s: float) -> Iterator[None]:
    """Renew our claim of `key` three times a lease while the body runs."""
    is_over, holder = Event(), uuid.uuid4().hex

    def renew() -> None:
        while not is_over.wait(lease_s / 3):
            with suppress(MetafuseError):
                lake.append("claims", _row(key, holder))

    thread = Thread(target=renew, name=f"claim of {key}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _row(key: str, holder: str) -> pa.Table:
    return pa.Table.from_pylist([{"key": key, "holder": holder, "at": datetime.now(UTC)}], schema=CLAIMS)
