from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from learning_lake import add_domain, copied
from mlflow_runs import artifacts_of, runs_below

from data_contracts.configs import MetaTrainConfig, TrainConfig
from data_contracts.errors import EpisodeTooSmall, ModelError, ModelRefused, SettingInvalid, UnknownDomain
from data_contracts.reports import TrainReport
from data_contracts.settings import get_settings, use_home
from models.catalogue import CATALOGUE
from models.selector import Selector
from tasks import progress, registry, train
from tasks.lake import Lake, open_lake
from tasks.tracking import connect
from tasks.train import load_training_domains, meta_train_prior
from tasks.train_learner import train_learner

pytestmark = pytest.mark.usefixtures("short_fits")

SMALL = TrainConfig(steps=6, meta_batch=4, n_way=2, shots=(1, 2), validate_every=2, n_query=3)


def config_of(*learners: str, **changes) -> MetaTrainConfig:
    return MetaTrainConfig(train=SMALL.model_copy(update=changes), learners=learners or ("metric",))


WITH_AUTO = config_of("metric", "auto")


def add_domains(lake: Lake) -> None:
    add_domain(lake, "one", seed=1)
    add_domain(lake, "two", seed=2)


@pytest.fixture
def lake(tracked_home) -> Lake:
    lake = open_lake()
    add_domains(lake)
    return lake


@dataclass(frozen=True)
class TrainedHome:
    """A home with a prior, of which tests get copies, and what was said when it was trained."""

    home: Path
    report: TrainReport


def trained_home(made_home: Callable[[Callable[[Lake], None]], Path], config: MetaTrainConfig) -> TrainedHome:
    reports = []

    def fill(lake: Lake) -> None:
        add_domains(lake)
        reports.append(meta_train_prior(lake, config))

    home = made_home(fill)
    (report,) = reports
    return TrainedHome(home, report)


@pytest.fixture(scope="module")
def home_with_metric(made_home, short_fits) -> TrainedHome:
    """The domains one and two, and a prior of both that is `metric` alone."""
    return trained_home(made_home, config_of())


@pytest.fixture(scope="module")
def home_with_auto(made_home, short_fits) -> TrainedHome:
    """The domains one and two, and a prior of both with a choice among its learners."""
    return trained_home(made_home, WITH_AUTO)


class Stop(Exception):
    """Stands for whatever stops a run."""


def stop_at(step: int, kind: str, reported: list[int] | None = None):
    """Stop once a step of a learner is reported, and note what was."""

    def stop(done: int, total: int, what: str) -> None:
        if what == f"meta-train {kind}":
            if reported is not None:
                reported.append(done)
            if done == step:
                raise Stop

    return progress.listening(stop)


def test_prior_is_registered_with_its_lineage_and_becomes_champion(home_with_auto, home):
    lake, report = copied(home_with_auto.home, home), home_with_auto.report
    assert (report.model, report.version, report.alias) == ("metafuse.prior", "1", "champion")
    assert report.domains == ("one", "two")
    assert report.classes == 8
    assert report.validation_accuracy >= report.untrained_accuracy
    learner, ref = registry.load_prior()
    assert learner.kind == report.learner == "auto"
    assert ref.tags["lake.items_one"] == str(lake.version("items_one"))
    assert ref.tags["labels"] == "96"


def test_best_of_the_learners_is_registered_where_no_choice_was_asked_for(lake):
    report = meta_train_prior(lake, config_of("metric", "ridge"))
    best = max(("metric", "ridge"), key=lambda kind: sum(r.accuracy for r in report.leaderboard if r.learner == kind))
    learner, ref = registry.load_prior()
    assert learner.kind == report.learner == best
    assert ref.tags["learners"] == "metric,ridge"
    assert {(row.shot, row.learner) for row in report.leaderboard} == {
        (shot, name) for shot in (1, 2) for name in ("metric", "ridge", "tuned_logreg", "nearest_centroid")
    }


def test_run_of_a_prior_has_a_run_below_it_for_each_learner(home_with_auto, home):
    copied(home_with_auto.home, home)
    report = home_with_auto.report
    client = connect()
    run = client.get_run(client.get_model_version(report.model, report.version).run_id)
    assert run.data.params["train.steps"] == "6"
    assert run.data.metrics["validation_accuracy"] == pytest.approx(report.validation_accuracy, abs=1e-6)
    figures = {f"figures/{name}.png" for name in ("learning-curves", "accuracy-against-shots", "reliability")}
    assert artifacts_of(run) == {*figures, "leaderboard.md", "leaderboard.json"}
    below = runs_below(run)
    assert {"metric", "auto", "tuned_logreg", "nearest_centroid"} <= set(below)
    metric = below["metric"]
    assert (metric.data.params["steps"], metric.data.tags["family"]) == ("6", "metric")
    assert {"loss", "validation_accuracy", "untrained_accuracy", "seconds", "1-shot/accuracy"} <= set(
        metric.data.metrics
    )
    assert [point.step for point in client.get_metric_history(metric.info.run_id, "loss")] == [1, 2, 3, 4, 5, 6]
    assert artifacts_of(metric) == {"figures/training.png"}
    assert below["auto"].data.metrics["seconds"] > metric.data.metrics["seconds"]
    assert {found.info.status for found in below.values()} == {"FINISHED"}


