"""Runs of deployments whose process is gone: they count as crashed, and what crashed is run again.

Every flow is safe to run again, so all that is asked is whether a later run was asked for the same. A worker says that
its runs crashed as long as it lives and reaches the server; else nobody does, and they seem to go on for ever.
"""

import json
import logging
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from data_contracts.errors import ServiceUnavailable
from tasks.events import has_server
from tasks.retries import is_transient

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

logger = logging.getLogger(__name__)

TAG = "metafuse"
"""What all of our deployments, and so their runs, are tagged with."""

HEARTBEAT = "prefect.flow-run.heartbeat"
SILENT_FOR = timedelta(minutes=10)
"""So long without a heartbeat, or four of them if that is longer, a run is dead."""
LOOKS = 3
"""So many looks must have come to an end within that time: while nobody looked, nobody may have listened either."""

MOST_RESTARTS = 2
"""What has crashed so often after the first time crashes by itself."""
LOOK_BACK = timedelta(days=1)
PAGE = 200
"""As many runs as Prefect's API gives at once: the newest."""


@task(name="revive-runs", retries=3, retry_delay_seconds=5, retry_condition_fn=is_transient, cache_policy=NO_CACHE)
def revive() -> dict[str, int]:
    """Return how many runs were found dead, and how many that crashed were started again; none without a server.

    Raises:
        ServiceUnavailable: the server that is configured does not answer.
    """
    if not has_server():
        return {"dead": 0, "restarted": 0}
    from httpx import HTTPError
    from prefect.client.orchestration import get_client
    from prefect.settings import get_current_settings

    heartbeat = timedelta(seconds=get_current_settings().flows.heartbeat_frequency or 0)
    since = datetime.now(UTC) - max(SILENT_FOR, 4 * heartbeat)
    try:
        with get_client(sync_client=True) as client:
            dead = bury(client, since) if has_looked(client, since) else []
            return {"dead": len(dead), "restarted": len(restart(client))}
    except HTTPError as exc:
        raise ServiceUnavailable(
            f"the Prefect server did not let crashed runs be started again ({exc}). The next reconcile run tries it; "
            "`metafuse up` starts a server."
        ) from exc


def has_looked(client: "SyncPrefectClient", since: datetime) -> bool:
    """Say whether `reconcile` has run often enough since then for heartbeats not to have been missed."""
    from prefect.client.schemas.filters import FlowFilter, FlowRunFilter

    looks = {"state": {"type": {"any_": ["COMPLETED"]}}, "start_time": {"after_": since.isoformat()}}
    found = client.read_flow_runs(
        flow_filter=FlowFilter.model_validate({"name": {"any_": ["reconcile"]}}),
        flow_run_filter=FlowRunFilter.model_validate(looks),
        limit=LOOKS,
    )
    return len(found) == LOOKS


def bury(client: "SyncPrefectClient", since: datetime) -> list["FlowRun"]:
    """Let runs that began, or were about to, before `since` and have had no heartbeat after it count as crashed."""
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Crashed

    active = _runs(client, {"state": {"type": {"any_": ["PENDING", "RUNNING"]}}})
    dead = [run for run in active if run.state and run.state.timestamp < since and _is_silent(client, run, since)]
    for run in dead:
        with suppress(ObjectNotFound):  # deleted meanwhile
            message = f"No sign of life since {since:%Y-%m-%d %H:%M:%S} UTC: its process is gone."
            client.set_flow_run_state(run.id, Crashed(message=message))
    return dead


def _is_silent(client: "SyncPrefectClient", run: "FlowRun", since: datetime) -> bool:
    asked = {
        "event": {"name": [HEARTBEAT]},
        "resource": {"id": [f"prefect.flow-run.{run.id}"]},
        "occurred": {"since": since.isoformat()},
    }
    answer = client.request("POST", "/events/filter", json={"filter": asked, "limit": 1})
    return not answer.json()["events"]


def restart(client: "SyncPrefectClient") -> list["FlowRun"]:
    """Start again what crashed, unless a later run of the same deployment and parameters followed; return the new runs.

    However often and from wherever this is called, what follows one run is one run.
    """
    crashed_lately = {
        "state": {"type": {"any_": ["CRASHED"]}},
        "end_time": {"after_": (datetime.now(UTC) - LOOK_BACK).isoformat()},
    }
    started = (_start_again(client, run) for run in _runs(client, crashed_lately))
    return [run for run in started if run]


def _start_again(client: "SyncPrefectClient", run: "FlowRun") -> "FlowRun | None":
    from httpx import HTTPStatusError

    first, number = _place(run)
    key = f"again/{first}/{number + 1}"
    if run.deployment_id is None or number >= MOST_RESTARTS or _is_followed(client, run, key):
        return None
    try:
        return client.create_flow_run_from_deployment(
            run.deployment_id,
            parameters=run.parameters,
            tags=run.tags,
            work_queue_name=run.work_queue_name,
            job_variables=run.job_variables,
            idempotency_key=key,
        )
    except HTTPStatusError as exc:
        if exc.response.status_code not in (404, 409, 422):
            raise
        logger.warning("%s crashed and cannot be started again as it was: %s", run.name, exc)
        return None


def _place(run: "FlowRun") -> tuple[str, int]:
    """Return the run that crashed first, and how many times it has been started again since."""
    key = re.fullmatch(r"again/([0-9a-f-]{36})/(\d+)", run.idempotency_key or "")
    return (key[1], int(key[2])) if key else (str(run.id), 0)


def _is_followed(client: "SyncPrefectClient", run: "FlowRun", key: str) -> bool:
    due, now = run.expected_start_time, datetime.now(UTC)
    assert due is not None
    past = {"expected_start_time": {"after_": due.isoformat(), "before_": now.isoformat()}}
    alike = _runs(client, {**past, "deployment_id": {"any_": [str(run.deployment_id)]}})
    return any(
        later.idempotency_key == key or (_question(later) == _question(run) and not _was_turned_away(later))
        for later in takewhile(lambda other: other.id != run.id, alike)
    )


def _question(run: "FlowRun") -> str:
    return json.dumps(run.parameters, sort_keys=True, default=str)


def _was_turned_away(run: "FlowRun") -> bool:
    """Say whether a run was cancelled because another one, maybe this very one that is dead, had its place."""
    state = run.state
    return state is not None and state.is_cancelled() and "concurrency limit" in (state.message or "")


def _runs(client: "SyncPrefectClient", wanted: dict[str, Any]) -> list["FlowRun"]:
    """Return runs of our deployments, those that were to start last first."""
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort

    ours = {"tags": {"all_": [TAG]}, "deployment_id": {"is_null_": False}}
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate({**ours, **wanted}),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=PAGE,
    )
