"""What a view is worth that training has not met: `python tests/benchmarks/new_views.py HOME CACHE`.

HOME is one where `metafuse demo` has run. Learners are trained and tested on the domains of `accuracy.py`, on other
classes, in two trials for each view that is new:

- `view`: training has no such view, nor any other of its modality;
- `encoder`: training has it from another encoder, of another dimension: a fixed random layer with a ReLU on top.

No training domain has sound. In two more trials test items do: their titles, spoken by espeak-ng (Debian's package of
that name) and encoded by the product as any sound is. CACHE is a folder that keeps the sounds and their vectors.

- `spoken`: test items have a picture, a title and table columns besides;
- `untitled`: test items have a picture and table columns besides, training has titles as well.

Every learner answers the same episodes with the new view and without it, and so does nearest centroid, which is what
learners are before training. Class splits count as more episodes.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from accuracy import HELD_OUT, TRAINING, points
from spoken_titles import FIELD, load_spoken, titles_of, with_sound
from torch import Tensor

from data_contracts.configs import BenchmarkConfig
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

SPOKEN = ("spoken", "untitled")
TRIALS = ("view", "encoder", *SPOKEN)
OTHER_DIM = 300


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
    trials: Sequence[str] = TRIALS,
    report: Report = lambda *_: None,
) -> list[Row]:
    """Return a row for each trial, new view, shot and learner; for trials with sound, test domains must have it."""
    rows = []
    for trial in trials:
        for view in (FIELD,) if trial in SPOKEN else views:
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
    if trial == "spoken":
        return list(training), list(test)
    if trial == "untitled":
        return list(training), [without(data, "title") for data in test]
    silent = [without(data, FIELD) for data in test]
    if trial == "view":
        modality = next(spec.modality for spec in silent[0].views if spec.name == view)
        return [without_modality(data, modality) for data in training], silent
    return [encoded_otherwise(data, view) for data in training], silent


def without(domain: DomainData, field: str) -> DomainData:
    """Return the same items with the views of one field never heard of."""
    return with_views(domain, [spec.name.partition(".")[0] != field for spec in domain.views])


def without_modality(domain: DomainData, modality: str) -> DomainData:
    return with_views(domain, [spec.modality != modality for spec in domain.views])


def with_views(domain: DomainData, is_kept: Sequence[bool]) -> DomainData:
    views = tuple(spec for spec, kept in zip(domain.views, is_kept, strict=True) if kept)
    features = {spec.name: domain.features[spec.name] for spec in views}
    return replace(domain, views=views, features=features, presence=domain.presence[:, torch.tensor(is_kept)])


def encoded_otherwise(domain: DomainData, view: str) -> DomainData:
    """Return the same items with one view from another encoder, the same for all domains."""
    old = next(spec for spec in domain.views if spec.name == view)
    new = replace(old, encoder_id=f"random-layer-of-{old.encoder_id}", dim=OTHER_DIM)
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
    arguments.add_argument("cache", type=Path)
    arguments.add_argument("--trials", nargs="+", choices=TRIALS, default=TRIALS)
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
    loaded = {name: load_domain(lake, name) for name in (*TRAINING, *HELD_OUT)}
    for name in HELD_OUT if set(chosen.trials) & set(SPOKEN) else ():
        language = name.partition("-")[2]
        loaded[name] = with_sound(loaded[name], load_spoken(chosen.cache, name, titles_of(lake, name), language))
    measured = measure(
        loaded,
        protocol,
        chosen.views,
        chosen.trials,
        lambda done, total, what: print(what, f"{done}/{total}", file=sys.stderr),
    )
    print(json.dumps([asdict(row) for row in measured], indent=2) if chosen.json else table(measured))
