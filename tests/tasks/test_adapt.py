import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from lake_of import add_labels
from learning_lake import UNTRAINED

from data_contracts.configs import AdaptConfig
from data_contracts.errors import EpisodeTooSmall, ModelError, UnknownDomain, UnknownModel
from models import catalogue
from tasks import adapt, importance, registry
from tasks.adapt import adapt_to_domain, is_right, measure
from tasks.features import load_domain
from tasks.lake import Lake
from tasks.tracking import connect
from tasks.train import meta_train_prior

pytestmark = pytest.mark.usefixtures("short_fits")


@pytest.fixture
def lake(primed) -> Lake:
    return primed


def test_model_is_registered_with_lineage_and_judged_on_what_it_has_not_seen(lake):
    outcome = adapt_to_domain(lake, "two", AdaptConfig(shots=2))
    assert (outcome.model, outcome.version, outcome.alias) == ("metafuse.two", "1", "champion")
    assert (outcome.labels, outcome.tested) == (16, 80)
    assert outcome.accuracy > 0.5
    assert sum(outcome.views.values()) == pytest.approx(1, abs=1e-5)
    assert set(outcome.baselines) == {"best_single", "concat_logreg", "tuned_logreg"}
    model, ref = registry.load_domain_model("two")
    assert ref.tags["domain"] == "two"
    assert ref.tags["prior_version"] == "1"
    assert ref.tags["lake.items_two"] == str(lake.version("items_two"))
    data = load_domain(lake, "two")
    support = set(registry.read_package(ref).context["support_ids"])
    unseen = data.take(torch.tensor([row for row, item in enumerate(data.item_ids) if item not in support]))
    assert measure(model.predict(unseen), unseen.labels).accuracy == pytest.approx(outcome.accuracy)


def test_columns_that_carried_the_domain_are_named(lake):
    outcome = adapt_to_domain(lake, "two", AdaptConfig(shots=2))
    assert set(outcome.columns) == {"title", "tabular/year", "tabular/paths"}
    assert list(outcome.columns) == sorted(outcome.columns, key=lambda name: -outcome.columns[name].loss)
    assert next(iter(outcome.columns)) == "title"
    title = outcome.columns["title"]
    assert title.loss > title.ci95
    card = connect().get_model_version(outcome.model, outcome.version).description
    assert f"title {title.loss:.2f} ± {title.ci95:.2f}" in card


def test_table_that_is_too_wide_is_measured_as_a_whole(lake, monkeypatch):
    monkeypatch.setattr(importance, "MOST_COLUMNS", 1)
    assert set(adapt_to_domain(lake, "two", AdaptConfig(shots=2)).columns) == {"title", "tabular"}


def test_run_of_a_model_shows_its_accuracy_beside_the_baselines(lake):
    outcome = adapt_to_domain(lake, "two", AdaptConfig(shots=2))
    client = connect()
    run_id = client.get_model_version(outcome.model, outcome.version).run_id
    assert [found.path for found in client.list_artifacts(run_id, "figures")] == ["figures/accuracy.png"]


def test_adapting_again_registers_nothing_new(lake):
    first = adapt_to_domain(lake, "two", AdaptConfig(shots=2))
    again = adapt_to_domain(lake, "two", AdaptConfig(shots=2))
    assert (first.is_new, again.is_new) == (True, False)
    assert first.model_dump(exclude={"is_new", "seconds"}) == again.model_dump(exclude={"is_new", "seconds"})


def test_labels_of_another_domain_change_nothing(lake):
    adapt_to_domain(lake, "two", AdaptConfig(shots=2))
    add_labels(lake, "one", {"class-00-00": "class-01"}, day=3)
    assert not adapt_to_domain(lake, "two", AdaptConfig(shots=2)).is_new


def test_new_labels_give_a_new_version(lake):
    adapt_to_domain(lake, "two", AdaptConfig(shots=2))
    add_labels(lake, "two", {"class-00-00": "class-01"}, day=3)
    assert adapt_to_domain(lake, "two", AdaptConfig(shots=2)).version == "2"


def test_challenger_that_knows_more_deposes_the_champion(lake):
    poor = adapt_to_domain(lake, "two", AdaptConfig(shots=1, classes=("class-00", "class-01")))
    rich = adapt_to_domain(lake, "two", AdaptConfig(shots=4))
    assert (poor.decision, rich.decision) == ("promote", "promote")
    assert registry.resolve("metafuse.two").version == rich.version
    assert registry.resolve("metafuse.two", "previous").version == poor.version
    last = lake.read("promotions", where="model = 'metafuse.two'").sort_by("at").to_pylist()[-1]
    assert json.loads(last["numbers_json"])["gain_low"] > 0
    assert last["who"] == "adapt_domain"


def test_challenger_that_knows_less_is_held_back(lake):
    adapt_to_domain(lake, "two", AdaptConfig(shots=4))
    poor = adapt_to_domain(lake, "two", AdaptConfig(shots=1))
    assert poor.decision != "promote"
    assert registry.resolve("metafuse.two").version == "1"


def test_damaged_champion_is_replaced(lake, home: Path):
    adapt_to_domain(lake, "two", AdaptConfig(shots=4))
    meta_train_prior(lake, UNTRAINED.model_copy(update={"domains": ("one", "two")}))
    damage(home)
    train = UNTRAINED.train.model_copy(update={"seed": 3})
    prior = meta_train_prior(lake, UNTRAINED.model_copy(update={"train": train}))
    assert (prior.alias, prior.champion_accuracy) == ("champion", None)
    assert prior.why.endswith("champion version 2 cannot be read")
    model = adapt_to_domain(lake, "two", AdaptConfig(shots=4))
    assert (model.version, model.alias) == ("2", "champion")
    assert model.why == "promote: champion version 1 cannot be read, judged on 64 items"


