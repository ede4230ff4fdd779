"""Events to the outside: first a row in the lake's `outbox`, then a Prefect event, then a row that says so.

Prefect's events are not durable: those in memory are lost when the server dies. So an event counts as delivered only
once the server's own store shows it, and until then it is sent again, each time under the same id, which the server
recognises. Without a Prefect server events stay pending; the `reconcile` flow of a server delivers them.
"""

import json
import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
from prefect import task
from prefect.cache_policies import NO_CACHE

from data_contracts.errors import ServiceUnavailable
from data_contracts.tables import OUTBOX
from tasks.lake import Lake, open_lake
from tasks.retries import is_transient

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

LABELS_ARRIVED = "metafuse.labels.arrived"
DRIFT_FOUND = "metafuse.drift.found"
PENDING, DELIVERED = "pending", "delivered"

_brief_server: str | None = None

_IDS = uuid.UUID("6d657461-6675-7365-0000-6f7574626f78")
"""Namespace of event ids."""


class OutboxEvent(NamedTuple):
    """One event on its way."""

    key: str
    event: str
    domain: str
    payload_json: str

    @property
    def event_id(self) -> uuid.UUID:
        """The same for every sending of this event."""
        return uuid.uuid5(_IDS, self.key)

    def as_prefect(self) -> dict[str, Any]:
        """Return the event as Prefect's API takes it."""
        return {
            "id": str(self.event_id),
            "occurred": datetime.now(UTC).isoformat(),
            "event": self.event,
            "resource": {
                "prefect.resource.id": f"metafuse.domain.{self.domain}",
                "prefect.resource.name": self.domain,
            },
            "payload": {"domain": self.domain, **json.loads(self.payload_json)},
        }


def labels_arrived(domain: str, labels_version: int) -> OutboxEvent:
    """Say that the labels of `domain` changed with version `labels_version` of the table `labels`."""
    payload = json.dumps({"labels_version": labels_version})
    return OutboxEvent(f"{LABELS_ARRIVED}/{domain}/{labels_version}", LABELS_ARRIVED, domain, payload)


def drift_found(domain: str, model_version: str, drift_id: str) -> OutboxEvent:
    """Say that the items of `domain` are no longer like those its model was adapted among; see the table `drift`."""
    payload = json.dumps({"model_version": model_version, "drift_id": drift_id})
    return OutboxEvent(f"{DRIFT_FOUND}/{domain}/{model_version}/{drift_id}", DRIFT_FOUND, domain, payload)


def enqueue(lake: Lake, event: OutboxEvent) -> None:
    """Write an event down as pending; writing it again changes nothing."""
    _write(lake, [event], PENDING)


def pending(lake: Lake) -> list[OutboxEvent]:
    """Return the events that nobody has seen delivered, oldest first."""
    rows = lake.read("outbox").sort_by("at").to_pylist()
    delivered = {row["key"] for row in rows if row["status"] == DELIVERED}
    waiting = {
        row["key"]: OutboxEvent(row["key"], row["event"], row["domain"], row["payload_json"])
        for row in rows
        if row["key"] not in delivered
    }
    return list(waiting.values())


def deliver_outbox(lake: Lake, *, wait_s: float = 10.0) -> int:
    """Send every pending event to the Prefect server and return how many its store shows within `wait_s`.

    Returns 0 at once if there is nothing to send, or no server to send to.

    Raises:
        ServiceUnavailable: the server that is configured does not answer.
    """
    waiting = pending(lake)
    if not waiting or not has_server():
        return 0
    from httpx import HTTPError
    from prefect.client.orchestration import get_client

    try:
        with get_client(sync_client=True) as client:
            arrived = _send_and_confirm(client, waiting, wait_s)
    except HTTPError as exc:
        raise ServiceUnavailable(
            f"the Prefect server did not take {len(waiting)} events ({exc}). They stay in the outbox; "
            "start the server (`metafuse up`) and the next reconcile run sends them.",
            events=len(waiting),
        ) from exc
    _write(lake, arrived, DELIVERED)
    return len(arrived)


@task(name="deliver-outbox", retries=3, retry_delay_seconds=5, retry_condition_fn=is_transient, cache_policy=NO_CACHE)
def deliver() -> int:
    """Send the pending events of the lake and return how many have arrived."""
    return deliver_outbox(open_lake())


def use_brief_server(url: str) -> None:
    """Keep events for another server than this one, which ends with this process and reacts to nothing."""
    global _brief_server
    _brief_server = url


def has_server() -> bool:
    """Say whether this process talks to a Prefect server that outlives it."""
    from prefect.settings import PREFECT_API_URL

    return PREFECT_API_URL.value() not in (None, _brief_server)


def _send_and_confirm(client: "SyncPrefectClient", waiting: list[OutboxEvent], wait_s: float) -> list[OutboxEvent]:
    known = _known(client, waiting)
    unsent = [event for event in waiting if event.event_id not in known]
    if unsent:
        client.request("POST", "/events", json=[event.as_prefect() for event in unsent])
    deadline = time.monotonic() + wait_s
    while len(known) < len(waiting) and time.monotonic() < deadline:
        time.sleep(0.5)
        known = _known(client, waiting)
    return [event for event in waiting if event.event_id in known]


def _known(client: "SyncPrefectClient", events: list[OutboxEvent]) -> set[uuid.UUID]:
    """Ids of those events that the server's store shows; its pages hold 50."""
    found: set[uuid.UUID] = set()
    for start in range(0, len(events), 50):
        wanted = [str(event.event_id) for event in events[start : start + 50]]
        page = client.request("POST", "/events/filter", json={"filter": {"id": {"id": wanted}}, "limit": 50})
        found |= {uuid.UUID(event["id"]) for event in page.json()["events"]}
    return found


def _write(lake: Lake, events: list[OutboxEvent], status: str) -> None:
    now = datetime.now(UTC)
    for event in events:
        row = {**event._asdict(), "status": status, "at": now}
        table = pa.Table.from_pylist([row], schema=OUTBOX)
        lake.append("outbox", table, transaction=(f"outbox/{event.key}", 1 if status == PENDING else 2))
