from pathlib import Path

import pytest

from data_contracts.errors import ServiceUnavailable
from tasks.events import DELIVERED, deliver_outbox, enqueue, labels_arrived, pending
from tasks.lake import Lake


@pytest.fixture
def lake(home: Path) -> Lake:
    return Lake(str(home / "lake"))


def test_event_is_pending_until_it_is_delivered(lake: Lake):
    enqueue(lake, labels_arrived("noto-ru", 3))
    assert [event.key for event in pending(lake)] == ["metafuse.labels.arrived/noto-ru/3"]
    rows = lake.read("outbox").to_pylist()
    assert [row["status"] for row in rows] == ["pending"]


def test_same_event_is_written_once(lake: Lake):
    for _ in range(3):
        enqueue(lake, labels_arrived("noto-ru", 3))
    enqueue(lake, labels_arrived("noto-ru", 4))
    assert lake.read("outbox").num_rows == 2


def test_event_has_the_same_id_whenever_it_is_sent():
    first, again, other = labels_arrived("a", 1), labels_arrived("a", 1), labels_arrived("a", 2)
    assert first.event_id == again.event_id != other.event_id


def test_event_names_its_domain_for_the_trigger():
    sent = labels_arrived("noto-ru", 3).as_prefect()
    assert sent["event"] == "metafuse.labels.arrived"
    assert sent["resource"]["prefect.resource.id"] == "metafuse.domain.noto-ru"
    assert sent["payload"] == {"domain": "noto-ru", "labels_version": 3}


def test_without_a_server_events_stay_in_the_outbox(lake: Lake):
    enqueue(lake, labels_arrived("noto-ru", 3))
    assert deliver_outbox(lake) == 0
    assert len(pending(lake)) == 1


def test_server_that_is_down_loses_nothing(lake: Lake):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    enqueue(lake, labels_arrived("noto-ru", 3))
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}), pytest.raises(ServiceUnavailable):
        deliver_outbox(lake)
    assert len(pending(lake)) == 1
    assert DELIVERED not in lake.read("outbox")["status"].to_pylist()