def damage(home: Path) -> None:
    """Change the last number of all stored weights."""
    for path in home.rglob("weights.safetensors"):
        path.write_bytes(path.read_bytes()[:-4] + b"abcd")


def test_alias_is_the_one_the_version_has_now(lake):
    poor = AdaptConfig(shots=1, classes=("class-00", "class-01"))
    assert adapt_to_domain(lake, "two", poor).alias == "champion"
    assert adapt_to_domain(lake, "two", AdaptConfig(shots=4)).alias == "champion"
    again = adapt_to_domain(lake, "two", poor)
    assert (again.version, again.decision, again.alias) == ("1", "promote", "previous")


def test_of_many_that_adapt_at_once_one_registers(lake):
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda _: adapt_to_domain(lake, "two", AdaptConfig(shots=2)), range(8)))
    assert {outcome.version for outcome in outcomes} == {"1"}
    assert sum(outcome.is_new for outcome in outcomes) == 1
    assert lake.read("promotions", where="model = 'metafuse.two'").num_rows == 1


@pytest.mark.slow
def test_of_64_triggers_in_several_processes_one_registers(lake, home: Path):
    script = (
        "from concurrent.futures import ThreadPoolExecutor as T;"
        "from data_contracts.configs import AdaptConfig; from tasks.adapt import adapt_to_domain;"
        "from tasks.lake import open_lake;"
        "print(sum(o.is_new for o in T(16).map("
        "lambda _: adapt_to_domain(open_lake(), 'two', AdaptConfig(shots=2)), range(16))))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    worked = [int(process.communicate()[0].split()[-1]) for process in processes]
    assert sum(worked) == 1
    assert [ref.version for ref in [registry.resolve("metafuse.two")]] == ["1"]
    with pytest.raises(UnknownModel):
        registry.resolve("metafuse.two", "2")


def test_crash_between_registering_and_judging_is_finished_by_the_next_run(lake, monkeypatch):
    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(adapt, "_judge", die)
    with pytest.raises(KeyboardInterrupt):
        adapt_to_domain(lake, "two", AdaptConfig(shots=2))
    monkeypatch.undo()
    outcome = adapt_to_domain(lake, "two", AdaptConfig(shots=2))
    assert (outcome.version, outcome.alias) == ("1", "champion")


def test_model_that_does_not_know_a_class_is_wrong_about_it(lake):
    adapt_to_domain(lake, "two", AdaptConfig(shots=2, classes=("class-00", "class-01")))
    model, _ = registry.load_domain_model("two")
    data = load_domain(lake, "two")
    right = is_right(model, data)
    assert not right[data.labels > 1].any()
    assert right[data.labels <= 1].float().mean() > 0.5


def test_no_labels_left_to_judge_on_is_refused(lake):
    with pytest.raises(EpisodeTooSmall, match="no labelled items left to judge"):
        adapt_to_domain(lake, "two", AdaptConfig(shots=12))


def test_learner_that_is_not_the_priors_is_refused(lake):
    with pytest.raises(ModelError, match="has the learners metric, but 'ridge' was asked for"):
        adapt_to_domain(lake, "two", AdaptConfig(shots=2, learner="ridge"))


def test_learner_that_was_chosen_is_named_with_the_shares_of_all(lake, monkeypatch):
    monkeypatch.setattr(catalogue, "AUTO_MEMBERS", ("metric", "ridge"))
    meta_train_prior(lake, UNTRAINED.model_copy(update={"learners": ("auto", "mahalanobis", "transductive")}))
    outcome = adapt_to_domain(lake, "two", AdaptConfig(shots=2))
    assert set(outcome.preference) == {"metric", "ridge", "mahalanobis"}
    assert sum(outcome.preference.values()) == pytest.approx(1)
    assert outcome.learner == max(outcome.preference, key=outcome.preference.__getitem__)
    model, ref = registry.load_domain_model("two")
    assert (model.kind, ref.tags["learner"]) == (outcome.learner, outcome.learner)
    card = connect().get_model_version(ref.name, ref.version).description
    assert f"`auto` chose this learner: {outcome.learner} " in card


def test_learner_asked_for_by_name_need_not_be_one_that_auto_chooses_from(lake):
    meta_train_prior(lake, UNTRAINED.model_copy(update={"learners": ("auto", "transductive")}))
    outcome = adapt_to_domain(lake, "two", AdaptConfig(shots=2, learner="transductive"))
    assert (outcome.learner, outcome.preference) == ("transductive", {})


def test_learner_that_there_is_not_is_refused_with_those_there_are(lake):
    with pytest.raises(ModelError, match=r"no learner 'other'; choose from metric, .*, auto"):
        adapt_to_domain(lake, "two", AdaptConfig(shots=2, learner="other"))


def test_unknown_domain_and_unknown_prior_are_named(lake):
    with pytest.raises(UnknownDomain, match="nowhere"):
        adapt_to_domain(lake, "nowhere", AdaptConfig())
    with pytest.raises(UnknownModel, match="'77'"):
        adapt_to_domain(lake, "two", AdaptConfig(prior="77"))
    assert registry.resolve_or_none("metafuse.two") is None


def test_measures_are_those_one_can_work_out_by_hand():
    probabilities = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
    found = measure(probabilities, torch.tensor([0, 1]))
    assert found.accuracy == 0.5
    assert found.nll == pytest.approx(-(torch.tensor([0.9, 0.4]).log().mean().item()))
    assert found.ece == pytest.approx((0.1 + 0.6) / 2)
