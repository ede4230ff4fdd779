"""Meta-train a prior over domains: read features, train with checkpoints, register, and let the gate decide.

The same data and config give the version that is registered already; a run that was stopped goes on from its last
checkpoint; of many runs at once, one works and the others get its result.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from prefect import task
from prefect.cache_policies import NO_CACHE

from data_contracts.configs import MetaTrainConfig, TrainConfig
from data_contracts.errors import EpisodeTooSmall, ModelRefused, UnknownModel
from data_contracts.reports import ModelRef, TrainReport
from data_contracts.settings import get_settings
from models.baselines import tune_logreg
from models.catalogue import AUTO, auto_members, build_learner, named_learners
from models.features import DomainData
from models.fused import FusedLearner
from models.learner import Prior
from models.selection import AutoLearner, choose_among
from models.training import fit_to_data, split_classes, validation_accuracy, validation_episodes
from models.training import train as train_steps
from tasks import progress, registry
from tasks.claims import once
from tasks.features import load_domain
from tasks.lake import Lake, open_lake
from tasks.lineage import fingerprint, lineage_tags
from tasks.retries import is_transient
from tasks.tracking import RunLog, tracked_run

Curve = list[tuple[int, float]]
"""Step and value."""


@dataclass(frozen=True)
class Trained:
    """One learner after training, and how it got there."""

    learner: FusedLearner
    losses: Curve
    validation: Curve

    @property
    def accuracy(self) -> float:
        """Validation accuracy of the state that was kept."""
        return max(value for _, value in self.validation)

    @property
    def untrained_accuracy(self) -> float:
        """Validation accuracy before the first step."""
        return self.validation[0][1]


@task(name="train-prior", retries=1, retry_delay_seconds=10, retry_condition_fn=is_transient, cache_policy=NO_CACHE)
def train_prior(config: MetaTrainConfig) -> dict[str, Any]:
    """Train, register and judge a prior on the lake of this home."""
    return meta_train_prior(open_lake(), config).model_dump(mode="json")


def meta_train_prior(lake: Lake, config: MetaTrainConfig) -> TrainReport:
    """Train a prior as `config` says, register it, and make it champion unless it is clearly worse than the champion.

    Raises:
        EpisodeTooSmall: the domains have too few classes or labels.
        ModelError: there is no such learner.
        UnknownDomain: a domain in `config` is not in the lake, or no domain is.
    """
    started = time.perf_counter()
    config = config.model_copy(update={"learners": named_learners(config.learners)})
    domains = load_training_domains(lake, config)
    fitted = fit_to_data(config.train, domains)
    key = fingerprint(domains, "prior", config.learners, fitted.model_dump())
    ref, is_new = once(
        lake,
        f"prior/{key}",
        find=lambda: registry.find_judged(registry.PRIOR, key),
        work=lambda: _train_and_register(domains, config, fitted, key),
        lease_s=1800,
    )
    tags = ref.tags
    return TrainReport(
        model=ref.name,
        version=ref.version,
        alias=registry.alias_of(ref),
        learner=tags["learner"],
        domains=tuple(data.domain for data in domains),
        classes=int(tags["classes"]),
        validation_accuracy=float(tags["validation_accuracy"]),
        untrained_accuracy=float(tags["untrained_accuracy"]),
        champion_accuracy=float(tags["champion_accuracy"]) if tags["champion_accuracy"] else None,
        why=tags["why"],
        is_new=is_new,
        seconds=time.perf_counter() - started,
    )


def load_training_domains(lake: Lake, config: MetaTrainConfig) -> list[DomainData]:
    """Return the domains to train on, without the excluded classes; domains without labels are left out."""
    names = config.domains or tuple(lake.domains())
    excluded = set(config.exclude_classes)
    domains = []
    for number, name in enumerate(names):
        progress.report(number, len(names), "read features")
        data = load_domain(lake, name)
        domains.append(data.with_classes(tuple(label for label in data.classes if label not in excluded)))
    labelled = [data for data in domains if bool((data.labels >= 0).any())]
    if not labelled:
        raise EpisodeTooSmall(
            f"none of the domains {', '.join(names) or '(there are none)'} has labelled items to train on. "
            "Ingest sources with labels first, or exclude fewer classes.",
            domains=names,
        )
    return labelled


def train_learner(
    kind: str, domains: Sequence[DomainData], config: TrainConfig, checkpoint: Path | None = None
) -> Trained:
    """Train one learner; with a `checkpoint` file, go on from it if it is there and keep it up to date."""
    learner = build_learner(kind)
    state = _read_checkpoint(checkpoint)
    trained = Trained(learner, state["losses"] if state else [], state["validation"] if state else [])
    with single_thread():
        for now in train_steps(learner, domains, config, state["loop"] if state else None):
            if now.loss is not None:
                trained.losses.append((now.step, now.loss))
            if now.validation_accuracy is not None:
                trained.validation.append((now.step, now.validation_accuracy))
                curves = {"losses": trained.losses, "validation": trained.validation}
                _write_checkpoint(checkpoint, {"loop": now.state, **curves})
            progress.report(now.step, config.steps, f"meta-train {kind}")
    return trained


@contextmanager
def single_thread() -> Iterator[None]:
    """Let torch use one thread: the matrices are small, and on a busy machine a second one cost 14 times the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train_and_register(
    domains: Sequence[DomainData], config: MetaTrainConfig, fitted: TrainConfig, key: str
) -> ModelRef:
    ref = registry.find_by_key(registry.PRIOR, key) or _train_new(domains, config, fitted, key)
    return _judge(ref, domains, config, fitted)


