"""Meta-train a prior over domains: read features, train with checkpoints, register, and let the gate decide.

The same data and config give the version that is registered already, unless it was made by another version of this
package or of learners made of other numbers. A run that was stopped goes on from its last checkpoint, but learns to
choose among learners anew. Of many runs at once, one works and the others get its result.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from prefect import task
from prefect.cache_policies import NO_CACHE
from torch import nn

from data_contracts.configs import MetaTrainConfig, TrainConfig
from data_contracts.errors import EpisodeTooSmall, ModelRefused, UnknownModel
from data_contracts.reports import LeaderboardRow, ModelRef, TrainReport
from data_contracts.settings import get_settings
from models.baselines import tune_logreg
from models.catalogue import AUTO, auto_members, build_learner, learners_to_train, named_learners
from models.evaluation import REFERENCE, UNTRAINED, Comparison, EpisodeLearner, compare, untrained_learner
from models.features import DomainData
from models.learner import Prior
from models.metrics import calibration_error
from models.rehearsal import learn_to_choose
from models.selection import AutoLearner
from models.selector import Selector
from models.training import fit_to_data, split_classes, validation_accuracies, validation_episodes
from tasks import progress, registry
from tasks.claims import once
from tasks.comparisons import learner_tags, log_comparison, log_curve
from tasks.features import load_domain
from tasks.figures import learning_curves
from tasks.lake import Lake, open_lake
from tasks.lineage import fingerprint, lineage_tags
from tasks.retries import is_transient
from tasks.side_by_side import learn_side_by_side, side_by_side
from tasks.tracking import RunLog, past_run, tracked_run
from tasks.train_learner import Trained, made_of, single_thread, train_learner


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
    parts = [made_of(kind, part) for kind, part in _parts(config.learners).items()]
    key = fingerprint(domains, "prior", config.learners, fitted.model_dump(), parts, version("metafuse"))
    ref, is_new = once(
        lake,
        f"prior/{key}",
        find=lambda: registry.find_judged(registry.PRIOR, key),
        work=lambda: _train_and_register(domains, config, fitted, key),
        patience_s=7200,
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
        resumed=json.loads(tags["resumed"]),
        leaderboard=tuple(LeaderboardRow(**row) for row in json.loads(tags["leaderboard"])),
        is_new=is_new,
        seconds=time.perf_counter() - started,
    )


def load_training_domains(lake: Lake, config: MetaTrainConfig) -> list[DomainData]:
    """Return the domains to train on, without the excluded classes; domains without labels are left out."""
    names = config.domains or tuple(lake.domains())
    domains = []
    for number, name in enumerate(names):
        progress.report(number, len(names), "read features")
        data = load_domain(lake, name)
        domains.append(data.without_classes(config.exclude_classes))
    progress.report(len(names), len(names), "read features")
    labelled = [data for data in domains if bool((data.labels >= 0).any())]
    if not labelled:
        raise EpisodeTooSmall(
            f"none of the domains {', '.join(names) or '(there are none)'} has labelled items to train on. "
            "Ingest sources with labels first, or exclude fewer classes.",
            domains=names,
        )
    return labelled


def _parts(learners: Sequence[str]) -> dict[str, nn.Module]:
    """Return what a prior over these learners stores numbers of, untrained."""
    parts: dict[str, nn.Module] = {kind: build_learner(kind) for kind in learners_to_train(learners)}
    if AUTO in learners:
        parts[AUTO] = Selector(len(auto_members(learners)))
    return parts


def _train_and_register(
    domains: Sequence[DomainData], config: MetaTrainConfig, fitted: TrainConfig, key: str
) -> ModelRef:
    ref = registry.find_by_key(registry.PRIOR, key) or _train_new(domains, config, fitted, key)
    return _judge(ref, domains, config, fitted)


def _train_new(domains: Sequence[DomainData], config: MetaTrainConfig, fitted: TrainConfig, key: str) -> ModelRef:
    tags = {registry.KEY_TAG: key, **lineage_tags(domains)}
    checkpoints = {kind: _checkpoint(key, kind) for kind in learners_to_train(config.learners)}
    if not config.resume:
        _remove(checkpoints.values())
    with tracked_run("meta-train", f"prior over {len(domains)} domains", config.model_dump(mode="json"), tags) as run:
        trained, runs = _train_all(domains, fitted, checkpoints)
        run.figure("learning-curves", learning_curves({kind: found.curve for kind, found in trained.items()}))
        priors, seconds = _priors(trained, config, domains, fitted)
        progress.report(0, 0, f"tune {REFERENCE}")
        classes = tuple(sorted({name for data in domains for name in data.classes}))
        tuned = tune_logreg(domains, classes, fitted)
        progress.report(1, 1, f"tune {REFERENCE}")
        learners: dict[str, EpisodeLearner] = {REFERENCE: tuned, UNTRAINED: untrained_learner(), **priors}
        comparison, accuracy = _compare(learners, seconds, domains, fitted)
        best = AUTO if AUTO in priors else max(priors, key=lambda kind: accuracy[kind])
        board = log_comparison(run, "meta-train", comparison, [best], runs)
        run.metrics({"validation_accuracy": accuracy[best], "untrained_accuracy": accuracy[UNTRAINED]})
        run.metrics({"ece": calibration_error(comparison.reliability[best])})
        facts = {
            "learner": best,
            "learners": ",".join(trained),
            "domains": ",".join(data.domain for data in domains),
            "classes": str(len(split_classes(domains, fitted).all)),
            "labels": str(sum(int((data.labels >= 0).sum()) for data in domains)),
            "validation_accuracy": f"{accuracy[best]:.6f}",
            "untrained_accuracy": f"{accuracy[UNTRAINED]:.6f}",
            "resumed": json.dumps({kind: found.resumed_from for kind, found in trained.items() if found.resumed_from}),
            "leaderboard": json.dumps([row.model_dump() for row in board]),
        }
        priors[best].fit_statistics(domains, split_classes(domains, fitted).all)
        context = {REFERENCE: tuned.config()}
        ref = registry.save_prior(priors[best], card=_card(facts, fitted), tags={**tags, **facts}, context=context)
    _remove(checkpoints.values())
    return ref


def _checkpoint(key: str, kind: str) -> Path:
    return get_settings().cache / "checkpoints" / f"{key}-{kind}.pt"


def _remove(checkpoints: Iterable[Path]) -> None:
    for checkpoint in checkpoints:
        checkpoint.unlink(missing_ok=True)


def _train_all(
    domains: Sequence[DomainData], config: TrainConfig, checkpoints: Mapping[str, Path]
) -> tuple[dict[str, Trained], dict[str, RunLog]]:
    """Train learners and then keep what is known of each in a run of its own below the open one."""
    calls = [partial(train_learner, kind, domains, config, checkpoint) for kind, checkpoint in checkpoints.items()]
    settings = get_settings()
    at_once = settings.threads if settings.device == "cpu" else 1
    trained, runs = dict(zip(checkpoints, side_by_side(calls, at_once), strict=True)), {}
    for kind, found in trained.items():
        description = (kind, config.model_dump(mode="json"), learner_tags(kind))
        run = past_run("meta-train", *description, lasted_s=found.seconds_now)
        log_curve(run, found.curve)
        run.metrics({"untrained_accuracy": found.untrained_accuracy, "resumed_from": found.resumed_from})
        run.figure("training", learning_curves({kind: found.curve}))
        run.flush()
        runs[kind] = run
    return trained, runs


def _priors(
    trained: Mapping[str, Trained], config: MetaTrainConfig, domains: Sequence[DomainData], fitted: TrainConfig
) -> tuple[dict[str, Prior], dict[str, float]]:
    """Return what may be registered, with statistics that leave the validation classes out, and the seconds it took."""
    split = split_classes(domains, fitted)
    learners = {kind: found.learner for kind, found in trained.items()}
    seconds = {kind: found.seconds for kind, found in trained.items()}
    priors: dict[str, Prior] = {**learners}
    if AUTO in config.learners:
        started = time.perf_counter()
        members = {kind: learners.pop(kind) for kind in auto_members(config.learners)}
        with single_thread():
            selector = learn_to_choose(members, domains, fitted, progress.report, learn_side_by_side)
        priors[AUTO] = AutoLearner(members, selector, learners)
        seconds[AUTO] = time.perf_counter() - started + sum(seconds[kind] for kind in members)
    for found in trained.values():
        found.learner.fit_statistics(domains, (*split.folds[0], *split.folds[1]))
    return priors, seconds


def _compare(
    learners: Mapping[str, EpisodeLearner],
    seconds: Mapping[str, float],
    domains: Sequence[DomainData],
    config: TrainConfig,
) -> tuple[Comparison, dict[str, float]]:
    """Let learners answer the validation episodes; returns how they compare, and each one's accuracy over all shots."""
    batches, answers = validation_episodes(domains, config), []
    for number, episodes in enumerate(batches):
        progress.report(number, len(batches), "compare learners")
        answers.append(compare(learners, episodes))
    progress.report(len(batches), len(batches), "compare learners")
    shots = [episodes.support.shape[1] // episodes.n_way for episodes in batches]
    parts = [
        Comparison.of([found for found, of in zip(answers, shots, strict=True) if of == shot], split_seed=0, shot=shot)
        for shot in sorted(set(shots))
    ]
    accuracy = {name: torch.cat([found[name].accuracy for found in answers]).mean().item() for name in learners}
    return Comparison.joined(parts, seconds), accuracy


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
            rival = f"champion version {champion.version} cannot be read"
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
    return validation_accuracies(prior, validation_episodes(domains, config)).mean().item()


def _card(facts: Mapping[str, str], config: TrainConfig) -> str:
    accuracy, before = float(facts["validation_accuracy"]), float(facts["untrained_accuracy"])
    return f"""# Prior over domains

A `{facts["learner"]}` prior, meta-trained on {facts["labels"]} labelled items of {facts["classes"]} classes in the
domains {facts["domains"].replace(",", ", ")}. Learners that were trained: {facts["learners"].replace(",", ", ")}.

On {config.n_way}-way episodes of classes that only chose its state, how much of its head is used, and for `auto` the
learner, it reached {accuracy:.3f} accuracy; before training, every learner has {before:.3f}.

It answers nothing by itself: adapt it to a domain. It reads the vectors of frozen encoders, named in the lake.
"""
