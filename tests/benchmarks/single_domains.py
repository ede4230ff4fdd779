"""What fine-tuning adds on every domain by itself: `python tests/benchmarks/single_domains.py keel CACHE`.

Collections are those of `generated_features.py`. Means over the domains of a class split hide domains on which a
learner loses. For each of them this prints the accuracy of `metric` and, paired by episode, its difference from the
same learner without its fine-tuning, from nearest centroid, which it starts at, and from `tuned_logreg`.
"""

from collections.abc import Iterator, Sequence

from accuracy import points, show_progress
from departures import without
from generated_features import class_splits

from data_contracts.configs import BenchmarkConfig
from models.evaluation import (
    REFERENCE,
    UNTRAINED,
    check_classes,
    compare,
    draw_episodes,
    held_out_classes,
    trained_learners,
)
from models.features import DomainData
from models.fused import FusedLearner
from models.metrics import Estimate, estimate
from models.training import Report

KIND, NOT_TUNED = "metric", "not fine-tuned"
BESIDE = (NOT_TUNED, UNTRAINED, REFERENCE)


def measure(
    training: Sequence[DomainData], test: Sequence[DomainData], config: BenchmarkConfig, report: Report
) -> Iterator[tuple[int, str, list[Estimate]]]:
    """Yield, for every shot and test domain of the first class split, the accuracy and its difference from each."""
    seed = config.split_seeds[0]
    classes = held_out_classes(training, test, fraction=config.holdout_fraction, seed=seed)
    check_classes(test, classes, config)
    learners, _ = trained_learners(config, training, classes, report)
    learner = learners[KIND]
    assert isinstance(learner, FusedLearner)
    contenders = {KIND: learner, NOT_TUNED: without(learner, "fine-tuning")}
    contenders |= {name: learners[name] for name in (UNTRAINED, REFERENCE)}
    for shot in config.shots:
        for data in test:
            answers = compare(contenders, draw_episodes(data, classes, shot, config, seed))
            found = answers[KIND].accuracy
            yield shot, data.domain, [estimate(found), *(estimate(found - answers[name].accuracy) for name in BESIDE)]


def row(split: int | str, shot: int | str, domain: str, cells: Sequence[str]) -> str:
    return f"{split:>5} {shot:>4} {domain:<16}" + "".join(f" {cell:>26}" for cell in cells)


if __name__ == "__main__":
    splits = class_splits(__doc__, KIND)
    print(row("split", "shot", "domain", ["accuracy", *(f"less {name}" for name in BESIDE)]))
    for protocol, training, test in splits:
        for shot, domain, estimates in measure(training, test, protocol, show_progress):
            print(row(protocol.split_seeds[0], shot, domain, [points(*one) for one in estimates]), flush=True)
