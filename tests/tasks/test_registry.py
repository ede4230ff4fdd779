import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from safetensors.torch import save_file

from data_contracts.errors import ContractInvalid, ModelRefused, ServiceUnavailable, UnknownModel
from tasks import registry
from tasks.lake import open_lake
from tasks.registry import Package, find_by_key, find_judged, load_prior, model_name, read_package, resolve, set_alias
from tasks.tracking import tracked_run


@dataclass
class Numbers:
    """The smallest thing that can be registered as a prior."""

    values: dict[str, torch.Tensor]
    kind: str = "numbers"
    options: dict[str, Any] = field(default_factory=dict)

    def config(self) -> dict[str, Any]:
        return {"kind": self.kind, **self.options}

    def weights(self) -> dict[str, torch.Tensor]:
        return self.values


@pytest.fixture
def prior(tracked_home: Path) -> registry.ModelRef:
    numbers = Numbers({"w": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(())})
    return registry.save_prior(numbers, card="# A prior", tags={"labels": "12", registry.KEY_TAG: "abc"})


def stored_file(ref: registry.ModelRef, name: str) -> Path:
    folder = mlflow.MlflowClient().get_model_version_download_uri(ref.name, ref.version)
    return Path(folder.removeprefix("file://")) / "artifacts" / name


def test_what_was_saved_is_read_back_with_its_tags(prior: registry.ModelRef):
    set_alias(prior.name, "champion", prior.version, who="test", why="first")
    found = resolve(prior.name)
    assert found.version == "1"
    assert found.tags["labels"] == "12"
    package = read_package(found)
    assert package.config == {"kind": "numbers"}
    torch.testing.assert_close(package.weights["w"], torch.arange(6.0).reshape(2, 3))
    assert stored_file(found, "MODEL_CARD.md").read_text() == "# A prior"


def test_version_is_found_by_alias_by_number_and_by_what_it_was_made_from(prior: registry.ModelRef):
    set_alias(prior.name, "champion", prior.version, who="test", why="first")
    by_key = find_by_key(prior.name, "abc")
    assert by_key is not None
    assert resolve(prior.name, "1").version == resolve(prior.name, "champion").version == by_key.version
    assert find_by_key(prior.name, "other") is None
    assert find_by_key("metafuse.nobody", "abc") is None


def test_version_is_finished_once_the_gate_has_judged_it(prior: registry.ModelRef):
    assert find_judged(prior.name, "abc") is None
    registry.tag(prior, {registry.DECISION_TAG: "hold"})
    assert find_judged(prior.name, "abc") == find_by_key(prior.name, "abc")
    assert find_judged(prior.name, "other") is None


@pytest.mark.parametrize(
    ("name", "ref"),
    [("metafuse.prior", "99"), ("metafuse.prior", "challenger"), ("metafuse.nobody", "1"), ("metafuse.nobody", "x")],
)
def test_missing_version_is_named(prior: registry.ModelRef, name: str, ref: str):
    with pytest.raises(UnknownModel, match=f"version '{ref}' of model '{name}'"):
        resolve(name, ref)


def test_every_alias_change_leaves_a_row_and_the_old_champion_its_name(prior: registry.ModelRef):
    second = registry.save_prior(Numbers({"w": torch.ones(1)}), card="", tags={})
    set_alias(prior.name, "champion", prior.version, who="flow", why="first")
    set_alias(prior.name, "challenger", second.version, who="flow", why="trained")
    set_alias(prior.name, "champion", second.version, who="gate", why="better", numbers={"gain": 0.1})
    set_alias(prior.name, "champion", second.version, who="gate", why="again")
    assert resolve(prior.name, "champion").version == "2"
    assert resolve(prior.name, "previous").version == "1"
    with pytest.raises(UnknownModel):
        resolve(prior.name, "challenger")
    rows = open_lake().read("promotions").sort_by("at").to_pylist()
    assert [(row["alias"], row["from_version"], row["to_version"], row["who"]) for row in rows] == [
        ("champion", None, "1", "flow"),
        ("challenger", None, "2", "flow"),
        ("champion", "1", "2", "gate"),
    ]
    assert json.loads(rows[-1]["numbers_json"]) == {"gain": 0.1}


