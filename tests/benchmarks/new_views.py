"""What a view is worth that training has not met: `python tests/benchmarks/new_views.py HOME`.

HOME is one where `metafuse demo` has run. Learners are trained and tested on the domains of `accuracy.py`, on other
classes, in three trials for each view that is new:

- `view`: training has no such view, nor any other of its modality;
- `encoder`: training has it from another encoder, of another dimension;
- `modality`: training has it, and the test brings it from another encoder, as audio, which no training domain has.

The other encoder is a fixed random layer with a ReLU on top of the real one: it has another geometry and dimension, but
says nothing of what real sound is worth. Every learner answers the same episodes with the new view and without it, and
so does nearest centroid, which is what learners are before training. Class splits count as more episodes.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from accuracy import HELD_OUT, TRAINING, points
from torch import Tensor

from data_contracts.configs import BenchmarkConfig
from data_contracts.names import Modality
from models.evaluation import (
    UNTRAINED,
    check_classes,
    compare,
    draw_episodes,
    held_out_classes,
    train_learners,
    untrained_learner,
)
from models.features import DomainData
from models.metrics import estimate
from models.training import Report, fit_to_data
from tasks.features import load_domain
from tasks.lake import Lake

TRIALS = ("view", "encoder", "modality")
OTHER_DIM = 300
UNHEARD: Modality = "audio"


@dataclass(frozen=True)
class Row:
    """How one learner did in one trial: with the new view, ignoring it, and the paired differences."""

    trial: str
    view: str
    shot: int
    learner: str
    accuracy: float
    ignoring: float
    gain: float
    gain_ci95: float
    lead: float
    """Over nearest centroid, both with all views."""
    lead_ci95: float


def measure(
    domains: Mapping[str, DomainData],
    config: BenchmarkConfig,
    views: Sequence[str],
    report: Report = lambda *_: None,
) -> list[Row]:
    """Return a row for each trial, new view, shot and learner."""
    rows = []
    for trial in TRIALS:
        for view in views:
            parts = [answer_split(domains, config, trial, view, seed, report) for seed in config.split_seeds]
            for shot, learner in parts[0]:
                both = torch.cat([part[shot, learner] for part in parts], dim=1)
                centroid = torch.cat([part[shot, UNTRAINED][0] for part in parts])
                gain, lead = estimate(both[0] - both[1]), estimate(both[0] - centroid)
                accuracy, ignoring = both.mean(1).tolist()
                rows.append(Row(trial, view, shot, learner, accuracy, ignoring, *gain, *lead))
    return rows


def answer_split(
    domains: Mapping[str, DomainData], config: BenchmarkConfig, trial: str, view: str, seed: int, report: Report
) -> dict[tuple[int, str], Tensor]:
    """Train on one class split; return accuracies [2, episode] with and without the view, by shot and learner."""
    training, test = prepare(
        trial, view, [domains[name] for name in config.train], [domains[name] for name in config.test]
    )
    classes = held_out_classes(training, test, fraction=config.holdout_fraction, seed=seed)
    check_classes(test, classes, config)
    seen = [data.without_classes(classes) for data in training]
    trained, _ = train_learners(config.learners, seen, fit_to_data(config.training, seen), report)
    learners = {UNTRAINED: untrained_learner(), **trained}
    found: dict[tuple[int, str], Tensor] = {}
    for shot in config.shots:
        episodes = [draw_episodes(data, classes, shot, config, seed) for data in test]
        ignoring = [replace(batch, domain=without(batch.domain, view)) for batch in episodes]
        answers = [[compare(learners, batch, report) for batch in same] for same in (episodes, ignoring)]
        for name in learners:
            found[shot, name] = torch.stack([torch.cat([by[name].accuracy for by in same]) for same in answers])
    return found


def prepare(
    trial: str, view: str, training: Sequence[DomainData], test: Sequence[DomainData]
) -> tuple[list[DomainData], list[DomainData]]:
    """Return the domains to train and to test on."""
    if trial == "view":
        modality = next(spec.modality for spec in test[0].views if spec.name == view)
        return [without_modality(data, modality) for data in training], list(test)
    if trial == "encoder":
        return [encoded_otherwise(data, view) for data in training], list(test)
    return list(training), [encoded_otherwise(data, view, UNHEARD) for data in test]


def without(domain: DomainData, view: str) -> DomainData:
    """Return the same items with one view never heard of."""
    return with_views(domain, [spec.name != view for spec in domain.views])


def without_modality(domain: DomainData, modality: str) -> DomainData:
    return with_views(domain, [spec.modality != modality for spec in domain.views])


def with_views(domain: DomainData, is_kept: Sequence[bool]) -> DomainData:
    views = tuple(spec for spec, kept in zip(domain.views, is_kept, strict=True) if kept)
    features = {spec.name: domain.features[spec.name] for spec in views}
    return replace(domain, views=views, features=features, presence=domain.presence[:, torch.tensor(is_kept)])


def encoded_otherwise(domain: DomainData, view: str, modality: Modality | None = None) -> DomainData:
    """Return the same items with one view from another encoder, the same for all domains."""
    old = next(spec for spec in domain.views if spec.name == view)
    new = replace(old, modality=modality or old.modality, encoder_id=f"random-layer-of-{old.encoder_id}", dim=OTHER_DIM)
    layer = torch.randn(old.dim, OTHER_DIM, generator=torch.Generator().manual_seed(0))
    return replace(
        domain,
        views=tuple(new if spec is old else spec for spec in domain.views),
        features={**domain.features, view: (domain.features[view] @ layer).relu()},
    )


def table(rows: Sequence[Row]) -> str:
    """Write accuracies in % and paired differences in points."""
    lines = [
        f"{'trial':<9} {'new view':<9} {'shot':>4} {'learner':<17} {'with it':>8} {'ignoring':>8} "
        f"{'gain':>13} {'over centroid':>14}"
    ]
    lines += [
        f"{row.trial:<9} {row.view:<9} {row.shot:>4} {row.learner:<17} {100 * row.accuracy:>8.2f} "
        f"{100 * row.ignoring:>8.2f} {points(row.gain, row.gain_ci95):>13} {points(row.lead, row.lead_ci95):>14}"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("home", type=Path)
    arguments.add_argument("--views", nargs="+", default=["picture", "title"])
    arguments.add_argument("--learners", nargs="+", default=["metric", "similarity"])
    arguments.add_argument("--episodes", type=int, default=600)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--json", action="store_true")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    lake = Lake(str(chosen.home / "lake"))
    protocol = BenchmarkConfig(
        train=TRAINING,
        test=HELD_OUT,
        learners=tuple(chosen.learners),
        split_seeds=tuple(chosen.seeds),
        episodes=chosen.episodes,
    )
    measured = measure(
        {name: load_domain(lake, name) for name in (*TRAINING, *HELD_OUT)},
        protocol,
        chosen.views,
        lambda done, total, what: print(what, f"{done}/{total}", file=sys.stderr),
    )
    print(json.dumps([asdict(row) for row in measured], indent=2) if chosen.json else table(measured))
