"""The benchmark as a flow, on a Prefect server of its own."""

import pytest
from learning_lake import add_domain

from data_contracts.configs import BenchmarkConfig, TrainConfig
from tasks.lake import open_lake

pytestmark = pytest.mark.orchestrated

SMALL = BenchmarkConfig(
    train=("one",),
    test=("two",),
    learners=("metric", "transductive"),
    holdout_fraction=0.25,
    n_way=2,
    shots=(1, 2),
    n_query=3,
    episodes=10,
    training=TrainConfig(steps=1, meta_batch=2, n_way=2, shots=(1,), n_query=3),
)


def test_flow_shows_every_learner_at_every_shot_best_first(server: None):
    from prefect.client.orchestration import get_client

    from flows.benchmark_learners import benchmark_learners

    lake = open_lake()
    add_domain(lake, "one", n_classes=12, per_class=8, seed=1)
    add_domain(lake, "two", n_classes=12, per_class=8, spread=2.0, seed=2)
    report = benchmark_learners(SMALL)
    with get_client(sync_client=True) as client:
        (artifact,) = client.request("POST", "/artifacts/latest/filter", json={}).json()
    assert artifact["key"] == "benchmark"
    assert artifact["description"] == "2 learners on two, classes never trained on"
    title, head, _, *lines = [line for line in artifact["data"].splitlines() if line]
    assert title == "# Benchmark on two"
    assert head.startswith("| shot | learner | family | accuracy, % | over untrained |")
    assert len(lines) == len(report["leaderboard"]) == 2 * 6
    for line, row in zip(lines, report["leaderboard"], strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[:3] == [str(row["shot"]), row["learner"], row["family"]]
        assert cells[3] == f"{100 * row['accuracy']:.1f} ± {100 * row['ci95']:.1f}"
        assert cells[4] == f"{100 * row['over_untrained']:+.1f} ± {100 * row['over_untrained_ci95']:.1f}"
    families = {row["learner"]: row["family"] for row in report["leaderboard"]}
    assert families["transductive"] == "metric, transductive"
