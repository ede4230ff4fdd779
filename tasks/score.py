"""Label, cluster and check every current item of a domain, and say which to label next; see the table `predictions`.

The answer comes from the first rung of a ladder that can give one: the domain's champion; the prior adapted to the
labels there are now; nearest centroid; and if there are no labels either, nobody, and every item is abstained from.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Bool, Float
from prefect import task
from prefect.cache_policies import NO_CACHE
from torch import Tensor

from data_contracts.configs import AdaptConfig, ScoreConfig
from data_contracts.errors import EpisodeTooSmall, ModelRefused, UnknownModel
from data_contracts.reports import ScoreReport
from data_contracts.tables import PREDICTIONS
from models.asking import entropy, most_helpful
from models.catalogue import build_learner
from models.downstream import abstention_threshold, cluster, find_anomalies
from models.features import DomainData
from models.label_split import split_labels
from models.learner import DomainModel, EnsembleModel, Prior, can_read
from tasks import progress, registry
from tasks.features import load_domain
from tasks.lake import Lake, open_lake
from tasks.lineage import fingerprint
from tasks.retries import is_transient

ABSTAIN = "abstain"
CHUNK = 4096
"""Items that are answered at once."""


@dataclass(frozen=True)
class Rung:
    """Who answers; `model` None answers nothing."""

    name: str
    model: DomainModel | None
    registered: str
    version: str
    passed_over: dict[str, str] = field(default_factory=dict)
    """Why the rungs before cannot answer."""


@task(name="score-domain", retries=2, retry_delay_seconds=5, retry_condition_fn=is_transient, cache_policy=NO_CACHE)
def score(domain: str, config: ScoreConfig) -> dict[str, Any]:
    """Score `domain` on the lake of this home."""
    return score_items(open_lake(), domain, config).model_dump(mode="json")


def score_items(lake: Lake, domain: str, config: ScoreConfig) -> ScoreReport:
    """Score every current item of `domain`; items that this model has scored as they are now are not scored again.

    A champion answers the same whatever the labels are; what it asks for depends on which items have one.

    Raises:
        UnknownDomain: the domain is not in the lake.
        EpisodeTooSmall: there are too few items to find groups or anomalies.
    """
    started = time.perf_counter()
    data = load_domain(lake, domain)
    rung = find_rung(data)
    items = _without_label_names(data) if rung.name == registry.CHAMPION else data
    score_id = fingerprint([items], rung.name, rung.registered, rung.version, config.model_dump())[:32]
    rows = lake.read("predictions", where=f"domain = '{domain}' AND score_id = '{score_id}'")
    is_new = rows.num_rows == 0
    if is_new:
        rows = _predictions(data, rung, config, score_id)
        lake.append("predictions", rows, transaction=(f"score/{domain}/{score_id}", 1))
    return _report(rows, rung, is_new, time.perf_counter() - started)


def _without_label_names(data: DomainData) -> DomainData:
    return replace(data, classes=(), labels=data.labels.clamp(max=0))


def find_rung(data: DomainData) -> Rung:
    """Return the first rung of the ladder that can answer for a domain."""
    ladder = {
        registry.CHAMPION: _champion,
        "prior_and_support": _prior_and_support,
        "nearest_centroid": _nearest_centroid,
    }
    passed_over: dict[str, str] = {}
    for name, climb in ladder.items():
        try:
            model, registered, version = climb(data)
        except (UnknownModel, ModelRefused, EpisodeTooSmall) as exc:
            passed_over[name] = str(exc)
        else:
            return Rung(name, model, registered, version, passed_over)
    return Rung(ABSTAIN, None, ABSTAIN, "0", passed_over)


def _champion(data: DomainData) -> tuple[DomainModel, str, str]:
    """The domain's registered champion, if it is intact and reads what the encoders in force write."""
    model, ref = registry.load_domain_model(data.domain)
    if not can_read(model, data.views):
        raise ModelRefused(
            f"version {ref.version} of model {ref.name!r} reads none of the views that items of {data.domain!r} have "
            f"now, or one of them by another encoder. Adapt the domain again.",
            model=ref.name,
            version=ref.version,
        )
    return model, ref.name, ref.version


def _prior_and_support(data: DomainData) -> tuple[DomainModel, str, str]:
    prior, ref = registry.load_prior()
    return _adapted(data, prior), ref.name, ref.version


def _nearest_centroid(data: DomainData) -> tuple[DomainModel, str, str]:
    """An untrained learner: every learner starts as nearest centroid."""
    return _adapted(data, build_learner("metric")), "nearest_centroid", "0"


def _adapted(data: DomainData, learner: Prior) -> DomainModel:
    split = split_labels(data, AdaptConfig())
    return learner.adapt(split.data, torch.cat([split.support, split.test]))