def test_same_data_and_config_train_nothing_again(home_with_metric, home):
    first, again = home_with_metric.report, meta_train_prior(copied(home_with_metric.home, home), config_of())
    assert (first.is_new, again.is_new) == (True, False)
    assert first.model_dump(exclude={"is_new", "seconds"}) == again.model_dump(exclude={"is_new", "seconds"})


def test_prior_of_another_version_of_the_package_is_another_prior(home_with_metric, home, monkeypatch):
    monkeypatch.setattr("tasks.train.version", lambda package: "0.0.1")
    report = meta_train_prior(copied(home_with_metric.home, home), config_of())
    assert (report.is_new, report.version) == (True, "2")


def test_prior_of_learners_that_are_made_otherwise_now_gives_way_to_one_that_can_be_read(lake, monkeypatch):
    with monkeypatch.context() as before:
        before.setitem(CATALOGUE, "metric", CATALOGUE["mahalanobis"])
        meta_train_prior(lake, config_of())
    with pytest.raises(ModelRefused):
        registry.load_prior("champion")
    report = meta_train_prior(lake, config_of())
    assert (report.is_new, report.version, report.alias) == (True, "2", "champion")
    assert "version 1 cannot be read" in report.why
    assert registry.load_prior("champion")[0].kind == report.learner


def test_prior_whose_choice_is_made_otherwise_now_is_another_prior(home_with_auto, home, monkeypatch):
    monkeypatch.setattr(train, "Selector", lambda members: Selector(members + 1))
    report = meta_train_prior(copied(home_with_auto.home, home), WITH_AUTO)
    assert (report.is_new, report.version) == (True, "2")


def test_new_labels_train_a_new_prior_that_is_compared_with_the_champion(home_with_metric, home):
    lake = copied(home_with_metric.home, home)
    add_domain(lake, "three", seed=3)
    report = meta_train_prior(lake, config_of())
    assert report.version == "2"
    assert report.champion_accuracy is not None
    assert lake.read("promotions").num_rows == (2 if report.alias else 1)


def test_prior_that_was_replaced_is_not_called_champion(lake):
    one, two = (config_of(steps=0).model_copy(update={"domains": (name,)}) for name in ("one", "two"))
    assert [meta_train_prior(lake, config).alias for config in (one, two, one)] == ["champion", "champion", "previous"]


def test_excluded_classes_are_not_seen(lake):
    config = MetaTrainConfig(domains=("one",), exclude_classes=("class-00", "class-01"), train=SMALL)
    (data,) = load_training_domains(lake, config)
    assert len(data.classes) == 6
    assert int((data.labels >= 0).sum()) == 6 * 6


@pytest.mark.parametrize("kind", ["metric", "triplet"])
def test_stopped_training_goes_on_from_its_checkpoint(lake, tmp_path, kind):
    domains = load_training_domains(lake, config_of())
    whole = train_learner(kind, domains, SMALL)
    path = tmp_path / "checkpoint.pt"

    with pytest.raises(Stop), stop_at(4, kind):
        train_learner(kind, domains, SMALL, path)
    assert path.exists()
    resumed = train_learner(kind, domains, SMALL, path)
    assert (whole.resumed_from, resumed.resumed_from) == (0, 4)
    assert [step for step, _ in resumed.curve.losses] == [1, 2, 3, 4, 5, 6]
    assert dict(resumed.curve.losses) == pytest.approx(dict(whole.curve.losses))
    for name, value in whole.learner.weights().items():
        torch.testing.assert_close(resumed.learner.weights()[name], value)


def test_checkpoint_that_cannot_be_used_is_begun_anew(lake, tmp_path):
    domains = load_training_domains(lake, config_of())
    path = tmp_path / "checkpoint.pt"
    train_learner("ridge", domains, SMALL, path)
    other = train_learner("metric", domains, SMALL, path)
    path.write_bytes(path.read_bytes()[:100])
    cut_off = train_learner("metric", domains, SMALL, path)
    assert (other.resumed_from, cut_off.resumed_from) == (0, 0)
    assert cut_off.curve.losses == other.curve.losses


