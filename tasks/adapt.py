"""Adapt a prior to one domain: choose support, adapt, judge on labels not used, register, and let the gate decide.

The same labels, vectors, prior and config give the version that is registered already; of many runs at once one works
and the others get its result.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from prefect import task
from prefect.cache_policies import NO_CACHE
from torch import Tensor

from data_contracts.configs import AdaptConfig
from data_contracts.contract import Contract
from data_contracts.errors import EpisodeTooSmall, ModelError, ModelRefused, UnknownModel
from data_contracts.reports import AdaptOutcome, ColumnLoss, ModelRef, Score
from models.baselines import TunedLogreg, reference_learners
from models.catalogue import AUTO, check_learner
from models.episodes import as_episode
from models.evaluation import compare
from models.features import DomainData
from models.gate import Verdict, judge, promote_unopposed
from models.label_split import LabelSplit, split_labels
from models.learner import DomainModel, Prior, can_read
from models.metrics import expected_calibration_error, wilson_interval
from models.selection import AutoLearner
from tasks import registry
from tasks.claims import once
from tasks.contracts import contract_in_force
from tasks.encoder_states import encoder_states
from tasks.features import load_domain
from tasks.importance import measure_columns
from tasks.lake import Lake, open_lake
from tasks.lineage import fingerprint, lineage_tags
from tasks.retries import is_transient
from tasks.tracking import RunLog, tracked_run

MAX_TESTED = 2000
"""Most labelled items a model is judged on: enough for an interval of ±2 points."""

ALIASES = {"promote": registry.CHAMPION, "ask": registry.CHALLENGER, "hold": None}
"""What the gate's decision makes of a new version."""


@dataclass(frozen=True)
class Question:
    """One adaptation that was asked for, with everything it depends on."""

    split: LabelSplit
    prior: Prior
    prior_ref: ModelRef
    tuned: TunedLogreg
    config: AdaptConfig

    @property
    def domain(self) -> str:
        """The domain's name."""
        return self.split.data.domain

    @property
    def model(self) -> str:
        """The registered model's name."""
        return registry.model_name(self.domain)

    @property
    def key(self) -> str:
        """Digest of what the answer depends on."""
        data, config = self.split.data, self.config.model_dump(exclude={"prior", "min_gain"})
        return fingerprint([data], "adapt", self.prior_ref.version, config)


@task(name="adapt-domain", retries=2, retry_delay_seconds=5, retry_condition_fn=is_transient, cache_policy=NO_CACHE)
def adapt(domain: str, config: AdaptConfig) -> dict[str, Any]:
    """Adapt, register and judge a model of `domain` on the lake of this home."""
    return adapt_to_domain(open_lake(), domain, config).model_dump(mode="json")


def adapt_to_domain(lake: Lake, domain: str, config: AdaptConfig) -> AdaptOutcome:
    """Adapt the prior to `domain`, register the model, and make it champion if it beats the one that serves today.

    Raises:
        UnknownDomain: the domain is not in the lake.
        ModelError: there is no such learner, or the prior has it not.
        UnknownModel: there is no such prior.
        EpisodeTooSmall: a class has too few labels, or none are left to judge on.
    """
    started = time.perf_counter()
    question = _ask(lake, domain, config)
    ref, is_new = once(
        lake,
        f"adapt/{domain}/{question.key}",
        find=lambda: registry.find_judged(question.model, question.key),
        work=lambda: _judge(_registered(lake, question), question),
    )
    return _outcome(ref, question, is_new, time.perf_counter() - started)


def measure(probabilities: Float[Tensor, "item way"], labels: Tensor) -> Score:
    """Return how good predictions are on labelled items."""
    right = int((probabilities.argmax(1) == labels).sum())
    accuracy = wilson_interval(right, len(labels))
    picked = probabilities.gather(1, labels[:, None]).clamp(min=1e-12)
    return Score(
        accuracy=accuracy.mean,
        ci95=accuracy.ci95,
        nll=-picked.log().mean().item(),
        ece=expected_calibration_error(probabilities, labels),
    )


def measure_baselines(split: LabelSplit, tuned: TunedLogreg) -> dict[str, Score]:
    """Return how good the reference classifiers are from the same support on the same test items."""
    episode = as_episode(split.data, split.support, split.test)
    answers = compare(reference_learners(tuned), episode)
    return {name: measure(found.probabilities, found.labels) for name, found in answers.items()}


