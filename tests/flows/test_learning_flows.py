"""Meta-training, adapting and scoring as flows, on a Prefect server of their own."""

import pytest
from learning_lake import add_domain

from data_contracts.configs import AdaptConfig, MetaTrainConfig, ScoreConfig, TrainConfig
from data_contracts.errors import UnknownDomain
from tasks.lake import open_lake

pytestmark = pytest.mark.slow

SMALL = MetaTrainConfig(train=TrainConfig(steps=2, meta_batch=2, n_way=2, shots=(1, 2), n_query=3))


def test_flows_learn_show_what_they_found_and_repeat_nothing(server: None):
    from prefect.client.orchestration import get_client

    from flows.adapt_domain import adapt_domain
    from flows.meta_train import meta_train
    from flows.reconcile import reconcile
    from flows.score_domain import score_domain

    lake = open_lake()
    add_domain(lake, "one", seed=1)
    add_domain(lake, "two", per_class=12, spread=1.0, seed=2)
    runs = [
        (meta_train(SMALL), adapt_domain("two", AdaptConfig(shots=2)), score_domain("two", ScoreConfig()))
        for _ in range(2)
    ]
    first, second = runs
    assert [report["is_new"] for report in first] == [True, True, True]
    assert [report["is_new"] for report in second] == [False, False, False]
    assert first[1]["views"].keys() == {"title", "tabular"}
    assert reconcile() == {"delivered": 0, "dead": 0, "restarted": 0}

    with get_client(sync_client=True) as client:
        found = client.request("POST", "/artifacts/latest/filter", json={}).json()
        runs_of_flows = client.request("POST", "/flow_runs/filter", json={}).json()
        names = {run["name"] for run in runs_of_flows}
        tags = {tag for run in client.request("POST", "/task_runs/filter", json={}).json() for tag in run["tags"]}
    assert {artifact["key"] for artifact in found} == {"prior", "adapted-two", "scored-two"}
    assert {"adapt-two", "score-two"} <= names
    assert "domain:two" in tags
    assert all("domain:two" in run["tags"] for run in runs_of_flows if run["name"] in ("adapt-two", "score-two"))
    leaderboard = next(artifact["data"] for artifact in found if artifact["key"] == "adapted-two")
    assert "| **metafuse.two** v1 |" in leaderboard

    with pytest.raises(UnknownDomain, match="nowhere"):
        adapt_domain("nowhere")
