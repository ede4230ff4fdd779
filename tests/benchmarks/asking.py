"""What the labels are worth that `score` asks for: `python tests/benchmarks/asking.py HOME`.

HOME is one where `metafuse demo` has run. `metric` is trained as in `departures.py` and adapted to ten held-out classes
of another domain; then it gets more labels, asked for or drawn at random, and is adapted anew. Each draw of classes and
first labels is judged on the half of the items that cannot be asked for.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
from accuracy import HELD_OUT, TRAINING, points, show_progress
from departures import train_metric
from jaxtyping import Float, Int
from torch import Tensor

from data_contracts.configs import BenchmarkConfig
from models.asking import entropy, most_helpful
from models.features import DomainData
from models.fused import FusedLearner
from models.metrics import estimate
from tasks.features import load_domain
from tasks.lake import Lake

CLASSES = 10
SETTINGS = (("noto-ru", 1), ("noto-zh", 1), ("noto-ru", 5))


class Draw(NamedTuple):
    """Items of some classes: the first labelled ones, those that can be asked for, and those to judge by."""

    data: DomainData
    support: Int[Tensor, " support"]
    pool: Int[Tensor, " pool"]
    judged: Int[Tensor, " judged"]


def draw(domain: DomainData, classes: tuple[str, ...], shot: int, seed: int) -> Draw:
    """Draw classes, and divide the items of each in two halves: one to judge by, and one with the first labels."""
    generator = torch.Generator().manual_seed(seed)
    chosen = tuple(classes[number] for number in torch.randperm(len(classes), generator=generator)[:CLASSES])
    data = domain.with_classes(chosen)
    data = data.take((data.labels >= 0).nonzero().flatten())
    parts: list[list[Tensor]] = [[], [], []]
    for label in range(len(chosen)):
        rows = (data.labels == label).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        half = len(rows) // 2
        for part, found in zip(parts, (rows[half : half + shot], rows[half + shot :], rows[:half]), strict=True):
            part.append(found)
    return Draw(data, *map(torch.cat, parts))


def accuracies(learner: FusedLearner, drawn: Draw, count: int, seed: int) -> tuple[float, float, float]:
    """Return the accuracy before, with `count` labels more drawn at random, and with as many asked for."""
    data = drawn.data
    model = learner.adapt(data, drawn.support)
    answers = model.predict(data)
    is_open, is_labelled = (
        torch.zeros(len(data), dtype=torch.bool).index_fill(0, rows, value=True) for rows in (drawn.pool, drawn.support)
    )
    doubt = entropy(answers)
    asked = most_helpful(model.embed(data), doubt, is_open=is_open, is_labelled=is_labelled, count=count, seed=seed)
    by_chance = drawn.pool[torch.randperm(len(drawn.pool), generator=torch.Generator().manual_seed(seed))[:count]]

    def with_more(rows: Int[Tensor, " more"]) -> float:
        return accuracy(learner.adapt(data, torch.cat([drawn.support, rows])).predict(data), drawn)

    return accuracy(answers, drawn), with_more(by_chance), with_more(asked)


def accuracy(answers: Float[Tensor, "item way"], drawn: Draw) -> float:
    return (answers.argmax(-1) == drawn.data.labels)[drawn.judged].float().mean().item()


def measure(
    learner: FusedLearner, domain: DomainData, classes: tuple[str, ...], shot: int, count: int, draws: int
) -> str:
    """Write the mean accuracies over the draws, and what asking gains over chance."""
    found = torch.tensor([accuracies(learner, draw(domain, classes, shot, seed), count, seed) for seed in range(draws)])
    before, by_chance, asked = (100 * found.mean(0)).tolist()
    gain = points(*estimate(found[:, 2] - found[:, 1]))
    return f"{domain.domain:<12} {shot:>4} {before:>8.1f} {by_chance:>8.1f} {asked:>8.1f} {gain:>14}"


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("home", type=Path)
    arguments.add_argument("--count", type=int, default=10, help="labels more")
    arguments.add_argument("--draws", type=int, default=100, help="of classes and first labels")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    lake = Lake(str(chosen.home / "lake"))
    protocol = BenchmarkConfig(train=TRAINING, test=HELD_OUT, learners=("metric",))
    training, test = ({name: load_domain(lake, name) for name in names} for names in (TRAINING, HELD_OUT))
    trained, held_out = train_metric(list(training.values()), list(test.values()), protocol, show_progress)
    print(f"{'domain':<12} {'shot':>4} {'before':>8} {'random':>8} {'asked':>8} {'gain':>14}")
    for name, shot in SETTINGS:
        print(measure(trained, test[name], held_out, shot, chosen.count, chosen.draws))