def _ask(lake: Lake, domain: str, config: AdaptConfig) -> Question:
    check_learner(config.learner)
    data = load_domain(lake, domain)
    split = split_labels(data, config).with_at_most(MAX_TESTED)
    if len(split.test) == 0:
        raise EpisodeTooSmall(
            f"domain {domain!r} has no labelled items left to judge the model on: all {len(split.support)} are used to "
            "adapt. Label more items, or ask for fewer labels per class.",
            domain=domain,
            support=len(split.support),
        )
    prior_ref = registry.resolve(registry.PRIOR, config.prior)
    package = registry.read_package(prior_ref)
    prior = registry.build_prior(package, prior_ref)
    return Question(
        split,
        _learner(prior, config.learner, prior_ref),
        prior_ref,
        TunedLogreg.load(package.context.get("tuned_logreg", {})),
        config,
    )


def _learner(prior: Prior, asked: str, ref: ModelRef) -> Prior:
    """Return what adapts: the whole prior for `auto`, or the learner asked for.

    Raises:
        ModelError: the prior has no such learner.
    """
    learners = prior.learners if isinstance(prior, AutoLearner) else {prior.kind: prior}
    if asked == AUTO:
        return prior
    if asked not in learners:
        raise ModelError(
            f"version {ref.version} of the prior has the learners {', '.join(learners)}, but {asked!r} was asked for. "
            f"Ask for one of these, or meta-train a prior with it: metafuse meta-train --learners {AUTO},{asked}.",
            found=tuple(learners),
            needed=asked,
        )
    return learners[asked]


def _registered(lake: Lake, question: Question) -> ModelRef:
    return registry.find_by_key(question.model, question.key) or _adapt_and_register(lake, question)


def _adapt_and_register(lake: Lake, question: Question) -> ModelRef:
    """Adapt, measure against the baselines on the same items, and register with lineage."""
    split, domain = question.split, question.domain
    tags = {
        registry.KEY_TAG: question.key,
        "prior_version": question.prior_ref.version,
        "labels": str(len(split.support)),
        **lineage_tags([split.data]),
    }
    with tracked_run("adapt", f"adapt {domain}", question.config.model_dump(mode="json"), tags) as run:
        started = time.perf_counter()
        learner, preference = _choose(question.prior, split)
        model = learner.adapt(split.data, split.support)
        seconds = time.perf_counter() - started
        test, labels = split.data.take(split.test), split.data.labels[split.test]
        measured = measure(model.predict(test), labels)
        baselines = measure_baselines(split, question.tuned)
        context = _context(lake, question)
        columns = measure_columns(model, split, context["encoder_states"])
        facts = {
            "score": measured.model_dump_json(),
            "baselines": json.dumps({name: found.model_dump() for name, found in baselines.items()}),
            "learner": learner.kind,
            "preference": json.dumps(preference),
            "views": json.dumps(model.view_weights),
            "columns": json.dumps({name: found.model_dump() for name, found in columns.items()}),
            "tested": str(len(labels)),
            "seconds_adapting": f"{seconds:.4f}",
        }
        _log(run, measured, baselines, seconds)
        card = _card(question, measured, baselines, model, preference, columns)
        return registry.save_domain_model(domain, model, card=card, tags={**tags, **facts}, context=context)


def _choose(prior: Prior, split: LabelSplit) -> tuple[Prior, dict[str, float]]:
    """Return the learner to adapt, and with `auto` the shares by which it was chosen."""
    return prior.choose(split.data, split.support) if isinstance(prior, AutoLearner) else (prior, {})


def _judge(ref: ModelRef, question: Question) -> ModelRef:
    """Let the gate compare a registered version with the champion, move the alias, and note what was decided."""
    verdict = _verdict(ref, question)
    alias = ALIASES[verdict.decision]
    if alias is not None:
        registry.set_alias(
            ref.name, alias, ref.version, who="adapt_domain", why=verdict.why(), numbers=verdict.numbers()
        )
    return registry.tag(ref, {"why": verdict.why(), registry.DECISION_TAG: verdict.decision})


def _verdict(ref: ModelRef, question: Question) -> Verdict:
    """Compare on the labelled items that neither model was adapted from; a champion that cannot answer beats nobody."""
    champion_ref = registry.resolve_or_none(ref.name)
    data = question.split.data
    if champion_ref is None or champion_ref.version == ref.version:
        return promote_unopposed(len(question.split.test))
    try:
        package = registry.read_package(champion_ref)
        champion = registry.build_domain_model(package, champion_ref)
    except (ModelRefused, UnknownModel):
        return promote_unopposed(len(question.split.test), f"champion version {champion_ref.version} cannot be read")
    if not can_read(champion, data.views):
        why = f"champion version {champion_ref.version} cannot read the items there are now"
        return promote_unopposed(len(question.split.test), why)
    seen = set(package.context["support_ids"])
    rows = [row for row in question.split.test.tolist() if data.item_ids[row] not in seen]
    shared = data.take(torch.tensor(rows, dtype=torch.long))
    challenger = registry.build_domain_model(registry.read_package(ref), ref)
    return judge(is_right(challenger, shared), is_right(champion, shared), min_gain=question.config.min_gain)


