"""How much is gained over tuned logistic regression: `python tests/benchmarks/accuracy.py HOME`.

HOME is one where `metafuse demo` has run. Learners are trained on two vendors and five languages and tested on a third
vendor, two other languages and classes held out of training, over several draws of those classes; every learner
answers the same episodes. This is `metafuse benchmark` for the domains of the demo, with the mean over the draws.
`--missing 0.5` hides half of the views of test items, but never the last of an item; a baseline gets the domain's mean
for what is missing.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from data_contracts.configs import BenchmarkConfig
from data_contracts.reports import BenchmarkRow
from models.evaluation import averaged, run_protocol
from tasks.features import load_domain
from tasks.lake import Lake

TRAINING = tuple(
    f"{vendor}-{language}" for vendor in ("openmoji", "twemoji") for language in ("en", "de", "fr", "es", "ja")
)
HELD_OUT = ("noto-ru", "noto-zh")


def measure(lake: Lake, config: BenchmarkConfig) -> list[BenchmarkRow]:
    """Run the protocol on domains of a lake."""
    domains = {name: load_domain(lake, name) for name in (*config.train, *config.test)}
    return run_protocol(config, domains, show_progress)


def table(rows: Sequence[BenchmarkRow]) -> str:
    """Write accuracies and paired differences in points, then the differences averaged over the class splits."""
    lines = [
        f"{'split':>5} {'shot':>4} {'learner':<14} {'accuracy':>14} {'diff':>14} {'nll':>6} {'ece':>6} {'s/1000':>7}"
    ]
    lines += [
        f"{row.split_seed:>5} {row.shot:>4} {row.learner:<14} {points(row.accuracy, row.ci95):>14} "
        f"{points(row.diff, row.diff_ci95):>14} {row.nll:>6.3f} {row.ece:>6.3f} {row.cpu_s_per_1000:>7.2f}"
        for row in rows
    ]
    lines += ["", "mean difference over the splits:"]
    for shot in dict.fromkeys(row.shot for row in rows):
        for learner in dict.fromkeys(row.learner for row in rows):
            lines.append(f"{'':>5} {shot:>4} {learner:<14} {points(*averaged(rows, learner, shot)):>14}")
    return "\n".join(lines)


def points(mean: float, ci95: float) -> str:
    return f"{100 * mean:.2f} ± {100 * ci95:.2f}"


def add_options(arguments: argparse.ArgumentParser) -> None:
    """Add the options that all collections have."""
    arguments.add_argument("--learners", nargs="+", default=BenchmarkConfig.model_fields["learners"].default)
    arguments.add_argument("--episodes", type=int, default=600, help="of every shot and test domain")
    arguments.add_argument("--splits", type=int, default=5, help="draws of the classes to test on")
    arguments.add_argument("--missing", type=float, default=0.0, help="share of the views of test items to hide")


def protocol_of(chosen: argparse.Namespace, train: Sequence[str], test: Sequence[str]) -> BenchmarkConfig:
    """Return the protocol that these options ask for."""
    return BenchmarkConfig(
        train=tuple(train),
        test=tuple(test),
        learners=tuple(chosen.learners),
        episodes=chosen.episodes,
        split_seeds=tuple(range(chosen.splits)),
        missing=chosen.missing,
    )


def show_progress(done: int, total: int, what: str) -> None:
    print(what, f"{done}/{total}", file=sys.stderr)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("home", type=Path)
    add_options(arguments)
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    print(table(measure(Lake(str(chosen.home / "lake")), protocol_of(chosen, TRAINING, HELD_OUT))))
