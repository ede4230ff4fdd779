"""Which runs are taken for dead, and which are started again, on a real server."""

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
import yaml
from prefect_servers import prefect_of

from deployments.up import PREFECT_FILE
from tasks.dead_runs import HEARTBEAT, LOOKS, MOST_RESTARTS, TAG, bury, has_looked, restart, revive

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


def deployment_of(client, *tags: str, flow: str = "adapt-domain") -> UUID:
    return client.create_deployment(client.create_flow_from_name(flow), name=str(uuid4()), tags=list(tags))


def started(client, deployment: UUID, state: str, domain: str = "toys"):
    """A run of a deployment that is said to be in a state."""
    run = client.create_flow_run_from_deployment(deployment, parameters={"domain": domain})
    become(client, run, state)
    return run


def become(client, run, state: str, message: str | None = None) -> None:
    from prefect.client.schemas.objects import State, StateType

    client.set_flow_run_state(run.id, State(type=StateType(state), message=message), force=True)


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
    for _ in range(MOST_RESTARTS + 2):
        restart(client)
        for run in runs_of(client, deployment):
            become(client, run, "CRASHED")
    assert len(runs_of(client, deployment)) == 1 + MOST_RESTARTS


def test_run_that_was_cancelled_by_hand_follows_and_one_that_was_turned_away_does_not(client, deployment):
    crashed, away = started(client, deployment, "CRASHED"), started(client, deployment, "SCHEDULED")
    become(client, away, "CANCELLED", "Deployment concurrency limit reached.")
    restart(client)
    (again,) = runs_of(client, deployment, beside=[crashed, away])
    become(client, again, "CANCELLED")
    restart(client)
    assert runs_of(client, deployment, beside=[crashed, away, again]) == []


def test_restart_that_was_turned_away_is_left(client, deployment):
    started(client, deployment, "CRASHED")
    restart(client)
    (again,) = (run for run in runs_of(client, deployment) if run.state.is_scheduled())
    become(client, again, "CANCELLED", "Deployment concurrency limit reached.")
    assert deployment not in {run.deployment_id for run in restart(client)}


def test_crashed_run_of_a_deployment_that_is_gone_keeps_no_other_from_starting(client, deployment, caplog):
    crashed = started(client, deployment, "CRASHED")
    gone = deployment_of(client, TAG)
    started(client, gone, "CRASHED")
    client.delete_deployment(gone)
    restart(client)
    assert len(runs_of(client, deployment, beside=[crashed])) == 1
    assert "cannot be started again" in caplog.text


def test_runs_of_others_are_left_alone(client):
    theirs = deployment_of(client, "theirs")
    crashed, pending = (started(client, theirs, state) for state in ("CRASHED", "PENDING"))
    bury(client, datetime.now(UTC))
    restart(client)
    assert state_of(client, pending) == "PENDING"
    assert runs_of(client, theirs, beside=[crashed, pending]) == []


def beat(client, run, at: datetime) -> None:
    """Give a sign of life of a run, and wait until the server has it."""
    number = str(uuid4())
    event = {
        "id": number,
        "occurred": at.isoformat(),
        "event": HEARTBEAT,
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run.id}"},
    }
    client.request("POST", "/events", json=[event])
    deadline = time.monotonic() + 60
    while not client.request("POST", "/events/filter", json={"filter": {"id": {"id": [number]}}}).json()["events"]:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_runs_without_a_sign_of_life_for_long_have_crashed(client, deployment):
    silent, alive, mute = (started(client, deployment, "RUNNING", domain) for domain in ("silent", "alive", "mute"))
    stuck = started(client, deployment, "PENDING", "stuck")
    since = datetime.now(UTC)
    beat(client, silent, at=since - timedelta(minutes=1))
    beat(client, alive, at=since)
    new = [started(client, deployment, state, "new") for state in ("PENDING", "RUNNING")]
    assert {run.id for run in bury(client, since)} >= {silent.id, mute.id, stuck.id}
    assert [state_of(client, run) for run in (silent, mute, stuck)] == ["CRASHED"] * 3
    assert [state_of(client, run) for run in (alive, *new)] == ["RUNNING", "PENDING", "RUNNING"]
    assert "No sign of life since" in client.read_flow_run(silent.id).state.message


def test_nobody_is_found_dead_until_looks_have_come_to_an_end_for_long_enough(client):
    since, looking = datetime.now(UTC), deployment_of(client, TAG, flow="reconcile")
    started(client, looking, "RUNNING")
    for count in range(LOOKS):
        assert not has_looked(client, since), count
        started(client, looking, "COMPLETED")
    assert has_looked(client, since)
    assert not has_looked(client, datetime.now(UTC))


def test_every_deployment_has_the_tag_that_is_looked_for():
    deployments = yaml.safe_load(PREFECT_FILE.read_text())["deployments"]
    assert all(TAG in deployment["tags"] for deployment in deployments)


def test_nothing_is_done_without_a_server_that_stays(monkeypatch):
    monkeypatch.setattr("tasks.dead_runs.has_server", lambda: False)
    assert revive.fn() == {"dead": 0, "restarted": 0}
