import mlflow
import pytest
from learning_lake import add_domain

from data_contracts.configs import TrainConfig, TransferConfig
from data_contracts.errors import EpisodeTooSmall, ModelError, UnknownDomain
from tasks import progress
from tasks.lake import Lake, open_lake
from tasks.leaderboards import transfer_table
from tasks.tracking import connect
from tasks.transfer import gain_figure, measure_transfer

pytestmark = pytest.mark.usefixtures("short_fits")

SMALL = TransferConfig(
    learners=("metric",),
    n_way=2,
    shots=(1, 2),
    episodes=10,
    training=TrainConfig(steps=2, meta_batch=2, n_way=2, shots=(1, 2), n_query=3),
)


@pytest.fixture
def lake(tracked_home) -> Lake:
    lake = open_lake()
    add_domain(lake, "one", n_classes=12, per_class=8, seed=1)
    add_domain(lake, "two", n_classes=12, per_class=8, seed=2)
    return lake


def test_report_is_shown_and_tracked_with_its_lineage(lake):
    steps: list[str] = []
    with progress.listening(lambda done, total, what: steps.append(what)):
        report = measure_transfer(lake, SMALL)
    assert [(row.domain, row.shot) for row in report.rows] == [("one", 1), ("one", 2), ("two", 1), ("two", 2)]
    assert {"without one: meta-train metric", "without two: meta-train metric"} <= set(steps)
    (run,) = mlflow.search_runs(experiment_names=["metafuse/transfer"], output_format="list")
    assert run.data.params["learners"] == "metric"
    assert run.data.tags["lake.items_two"] == str(lake.version("items_two"))
    assert run.data.metrics["two.metric.gain"] == pytest.approx(report.rows[-1].gain)
    assert run.data.metrics["two.concat_logreg.accuracy"] == pytest.approx(
        report.rows[-1].from_scratch["concat_logreg"].accuracy
    )
    history = connect().get_metric_history(run.info.run_id, "one.metric.coverage")
    assert [found.step for found in history] == [1, 2]
    assert [found.path for found in connect().list_artifacts(run.info.run_id, "figures")] == ["figures/gains.png"]
    table = transfer_table(report.model_dump(mode="json"))
    assert "| one, 1 shot | metric | domain and classes |" in table
    assert "sets of 90.0 % cover" in table


def test_table_and_figure_say_which_domains_are_harmed_and_which_were_not_tested(lake):
    report = measure_transfer(lake, SMALL)
    harmed = report.rows[0].model_copy(update={"gain": -0.125, "gain_ci95": 0.05, "is_negative": True})
    rows = (harmed, *(row.model_copy(update={"is_negative": False}) for row in report.rows[1:]))
    changed = report.model_copy(update={"rows": rows, "skipped": {"three": "too small"}})
    table = transfer_table(changed.model_dump(mode="json"))
    assert "harms one. Adapt from scratch there." in table
    assert "| -12.5 ± 5.0 **negative** |" in table
    assert "- three was not tested: too small" in table
    axes = gain_figure(rows).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "two"]


def test_one_labelled_domain_is_not_enough(tracked_home):
    lake = open_lake()
    add_domain(lake, "one")
    with pytest.raises(EpisodeTooSmall, match="1 domains have labels"):
        measure_transfer(lake, SMALL)


def test_domain_and_learner_that_do_not_exist_are_refused_before_any_work(lake):
    with pytest.raises(UnknownDomain, match="nowhere"):
        measure_transfer(lake, SMALL.model_copy(update={"domains": ("nowhere",)}))
    with pytest.raises(ModelError, match="no learner 'oracle'"):
        measure_transfer(lake, SMALL.model_copy(update={"learners": ("oracle",)}))
