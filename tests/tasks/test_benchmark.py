import pytest
import torch
from learning_lake import add_domain
from mlflow_runs import artifacts_of, runs_below

from data_contracts.configs import BenchmarkConfig, TrainConfig
from data_contracts.errors import ModelError, UnknownDomain
from models.evaluation import hide_views
from tasks.benchmark import run_benchmark
from tasks.features import load_domain
from tasks.lake import Lake, open_lake
from tasks.tracking import connect, find_experiment

pytestmark = pytest.mark.usefixtures("short_fits")

CONFIG = BenchmarkConfig(
    train=("one",),
    test=("two",),
    learners=("metric", "auto"),
    holdout_fraction=0.25,
    split_seeds=(0, 1),
    n_way=2,
    shots=(1,),
    n_query=3,
    episodes=10,
    training=TrainConfig(steps=2, n_way=2, shots=(1,), n_query=3, meta_batch=2),
)
LEARNERS = {"best_single", "concat_logreg", "tuned_logreg", "nearest_centroid", "metric", "auto"}


@pytest.fixture
def lake(tracked_home) -> Lake:
    lake = open_lake()
    add_domain(lake, "one", seed=1)
    add_domain(lake, "two", seed=2)
    return lake


def test_run_of_a_benchmark_has_a_run_below_it_for_each_learner(lake):
    report = run_benchmark(lake, CONFIG)
    assert {row.learner for row in report.rows} == {row.learner for row in report.leaderboard} == LEARNERS
    (run,) = connect().search_runs([find_experiment(connect(), "metafuse/benchmark")], "params.n_way = '2'")
    figures = {f"figures/{name}.png" for name in ("learning-curves", "accuracy-against-shots", "reliability")}
    assert artifacts_of(run) == {*figures, "leaderboard.md", "leaderboard.json"}
    below = runs_below(run)
    assert set(below) == LEARNERS
    history = connect().get_metric_history(below["metric"].info.run_id, "1-shot/accuracy")
    accuracies = {row.split_seed: row.accuracy for row in report.rows if row.learner == "metric"}
    assert {point.step: point.value for point in history} == pytest.approx(accuracies)
    assert "seconds" not in below["tuned_logreg"].data.metrics
    seconds = {name: below[name].data.metrics["seconds"] for name in ("metric", "auto")}
    assert 0 < seconds["metric"] < seconds["auto"]


def test_run_of_a_learner_shows_how_it_learned_on_each_split(lake):
    run_benchmark(lake, CONFIG)
    (run,) = connect().search_runs([find_experiment(connect(), "metafuse/benchmark")], "params.n_way = '2'")
    below = runs_below(run)
    for split in ("split-0", "split-1"):
        for name, steps in (("loss", [1, 2]), ("validation_accuracy", [0, 2])):
            history = connect().get_metric_history(below["metric"].info.run_id, f"{split}/{name}")
            assert [point.step for point in history] == steps
    assert artifacts_of(below["metric"]) == {"figures/training.png"}
    assert artifacts_of(below["auto"]) == artifacts_of(below["nearest_centroid"]) == set()


@pytest.mark.slow
def test_views_of_test_items_are_hidden_if_asked(lake):
    whole, missing = (run_benchmark(lake, CONFIG.model_copy(update={"missing": share})) for share in (0.0, 0.5))
    assert missing.protocol.missing == 0.5
    found = {row.learner: row for row in missing.leaderboard}
    for row in whole.leaderboard:
        assert found[row.learner].accuracy < row.accuracy


def test_splits_hide_other_views_of_the_same_share(lake):
    domains = [load_domain(lake, name) for name in ("one", "two")]
    first, again, other = (hide_views(domains, 0.5, seed) for seed in (0, 0, 1))
    presence = [torch.stack([domain.presence for domain in drawn]) for drawn in (first, again, other)]
    assert torch.equal(presence[0], presence[1])
    assert not torch.equal(presence[0], presence[2])
    assert not torch.equal(*presence[0])
    assert presence[0].any(-1).all()
    assert presence[0].float().mean().item() == 0.5


def test_unknown_learner_and_unknown_domain_are_refused(lake):
    with pytest.raises(ModelError, match="no learner 'oracle'"):
        run_benchmark(lake, CONFIG.model_copy(update={"learners": ("oracle",), "train": ("nowhere",)}))
    with pytest.raises(UnknownDomain, match="nowhere"):
        run_benchmark(lake, CONFIG.model_copy(update={"train": ("nowhere",)}))
