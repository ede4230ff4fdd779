"""What a generator adds to calibration: `python tests/benchmarks/generated_features.py keel CACHE`.

Collections are `emoji HOME`, HOME being one where `metafuse demo` has run, and those of `public_accuracy.py`. For every
class split `feature_generator` is trained and answers episodes of held-out domains and classes: with the generator as
the outer loop leaves it, whether or not that is dropped in the end, with distribution calibration alone, and with
neither. Nothing is trained in between, and the episodes are the same. `used` is what training hands over,
before strengths are settled.
"""

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path

import debian_packages
import departures
import keel_tables
import torch
from accuracy import HELD_OUT, TRAINING, points, show_progress
from jaxtyping import Float
from torch import Tensor

from data_contracts.configs import BenchmarkConfig
from models.episodes import EpisodeBatch
from models.evaluation import check_classes, draw_episodes, held_out_classes
from models.features import DomainData
from models.fused import FusedLearner
from models.generation.feature_generator import FeatureGeneratorHead, generator_loss
from models.metrics import Estimate, estimate
from models.settling import drop_unless_it_pays
from models.strength import ByShot
from models.training import Report, fit_to_data, train
from tasks.features import load_domain
from tasks.lake import Lake

KIND = "feature_generator"
PUBLIC = {"debian": debian_packages, "keel": keel_tables}

USED, GENERATOR, CALIBRATION, NEITHER = "used", "generator", "calibration", "neither"
PAIRS = ((USED, CALIBRATION), (GENERATOR, CALIBRATION), (CALIBRATION, NEITHER))
"""Whose accuracies are compared, episode by episode."""

Accuracies = Mapping[str, Float[Tensor, " episode"]]

ClassSplit = tuple[BenchmarkConfig, Sequence[DomainData], Sequence[DomainData]]
"""What to do, the domains to train on and those to test on."""


class Recorded(FusedLearner):
    """Remembers the strength that its generator had before that was kept or dropped; all others are used whole."""

    head: FeatureGeneratorHead

    def __init__(self) -> None:
        super().__init__(KIND, FeatureGeneratorHead(), generator_loss)
        self.learned = ByShot()

    def settle(self, batches: Sequence[EpisodeBatch]) -> None:
        self.learned = deepcopy(self.head.generation)
        drop_unless_it_pays(self.head, map(self._asked, batches))


def contenders(learner: Recorded) -> dict[str, Recorded]:
    """Return the learner as it is used, with its generator, with calibration alone, and with neither."""
    found = {name: deepcopy(learner) for name in (USED, GENERATOR, CALIBRATION, NEITHER)}
    found[GENERATOR].head.generation = deepcopy(learner.learned)
    found[CALIBRATION].head.drop()
    found[NEITHER].head.drop()
    found[NEITHER].head.calibration = ByShot()
    return found


def train_generator(domains: Sequence[DomainData], config: BenchmarkConfig, report: Report) -> Recorded:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        learner = Recorded()
    fitted = fit_to_data(config.training, domains)
    for progress in train(learner, domains, fitted):
        report(progress.step, fitted.steps, f"meta-train {KIND}")
    return learner


def accuracies(learners: Mapping[str, FusedLearner], batches: Sequence[EpisodeBatch]) -> Accuracies:
    """Let every learner answer the same episodes."""
    return {name: departures.accuracies(learner, batches) for name, learner in learners.items()}


def summary(found: Accuracies) -> list[Estimate]:
    """Return the accuracy of the learner as it is used, and the difference of each of `PAIRS`."""
    return [estimate(found[USED]), *(estimate(found[one] - found[other]) for one, other in PAIRS)]


def averaged(splits: Sequence[Estimate]) -> Estimate:
    """Return the mean over class splits and the half-width of its interval, splits being independent."""
    mean = sum(one.mean for one in splits) / len(splits)
    return Estimate(mean, math.sqrt(sum(one.ci95**2 for one in splits)) / len(splits))


def strengths(learner: Recorded, shot: int) -> str:
    """Write what training made of both strengths at a shot."""
    shots = torch.tensor(float(shot))
    calibration, generator = (part(shots).item() for part in (learner.head.calibration, learner.learned))
    outcome = "kept" if any(parameter.any() for parameter in learner.head.generation.parameters()) else "dropped"
    return f"calibration {calibration:.2f}, generator {generator:.2f} ({outcome})"


def measure(
    training: Sequence[DomainData], test: Sequence[DomainData], config: BenchmarkConfig, report: Report
) -> dict[int, tuple[list[Estimate], str]]:
    """Return the summary of the first class split, and the strengths that were learned, for every shot."""
    seed = config.split_seeds[0]
    classes = held_out_classes(training, test, fraction=config.holdout_fraction, seed=seed)
    check_classes(test, classes, config)
    learner = train_generator([data.without_classes(classes) for data in training], config, report)
    drawn = {shot: [draw_episodes(data, classes, shot, config, seed) for data in test] for shot in config.shots}
    return {
        shot: (summary(accuracies(contenders(learner), batches)), strengths(learner, shot))
        for shot, batches in drawn.items()
    }


@cache
def load(collection: str, place: Path, names: tuple[str, ...]) -> list[DomainData]:
    """Return domains of a collection, which are read once."""
    if collection in PUBLIC:
        return list(PUBLIC[collection].load(place, names).values())
    lake = Lake(str(place / "lake"))
    return [load_domain(lake, name) for name in names]


def class_splits(description: str, kind: str) -> Iterator[ClassSplit]:
    """Read the command line and return the class splits that it asks for, for a learner of a `kind`."""
    arguments = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("collection", choices=("emoji", *PUBLIC))
    arguments.add_argument("place", type=Path, help="HOME of the demo, or CACHE of a public collection")
    arguments.add_argument("--episodes", type=int, default=600, help="of every shot and test domain")
    arguments.add_argument("--splits", type=int, default=5, help="draws of the classes to test on")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    chosen.place.mkdir(parents=True, exist_ok=True)
    return (_class_split(chosen, kind, seed) for seed in range(chosen.splits))


def _class_split(chosen: argparse.Namespace, kind: str, seed: int) -> ClassSplit:
    train, test = PUBLIC[chosen.collection].split(seed) if chosen.collection in PUBLIC else (TRAINING, HELD_OUT)
    protocol = BenchmarkConfig(train=train, test=test, episodes=chosen.episodes, split_seeds=(seed,), learners=(kind,))
    return protocol, *(load(chosen.collection, chosen.place, names) for names in (train, test))


def row(split: int | str, shot: int | str, cells: Sequence[str], note: str = "") -> str:
    return f"{split:>5} {shot:>4}" + "".join(f" {cell:>24}" for cell in cells) + f"  {note}"


if __name__ == "__main__":
    splits_asked_for = class_splits(__doc__, KIND)
    print(row("split", "shot", ["accuracy", *(f"{one} - {other}" for one, other in PAIRS)], "strengths"))
    found: dict[int, list[list[Estimate]]] = {}
    for protocol, training, test in splits_asked_for:
        for shot, (estimates, learned) in measure(training, test, protocol, show_progress).items():
            found.setdefault(shot, []).append(estimates)
            print(row(protocol.split_seeds[0], shot, [points(*one) for one in estimates], learned), flush=True)
    for shot, splits in found.items():
        print(row("mean", shot, [points(*averaged(column)) for column in zip(*splits, strict=True)]))