def test_changed_weights_are_refused(prior: registry.ModelRef):
    save_file({"w": torch.zeros(2, 3)}, stored_file(prior, "weights.safetensors"))
    with pytest.raises(ModelRefused, match=r"weights\.safetensors has SHA-256 .* but the registry recorded"):
        read_package(prior)


def test_changed_config_is_refused_before_it_is_parsed(prior: registry.ModelRef):
    stored_file(prior, "config.json").write_text('{"model": {"kind": "evil"}}')
    with pytest.raises(ModelRefused, match=r"config\.json has SHA-256"):
        read_package(prior)


def test_version_without_recorded_digests_is_refused(prior: registry.ModelRef):
    with pytest.raises(ModelRefused, match="the registry recorded None"):
        read_package(prior.model_copy(update={"tags": {}}))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tracked_home: Path, bad: float):
    ref = registry.save_prior(Numbers({"w": torch.tensor([1.0, bad])}), card="", tags={})
    with pytest.raises(ModelRefused, match=r"\['w'\] hold values that are not finite"):
        read_package(ref)


def test_architecture_outside_the_list_is_refused(prior: registry.ModelRef):
    set_alias(prior.name, "champion", prior.version, who="test", why="first")
    with pytest.raises(ModelRefused, match="numbers"):
        load_prior()


def test_weights_file_that_is_not_safetensors_is_refused(prior: registry.ModelRef):
    content = b"\x80\x04cos\nsystem\n"
    stored_file(prior, "weights.safetensors").write_bytes(content)
    digest = registry._sha256(content)
    tagged = prior.model_copy(update={"tags": {**prior.tags, "sha256.weights.safetensors": digest}})
    with pytest.raises(ModelRefused, match="not a safetensors file"):
        read_package(tagged)


def test_domain_cannot_take_the_name_of_the_prior():
    with pytest.raises(ContractInvalid, match=r"metafuse\.prior"):
        model_name("prior")


def test_saving_inside_a_run_ties_the_version_to_it(tracked_home: Path):
    with tracked_run("meta-train", "first", {"train": {"steps": 3}, "shots": (1, 5)}, {"kind": "test"}) as run:
        run.metrics({"loss": 0.5}, step=1)
        run.metrics({"loss": 0.25}, step=2)
        ref = registry.save_prior(Numbers({"w": torch.ones(1)}), card="", tags={})
    client = mlflow.MlflowClient()
    logged = client.get_run(run.run_id)
    assert logged.data.params == {"train.steps": "3", "shots": "1,5"}
    assert [metric.value for metric in client.get_metric_history(run.run_id, "loss")] == [0.5, 0.25]
    assert client.get_model_version(ref.name, ref.version).run_id == run.run_id
    assert logged.info.status == "FINISHED"


def test_run_that_raises_is_marked_failed(tracked_home: Path):
    with pytest.raises(RuntimeError), tracked_run("adapt", "bad", {}, {}) as run:
        raise RuntimeError("no")
    assert mlflow.MlflowClient().get_run(run.run_id).info.status == "FAILED"


def test_tracking_server_that_is_down_is_named(home: Path, monkeypatch: pytest.MonkeyPatch):
    from data_contracts.settings import get_settings

    monkeypatch.setenv("METAFUSE_MLFLOW_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    get_settings.cache_clear()
    with pytest.raises(ServiceUnavailable, match=r"http://127\.0\.0\.1:9"):
        resolve("metafuse.prior")


def test_package_keeps_its_context(tracked_home: Path):
    ref = registry._save(registry.PRIOR, Package({"kind": "x"}, {"w": torch.ones(1)}, context={"states": {"a": 1}}), {})
    assert read_package(ref).context == {"states": {"a": 1}}