def is_right(model: DomainModel, data: DomainData) -> Bool[Tensor, " item"]:
    """Say for each item whether the model names its label; a model that does not know the class is wrong."""
    number = {name: index for index, name in enumerate(data.classes)}
    lookup = torch.tensor([number.get(name, -2) for name in model.classes])
    return lookup[model.predict(data).argmax(1)] == data.labels


def _context(lake: Lake, question: Question) -> dict[str, Any]:
    """Return what serving needs besides the model, and which items the model has seen."""
    data = question.split.data
    contract: Contract = contract_in_force(lake, data.domain)
    states = encoder_states(lake, data.domain, version=data.provenance.get("encoder_states"))
    return {
        "contract": contract.model_dump(mode="json"),
        "encoder_states": {view.name: states[view.name]["state_json"] for view in data.views if view.name in states},
        "support_ids": [data.item_ids[row] for row in question.split.support.tolist()],
    }


def _outcome(ref: ModelRef, question: Question, is_new: bool, seconds: float) -> AdaptOutcome:
    tags = ref.tags
    measured = Score.model_validate_json(tags["score"])
    return AdaptOutcome(
        domain=question.domain,
        model=ref.name,
        version=ref.version,
        alias=registry.alias_of(ref),
        labels=int(tags["labels"]),
        prior_version=tags["prior_version"],
        learner=tags["learner"],
        preference=json.loads(tags["preference"]),
        views=json.loads(tags["views"]),
        columns={name: ColumnLoss(**found) for name, found in json.loads(tags.get("columns", "{}")).items()},
        seconds=seconds,
        tested=int(tags["tested"]),
        decision=tags[registry.DECISION_TAG],
        why=tags["why"],
        baselines={name: Score(**found) for name, found in json.loads(tags["baselines"]).items()},
        is_new=is_new,
        **measured.model_dump(),
    )


def _log(run: RunLog, measured: Score, baselines: Mapping[str, Score], seconds: float) -> None:
    run.metrics({**measured.model_dump(), "seconds_adapting": seconds})
    for name, found in baselines.items():
        run.metrics({f"{name}.{metric}": value for metric, value in found.model_dump().items()})
    run.figure("accuracy", accuracy_figure({**baselines, "this model": measured}))


def accuracy_figure(scores: Mapping[str, Score]) -> Any:
    """Plot accuracies with their 95 % intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 2.5), layout="constrained")
    axes = figure.subplots()
    found = scores.values()
    axes.barh(list(scores), [score.accuracy for score in found], xerr=[score.ci95 for score in found], capsize=4)
    axes.set(xlim=(0, 1), xlabel="accuracy on items not adapted from")
    return figure


def _card(
    question: Question,
    measured: Score,
    baselines: Mapping[str, Score],
    model: DomainModel,
    preference: Mapping[str, float],
    columns: Mapping[str, ColumnLoss],
) -> str:
    split = question.split
    rows = "\n".join(
        f"| {name} | {100 * found.accuracy:.1f} ± {100 * found.ci95:.1f} | {found.nll:.3f} | {found.ece:.3f} |"
        for name, found in {"this model": measured, **baselines}.items()
    )
    why = f"`auto` chose this learner: {_shares(preference)}" if preference else "This learner was asked for by name"
    return f"""# Model of {question.domain}

A `{model.kind}` model, adapted from version {question.prior_ref.version} of the prior with {len(split.support)}
labelled items of {len(model.classes)} classes. Judged on {len(split.test)} labelled items it has not seen:

| | accuracy, % | NLL | ECE |
|---|---|---|---|
{rows}

{why}. What carries its decisions: {_shares(model.view_weights)}.

Log-probability of the right class, in nats, that is lost on those items when they swap a column's values:
{_losses(columns)}.

Classes: {", ".join(model.classes)}.
"""


def _shares(shares: Mapping[str, float]) -> str:
    """Return shares in percent, the largest first."""
    ranked = sorted(shares.items(), key=lambda share: -share[1])
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in ranked)


def _losses(columns: Mapping[str, ColumnLoss]) -> str:
    return ", ".join(f"{name} {found.loss:.2f} ± {found.ci95:.2f}" for name, found in columns.items()) or "not measured"
