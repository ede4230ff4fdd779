"""What each departure of `metric` from prototypical networks is worth: `python tests/benchmarks/departures.py HOME`.

HOME is one where `metafuse demo` has run. The learner is trained on the domains of `accuracy.py` and answers episodes
of held-out classes of the others. Then one departure after another is taken from it, nothing is trained again, and it
answers the same episodes.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from accuracy import HELD_OUT, TRAINING, points, show_progress
from torch import nn

from data_contracts.configs import BenchmarkConfig
from data_contracts.names import MODALITIES
from models.catalogue import build_learner
from models.episodes import EpisodeBatch
from models.evaluation import draw_episodes, held_out_classes
from models.features import DomainData
from models.fused import FusedLearner
from models.metric.prototypical import PrototypicalHead
from models.metrics import accuracy_per_episode, estimate
from models.strength import ByShot
from models.training import Report, fit_to_data, train
from tasks.features import load_domain
from tasks.lake import Lake


def head_of(learner: FusedLearner) -> PrototypicalHead:
    if not isinstance(learner.head, PrototypicalHead):
        raise TypeError(f"{learner.kind} is not metric")
    return learner.head


PARTS: dict[str, Callable[[FusedLearner], Sequence[nn.Parameter]]] = {
    "view weights": lambda learner: list(learner.view_weights.parameters()),
    "evidence": lambda learner: [learner.view_weights.evidence],
    "neighbours": lambda learner: list(learner.placement.smoothing.parameters()),
    "whitening": lambda learner: list(learner.placement.whitening.parameters()),
    "fine-tuning": lambda learner: list(head_of(learner).fine_tuning.strength.parameters()),
}
"""The parameters of each departure that training may take or leave."""

CENTRING = "centring"


def train_metric(
    training: Sequence[DomainData], test: Sequence[DomainData], config: BenchmarkConfig, report: Report
) -> tuple[FusedLearner, tuple[str, ...]]:
    """Train on all but the held-out classes of the first class split, and return those as well."""
    seed = config.split_seeds[0]
    classes = held_out_classes(training, test, fraction=config.holdout_fraction, seed=seed)
    seen = [data.without_classes(classes) for data in training]
    learner, fitted = build_learner("metric"), fit_to_data(config.training, seen)
    for progress in train(learner, seen, fitted):
        report(progress.step, fitted.steps, "meta-train metric")
    return learner, classes


def losses(learner: FusedLearner, episodes: Sequence[EpisodeBatch]) -> dict[str, tuple[float, float]]:
    """Return the accuracy lost without each departure, with its interval."""
    whole = accuracies(learner, episodes)
    lost = {}
    for name in PARTS:
        lost[name] = estimate(whole - accuracies(without(learner, name), episodes))
    lost[CENTRING] = estimate(whole - accuracies(learner, [uncentred(batch) for batch in episodes]))
    return lost


def without(learner: FusedLearner, part: str) -> FusedLearner:
    """Return the same learner with nothing of one of `PARTS`."""
    found = deepcopy(learner)
    with torch.no_grad():
        for parameter in PARTS[part](found):
            parameter.zero_()
    return found


def accuracies(learner: FusedLearner, episodes: Sequence[EpisodeBatch]) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat(
            [accuracy_per_episode(learner.log_probabilities(batch), batch.query_labels) for batch in episodes]
        )


def uncentred(batch: EpisodeBatch) -> EpisodeBatch:
    """Return the same episodes of a domain whose mean is held to be zero."""
    domain = replace(batch.domain)
    domain.__dict__["means"] = {name: torch.zeros_like(mean) for name, mean in batch.domain.means.items()}
    return replace(batch, domain=domain)


def strengths(learner: FusedLearner, shot: int) -> str:
    """Write what training made of each strength at a shot."""

    def at_shot(strength: ByShot) -> list[float]:
        return [round(value, 2) for value in strength(torch.tensor(float(shot))).tolist()]

    head, whitening = head_of(learner), dict(zip(MODALITIES, at_shot(learner.placement.whitening), strict=True))
    met = learner.view_weights.is_met
    numbers = met.nonzero().flatten()
    shares = [round(100 * share) for share in learner.view_weights.prior(numbers, met[numbers]).tolist()]
    return (
        f"neighbours {[max(value, 0.0) for value in at_shot(learner.placement.smoothing)]}, whitening {whitening}, "
        f"fine-tuning {at_shot(head.fine_tuning.strength)}, "
        f"temperature {math.exp(at_shot(head.nearest.log_temperature)[0]):.1f}, "
        f"evidence {[round(value, 2) for value in learner.view_weights.evidence.tolist()]}, "
        f"shares in % {dict(zip((MODALITIES[number] for number in numbers.tolist()), shares, strict=True))}"
    )


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("home", type=Path)
    arguments.add_argument("--episodes", type=int, default=600, help="of every shot and test domain")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    lake = Lake(str(chosen.home / "lake"))
    protocol = BenchmarkConfig(train=TRAINING, test=HELD_OUT, learners=("metric",), episodes=chosen.episodes)
    training, test = ([load_domain(lake, name) for name in names] for names in (TRAINING, HELD_OUT))
    trained, held_out = train_metric(training, test, protocol, show_progress)
    for shot in protocol.shots:
        print(f"{shot} shot: {strengths(trained, shot)}")
        drawn = [draw_episodes(data, held_out, shot, protocol, protocol.split_seeds[0]) for data in test]
        for name, lost in losses(trained, drawn).items():
            print(f"  {name:<14} {points(*lost):>14}")