def _predictions(data: DomainData, rung: Rung, config: ScoreConfig, score_id: str) -> pa.Table:
    """Return one row per item."""
    is_known = _has_content(data, rung.model)
    probabilities = _probabilities(data, rung.model)
    threshold = (
        abstention_threshold(probabilities[is_known], config.target_accuracy) if probabilities.shape[1] else torch.inf
    )
    progress.report(1, 3, f"score {data.domain}: find groups")
    embedding = _embedding(data, rung.model)
    groups = cluster(embedding, method=config.cluster_method, count=config.clusters, seed=config.seed)
    progress.report(2, 3, f"score {data.domain}: find anomalies")
    anomalies = find_anomalies(embedding[is_known], embedding[is_known], false_alarm_rate=config.false_alarm_rate)
    scores, alarms = torch.zeros(len(data)), torch.zeros(len(data), dtype=torch.bool)
    scores[is_known], alarms[is_known] = anomalies.scores, anomalies.flags
    confidence, chosen = _best(probabilities)
    abstained = ~is_known | (confidence < threshold)
    classes = rung.model.classes if rung.model else ()
    progress.report(3, 3, f"score {data.domain}")
    columns: dict[str, Any] = {
        "domain": [data.domain] * len(data),
        "score_id": [score_id] * len(data),
        "item_id": data.item_ids,
        "model": [rung.registered] * len(data),
        "model_version": [rung.version] * len(data),
        "rung": [rung.name if known else ABSTAIN for known in is_known.tolist()],
        "label": [
            None if silent else classes[best] for silent, best in zip(abstained.tolist(), chosen.tolist(), strict=True)
        ],
        "probability": confidence.numpy(),
        "is_abstained": abstained.numpy(),
        "probabilities_json": [_as_json(classes, row) for row in probabilities.tolist()],
        "uncertainty": _uncertainty(data, is_known, rung.model),
        "cluster": groups.numbers.numpy(),
        "cluster_stability": [groups.stability] * len(data),
        "anomaly_score": scores.numpy(),
        "is_anomaly": alarms.numpy(),
        "ask": _ask(data, is_known, embedding, probabilities, config),
        "at": [datetime.now(UTC)] * len(data),
    }
    return pa.table({name: pa.array(columns[name], PREDICTIONS.field(name).type) for name in PREDICTIONS.names})


def _has_content(data: DomainData, model: DomainModel | None) -> Bool[Tensor, " item"]:
    """Say which items have a view that the model reads, or, without one, any."""
    read = data.views if model is None else model.views
    names = {view.name for view in read}
    return data.presence[:, [view.name in names for view in data.views]].any(1)


def _ask(
    data: DomainData,
    is_known: Bool[Tensor, " item"],
    embedding: Float[Tensor, "item dim"],
    probabilities: Float[Tensor, "item way"],
    config: ScoreConfig,
) -> list[int | None]:
    """Return each item's rank among those whose labels would help most; None if it is not asked for."""
    is_labelled = data.labels >= 0
    asked = most_helpful(
        embedding,
        entropy(probabilities),
        is_open=is_known & ~is_labelled,
        is_labelled=is_known & is_labelled,
        count=config.ask,
        seed=config.seed,
    )
    ranks: list[int | None] = [None] * len(data)
    for rank, row in enumerate(asked.tolist(), start=1):
        ranks[row] = rank
    return ranks


def _probabilities(data: DomainData, model: DomainModel | None) -> Float[Tensor, "item way"]:
    if model is None:
        return torch.zeros(len(data), 0)
    return torch.cat([model.predict(part) for part in _parts(data)])


def _uncertainty(data: DomainData, is_known: Bool[Tensor, " item"], model: DomainModel | None) -> list[float | None]:
    """Return how far the heads of an ensemble disagree on each item; None where one head answers, or nobody."""
    found: list[float | None] = []
    for part in _parts(data):
        told = model.uncertainty(part) if isinstance(model, EnsembleModel) else None
        found += [None] * len(part) if told is None else told.tolist()
    return [nats if known else None for nats, known in zip(found, is_known.tolist(), strict=True)]


def _embedding(data: DomainData, model: DomainModel | None) -> Float[Tensor, "item dim"]:
    """Return items in the model's space, or, without one, their views side by side about the domain's means."""
    if model is not None:
        return torch.cat([model.embed(part) for part in _parts(data)])
    return torch.cat(list(data.centred(torch.arange(len(data))).values()), dim=-1)


def _parts(data: DomainData) -> Iterator[DomainData]:
    for start in range(0, len(data), CHUNK):
        yield data.take(torch.arange(start, min(start + CHUNK, len(data))))


def _best(probabilities: Float[Tensor, "item way"]) -> tuple[Tensor, Tensor]:
    """Return each item's highest probability and its class; zeros where there are no classes."""
    if probabilities.shape[1] == 0:
        return torch.zeros(len(probabilities)), torch.zeros(len(probabilities), dtype=torch.long)
    highest = probabilities.max(1)
    return highest.values, highest.indices


def _as_json(classes: tuple[str, ...], probabilities: list[float]) -> str:
    named = {name: round(value, 6) for name, value in zip(classes, probabilities, strict=True)}
    return json.dumps(named, ensure_ascii=False)


def _report(rows: pa.Table, rung: Rung, is_new: bool, seconds: float) -> ScoreReport:
    answered = rows["label"].drop_null().value_counts().to_pylist()
    return ScoreReport(
        domain=rows["domain"][0].as_py(),
        score_id=rows["score_id"][0].as_py(),
        model=rung.registered,
        version=rung.version,
        rung=rung.name,
        passed_over=rung.passed_over,
        items=rows.num_rows,
        abstained=_count(rows["is_abstained"]),
        anomalies=_count(rows["is_anomaly"]),
        clusters=len({number for number in rows["cluster"].to_pylist() if number >= 0}),
        cluster_stability=rows["cluster_stability"][0].as_py(),
        labels={entry["values"]: entry["counts"] for entry in answered},
        ask=_asked(rows),
        is_new=is_new,
        seconds=seconds,
    )


def _asked(rows: pa.Table) -> tuple[str, ...]:
    asked = rows.filter(pc.field("ask").is_valid()).sort_by("ask")
    return tuple(asked["item_id"].to_pylist())


def _count(flags: pa.ChunkedArray) -> int:
    return int(pc.sum(flags.cast(pa.int64())).as_py() or 0)
