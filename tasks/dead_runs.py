"""Runs that something else ended: what crashed is run again, and what stopped without a word counts as crashed.

Every flow is safe to run again, so all that is asked is whether a later run was asked for the same. A worker says that
its runs crashed as long as it lives and reaches the server; else nobody does, and they seem to go on for ever.
"""

import json
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

TAG = "metafuse"
"""What all of our deployments, and so their runs, are tagged with."""

HEARTBEAT = "prefect.flow-run.heartbeat"
SILENT_FOR = timedelta(minutes=10)
"""So long without a sign of life, a run is dead: Prefect's runs give one every three minutes, those of `metafuse up`
every half a minute."""

MOST_CRASHES = 3
"""What crashed so often within `LOOK_BACK` is not run again: it crashes by itself."""
LOOK_BACK = timedelta(days=1)
PAGE = 200
"""As many runs as Prefect's API gives at once; with more than these, the newest count."""


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

    try:
        with get_client(sync_client=True) as client:
            return {"dead": len(bury(client)), "restarted": len(restart(client))}
    except HTTPError as exc:
        raise ServiceUnavailable(
            f"the Prefect server did not say which runs have crashed ({exc}). The next reconcile run asks again; "
            "`metafuse up` starts a server."
        ) from exc


def bury(client: "SyncPrefectClient", silent_for: timedelta = SILENT_FOR) -> list["FlowRun"]:
    """Let runs that have given no sign of life for so long count as crashed, and return them.

    Of a run that has begun that is known only if it gave signs before: a worker may have been told to give none.
    """
    from prefect.states import Crashed

    since = datetime.now(UTC) - silent_for
    active = _runs(client, {"state": {"type": {"any_": ["PENDING", "RUNNING"]}}})
    dead = [run for run in active if _is_silent(client, run, since)]
    for run in dead:
        message = f"No sign of life for {silent_for.total_seconds():.0f} s: its process is gone."
        client.set_flow_run_state(run.id, Crashed(message=message))
    return dead


def _is_silent(client: "SyncPrefectClient", run: "FlowRun", since: datetime) -> bool:
    if run.state is None or run.state.timestamp > since:
        return False
    if run.state.is_pending():
        return True
    asked = {"event": {"name": [HEARTBEAT]}, "resource": {"id": [f"prefect.flow-run.{run.id}"]}, "order": "DESC"}
    newest = client.request("POST", "/events/filter", json={"filter": asked, "limit": 1}).json()["events"]
    return any(datetime.fromisoformat(event["occurred"]) < since for event in newest)


def restart(client: "SyncPrefectClient") -> list["FlowRun"]:
    """Start again what crashed, unless a later run of the same deployment and parameters followed; return the new runs.

    However often and from wherever this is called, what follows one run is one run.
    """
    now = datetime.now(UTC)
    past = {"expected_start_time": {"after_": (now - LOOK_BACK).isoformat(), "before_": now.isoformat()}}
    crashed: dict[str, list[FlowRun]] = {}
    for run in _runs(client, {**past, "state": {"type": {"any_": ["CRASHED"]}}}):
        crashed.setdefault(_question(run), []).append(run)
    last = [runs[0] for runs in crashed.values() if len(runs) < MOST_CRASHES]
    return [_start_again(client, run) for run in last if not _is_followed(client, run, past)]


def _is_followed(client: "SyncPrefectClient", run: "FlowRun", past: dict[str, Any]) -> bool:
    alike = _runs(client, {**past, "deployment_id": {"any_": [str(run.deployment_id)]}})
    return any(_question(later) == _question(run) for later in takewhile(lambda other: other.id != run.id, alike))


def _start_again(client: "SyncPrefectClient", run: "FlowRun") -> "FlowRun":
    assert run.deployment_id is not None
    return client.create_flow_run_from_deployment(
        run.deployment_id, parameters=run.parameters, idempotency_key=f"after/{run.id}"
    )


def _question(run: "FlowRun") -> str:
    return json.dumps([str(run.deployment_id), run.parameters], sort_keys=True, default=str)


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
