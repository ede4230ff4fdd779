"""The transfer report as a flow, on a Prefect server of its own."""

import pytest
from learning_lake import add_domain

from data_contracts.configs import TrainConfig, TransferConfig
from data_contracts.errors import EpisodeTooSmall
from tasks.lake import open_lake

pytestmark = pytest.mark.orchestrated

SMALL = TransferConfig(
    learners=("metric",),
    n_way=2,
    shots=(1,),
    episodes=10,
    training=TrainConfig(steps=1, meta_batch=2, n_way=2, shots=(1,), n_query=3),
)


def test_flow_shows_what_the_other_domains_are_worth(server: None):
    from prefect.client.orchestration import get_client

    from flows.transfer_report import transfer_report

    lake = open_lake()
    add_domain(lake, "one", n_classes=12, seed=1)
    with pytest.raises(EpisodeTooSmall, match="1 domains have labels"):
        transfer_report(SMALL)
    add_domain(lake, "two", n_classes=12, seed=2)
    report = transfer_report(SMALL)
    with get_client(sync_client=True) as client:
        (artifact,) = client.request("POST", "/artifacts/latest/filter", json={}).json()
    assert [row["domain"] for row in report["rows"]] == ["one", "two"]
    assert artifact["key"] == "transfer"
    assert "| two, 1 shot | metric |" in artifact["data"]