def _train_new(domains: Sequence[DomainData], config: MetaTrainConfig, fitted: TrainConfig, key: str) -> ModelRef:
    tags = {registry.KEY_TAG: key, **lineage_tags(domains)}
    with tracked_run("meta-train", f"prior over {len(domains)} domains", config.model_dump(mode="json"), tags) as run:
        runs = {}
        for kind in auto_members(config.learners):
            checkpoint = get_settings().cache / "checkpoints" / f"{key}-{kind}.pt"
            runs[kind] = train_learner(kind, domains, fitted, checkpoint)
            _log(run, kind, runs[kind])
        best = max(runs, key=lambda kind: runs[kind].accuracy)
        prior, accuracy = _prior(runs, config, domains, fitted)
        facts = {
            "learner": prior.kind,
            "domains": ",".join(data.domain for data in domains),
            "classes": str(len(split_classes(domains, fitted).all)),
            "labels": str(sum(int((data.labels >= 0).sum()) for data in domains)),
            "validation_accuracy": f"{accuracy:.6f}",
            "untrained_accuracy": f"{runs[best].untrained_accuracy:.6f}",
        }
        classes = tuple(sorted({name for data in domains for name in data.classes}))
        context = {"tuned_logreg": tune_logreg(domains, classes, fitted).config()}
        ref = registry.save_prior(prior, card=_card(facts, fitted), tags={**tags, **facts}, context=context)
    for kind in runs:
        (get_settings().cache / "checkpoints" / f"{key}-{kind}.pt").unlink(missing_ok=True)
    return ref


def _prior(
    runs: Mapping[str, Trained], config: MetaTrainConfig, domains: Sequence[DomainData], fitted: TrainConfig
) -> tuple[Prior, float]:
    """Return what is registered, and its accuracy on validation classes: all learners and a choice, or the best one."""
    if AUTO in config.learners:
        learners = {kind: run.learner for kind, run in runs.items()}
        members = {kind: learners.pop(kind) for kind in auto_members((AUTO,))}
        auto, accuracy = choose_among(
            members, domains, fitted, lambda done, total: progress.report(done, total, "learn to choose")
        )
        return AutoLearner(auto.members, auto.selector, learners), accuracy
    best = runs[max(runs, key=lambda kind: runs[kind].accuracy)].learner
    accuracy = _unseen_accuracy(best, domains, fitted)
    best.fit_statistics(domains, split_classes(domains, fitted).all)
    return best, accuracy


def _judge(ref: ModelRef, domains: Sequence[DomainData], config: MetaTrainConfig, fitted: TrainConfig) -> ModelRef:
    """Compare a new prior with the champion on the same episodes of classes it was not trained on, and decide."""
    accuracy = float(ref.tags["validation_accuracy"])
    champion = registry.resolve_or_none(registry.PRIOR)
    before, rival = None, "the first prior"
    if champion is not None and champion.version != ref.version:
        try:
            before = _unseen_accuracy(registry.load_prior(champion.version)[0], domains, fitted)
            rival = f"the champion's is {before:.3f}"
        except (ModelRefused, UnknownModel):
            rival = f"champion version {champion.version} is damaged"
    is_promoted = before is None or accuracy >= before - config.tolerance
    why = f"validation accuracy {accuracy:.3f}, {rival}"
    if is_promoted:
        numbers = {"accuracy": accuracy, **({} if before is None else {"champion_accuracy": before})}
        registry.set_alias(ref.name, registry.CHAMPION, ref.version, who="meta_train", why=why, numbers=numbers)
    champion_accuracy = "" if before is None else f"{before:.6f}"
    return registry.tag(
        ref,
        {
            registry.DECISION_TAG: "promote" if is_promoted else "hold",
            "champion_accuracy": champion_accuracy,
            "why": why,
        },
    )


def _unseen_accuracy(prior: Prior, domains: Sequence[DomainData], config: TrainConfig) -> float:
    """Return the accuracy on the validation classes, with statistics of the other training classes."""
    split = split_classes(domains, config)
    prior.fit_statistics(domains, (*split.folds[0], *split.folds[1]))
    return validation_accuracy(prior, validation_episodes(domains, config))


def _read_checkpoint(path: Path | None) -> dict[str, Any] | None:
    """Return a checkpoint's content; tensors, numbers and lists only, nothing that runs."""
    if path is None or not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def _write_checkpoint(path: Path | None, state: Mapping[str, Any]) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.part")
    torch.save(dict(state), partial)
    partial.replace(path)


def _log(run: RunLog, kind: str, trained: Trained) -> None:
    for step, loss in trained.losses:
        run.metrics({f"{kind}.loss": loss}, step=step)
    for step, accuracy in trained.validation:
        run.metrics({f"{kind}.validation_accuracy": accuracy}, step=step)
    run.figure(f"{kind}-training", training_figure(trained))


def training_figure(trained: Trained) -> Any:
    """Plot loss and validation accuracy over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(*zip(*trained.losses, strict=True) if trained.losses else ([], []))
    left.set(xlabel="step", ylabel="loss")
    right.plot(*zip(*trained.validation, strict=True), marker="o")
    right.set(xlabel="step", ylabel="accuracy on validation classes")
    return figure


def _card(facts: Mapping[str, str], config: TrainConfig) -> str:
    accuracy, before = float(facts["validation_accuracy"]), float(facts["untrained_accuracy"])
    return f"""# Prior over domains

A `{facts["learner"]}` learner, meta-trained on {facts["labels"]} labelled items of {facts["classes"]} classes in the
domains {facts["domains"].replace(",", ", ")}.

On {config.n_way}-way episodes of classes it was not trained on it reached {accuracy:.3f} accuracy; untrained, the same
learner has {before:.3f}.

It answers nothing by itself: adapt it to a domain. It reads the vectors of frozen encoders, named in the lake.
"""
