"""Which runs are taken for dead, and which are started again, on a real server."""

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from prefect_servers import prefect_of

from tasks.dead_runs import HEARTBEAT, MOST_CRASHES, TAG, bury, restart, revive

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    with prefect_of(tmp_path_factory.mktemp("prefect") / "home"):
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            yield client


@pytest.fixture
def deployment(client) -> UUID:
    return deployment_of(client, TAG)


def deployment_of(client, *tags: str) -> UUID:
    flow = client.create_flow_from_name("adapt-domain")
    return client.create_deployment(flow, name=str(uuid4()), tags=list(tags))


def started(client, deployment: UUID, state: str, domain: str = "toys"):
    """A run of a deployment that is said to be in a state."""
    run = client.create_flow_run_from_deployment(deployment, parameters={"domain": domain})
    become(client, run, state)
    return run


def become(client, run, state: str) -> None:
    from prefect.client.schemas.objects import State, StateType

    client.set_flow_run_state(run.id, State(type=StateType(state)), force=True)


def state_of(client, run) -> str:
    return client.read_flow_run(run.id).state_type.value


def runs_of(client, deployment: UUID, *, beside: Sequence = ()) -> list:
    from prefect.client.schemas.filters import FlowRunFilter

    asked = FlowRunFilter.model_validate({"deployment_id": {"any_": [str(deployment)]}})
    return [run for run in client.read_flow_runs(flow_run_filter=asked) if run.id not in {known.id for known in beside}]


def test_crashed_run_is_started_again_once(client, deployment):
    crashed = started(client, deployment, "CRASHED")
    restart(client)
    restart(client)
    (again,) = runs_of(client, deployment, beside=[crashed])
    assert again.parameters == {"domain": "toys"}
    assert again.state.is_scheduled()
    assert TAG in again.tags


@pytest.mark.parametrize("state", ["COMPLETED", "RUNNING", "FAILED", "CANCELLED", "SCHEDULED"])
def test_crashed_run_that_another_has_followed_stays(client, deployment, state):
    runs = [started(client, deployment, "CRASHED"), started(client, deployment, state)]
    restart(client)
    assert runs_of(client, deployment, beside=runs) == []


def test_run_before_the_crash_and_one_for_another_domain_follow_nothing(client, deployment):
    before = started(client, deployment, "COMPLETED")
    runs = [before, started(client, deployment, "CRASHED"), started(client, deployment, "COMPLETED", domain="books")]
    restart(client)
    (again,) = runs_of(client, deployment, beside=runs)
    assert again.parameters == {"domain": "toys"}


@pytest.mark.parametrize("state", ["COMPLETED", "FAILED", "CANCELLED"])
def test_run_that_ended_otherwise_stays(client, deployment, state):
    run = started(client, deployment, state)
    restart(client)
    assert runs_of(client, deployment, beside=[run]) == []


def test_run_that_crashes_again_and_again_is_given_up(client, deployment):
    started(client, deployment, "CRASHED")
    for _ in range(MOST_CRASHES + 1):
        restart(client)
        for run in runs_of(client, deployment):
            become(client, run, "CRASHED")
    assert len(runs_of(client, deployment)) == MOST_CRASHES


def test_runs_of_others_are_left_alone(client):
    theirs = deployment_of(client, "theirs")
    crashed, pending = (started(client, theirs, state) for state in ("CRASHED", "PENDING"))
    bury(client, timedelta(0))
    restart(client)
    assert state_of(client, pending) == "PENDING"
    assert runs_of(client, theirs, beside=[crashed, pending]) == []


def beat(client, run, ago: timedelta) -> None:
    """Give a sign of life of a run, and wait until the server has it."""
    number = str(uuid4())
    event = {
        "id": number,
        "occurred": (datetime.now(UTC) - ago).isoformat(),
        "event": HEARTBEAT,
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run.id}"},
    }
    client.request("POST", "/events", json=[event])
    asked = {"filter": {"id": {"id": [number]}}}
    while not client.request("POST", "/events/filter", json=asked).json()["events"]:
        time.sleep(0.2)


def test_runs_without_a_sign_of_life_for_long_have_crashed(client, deployment):
    silent_for = timedelta(seconds=20)
    silent, alive, mute = (started(client, deployment, "RUNNING", domain) for domain in ("silent", "alive", "mute"))
    stuck = started(client, deployment, "PENDING", "stuck")
    assert bury(client, silent_for) == []  # they have just begun
    for run in (silent, alive):
        beat(client, run, ago=timedelta(minutes=1))
    time.sleep(silent_for.total_seconds())
    beat(client, alive, ago=timedelta(0))
    new = started(client, deployment, "PENDING", "new")
    assert {run.id for run in bury(client, silent_for)} == {silent.id, stuck.id}
    assert [state_of(client, run) for run in (silent, alive, mute, stuck, new)] == [
        "CRASHED", "RUNNING", "RUNNING", "CRASHED", "PENDING",
    ]  # fmt: skip
    assert "No sign of life for 20 s" in client.read_flow_run(silent.id).state.message


def test_flow_restarts_what_crashed_and_does_nothing_without_a_server(client, deployment, monkeypatch):
    crashed = started(client, deployment, "CRASHED")
    assert revive.fn()["restarted"] >= 1
    assert len(runs_of(client, deployment, beside=[crashed])) == 1
    monkeypatch.setattr("tasks.dead_runs.has_server", lambda: False)
    assert revive.fn() == {"dead": 0, "restarted": 0}