def test_checkpoint_that_lacks_anything_is_begun_anew_and_says_so(lake, tmp_path, caplog):
    domains = load_training_domains(lake, config_of())
    path = tmp_path / "checkpoint.pt"
    short = SMALL.model_copy(update={"steps": 0})
    train_learner("metric", domains, short, path)
    state = torch.load(path, weights_only=True)
    for missing in (None, *state["loop"]):
        kept = {name: value for name, value in state["loop"].items() if name != missing}
        torch.save({**state, "loop": kept}, path)
        caplog.clear()
        reported: list[int] = []
        with pytest.raises(Stop), stop_at(1, "metric", reported):
            train_learner("metric", domains, SMALL, path)
        assert ("metric is trained from the start" in caplog.text) == (missing is not None)
        assert reported == ([0, 1] if missing is None else [0, 0, 1])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_that_is_not_there_is_refused(lake, monkeypatch):
    domains = load_training_domains(lake, config_of())
    monkeypatch.setenv("METAFUSE_DEVICE", "cuda")
    use_home()
    with pytest.raises(SettingInvalid, match="torch finds no GPU"):
        train_learner("metric", domains, SMALL)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_learner_trained_on_a_gpu_comes_back_to_the_cpu(lake, monkeypatch, tmp_path):
    domains, path = load_training_domains(lake, config_of()), tmp_path / "checkpoint.pt"
    monkeypatch.setenv("METAFUSE_DEVICE", "cuda")
    use_home()
    with pytest.raises(Stop), stop_at(4, "metric"):
        train_learner("metric", domains, SMALL, path)
    trained = train_learner("metric", domains, SMALL, path)
    assert trained.resumed_from == 4
    assert {value.device.type for value in trained.learner.weights().values()} == {"cpu"}


@pytest.mark.slow
def test_stopped_run_goes_on_within_a_learner_and_repeats_none_that_is_finished(lake):
    config = config_of("ridge", "metric", "mahalanobis")
    with pytest.raises(Stop), stop_at(4, "metric"):
        meta_train_prior(lake, config)
    steps: list[tuple[str, int]] = []
    with progress.listening(lambda done, total, what: steps.append((what, done))):
        report = meta_train_prior(lake, config)
    assert report.resumed == {"ridge": 6, "metric": 4}
    assert [done for what, done in steps if what == "meta-train ridge"] == [6]
    assert [done for what, done in steps if what == "meta-train metric"] == [4, 5, 6]
    assert [done for what, done in steps if what == "meta-train mahalanobis"] == [0, 0, 1, 2, 3, 4, 5, 6]
    whole = meta_train_prior(open_lake(), config_of("metric", "mahalanobis", "ridge"))
    assert whole.resumed == {}
    assert whole.validation_accuracy == pytest.approx(report.validation_accuracy)


def test_checkpoints_are_discarded_on_request(lake):
    with pytest.raises(Stop), stop_at(4, "metric"):
        meta_train_prior(lake, config_of())
    report = meta_train_prior(lake, config_of().model_copy(update={"resume": False}))
    assert report.resumed == {}


def test_checkpoint_is_removed_once_the_prior_is_registered(home_with_metric, home):
    copied(home_with_metric.home, home)
    assert list((get_settings().cache / "checkpoints").iterdir()) == []


def test_crash_between_registering_and_judging_is_finished_by_the_next_run(lake, monkeypatch):
    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "_judge", die)
    with pytest.raises(KeyboardInterrupt):
        meta_train_prior(lake, config_of())
    monkeypatch.undo()
    report = meta_train_prior(lake, config_of())
    assert (report.version, report.alias) == ("1", "champion")


def test_domain_without_labels_left_is_refused(lake):
    excluded = tuple(f"class-{number:02d}" for number in range(8))
    with pytest.raises(EpisodeTooSmall, match="none of the domains one has labelled items"):
        meta_train_prior(lake, MetaTrainConfig(domains=("one",), exclude_classes=excluded))


def test_unknown_learner_is_refused_before_anything_is_read(lake):
    with pytest.raises(ModelError, match=r"no learner 'oracle'; choose from metric, .*, auto"):
        meta_train_prior(lake, MetaTrainConfig(domains=("nowhere",), learners=("metric", "oracle")))


def test_unknown_domain_is_named(lake):
    with pytest.raises(UnknownDomain, match="nowhere"):
        meta_train_prior(lake, MetaTrainConfig(domains=("nowhere",)))
