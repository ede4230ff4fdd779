"""What adapting to a domain costs by itself: `python tests/benchmarks/adapting.py HOME [--domain noto-ru]`.

HOME is one where `metafuse demo` has run. The registered prior adapts to five classes with five labels each, over and
over; seconds are CPU time on one thread, medians over the rounds. Reading, judging, MLflow and Prefect come on top.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from data_contracts.settings import use_home
from models.selection import AutoLearner
from models.training import large_classes
from tasks.features import load_domain
from tasks.lake import Lake
from tasks.registry import load_prior

WAY, SHOT = 5, 5


def measure(home: Path, domain: str, rounds: int) -> dict[str, float]:
    """Return the seconds of choosing a learner (0 if the prior is one), of adapting it, and of answering all items."""
    use_home(home)
    prior, _ = load_prior()
    data = load_domain(Lake(str(home / "lake")), domain)
    data = data.with_classes(large_classes(data, SHOT)[:WAY])
    support = torch.cat([(data.usable_labels == number).nonzero().flatten()[:SHOT] for number in range(WAY)])
    found: dict[str, list[float]] = {"choose": [], "adapt": [], "answer": []}
    for _ in range(rounds):
        started = time.process_time()
        learner = prior.choose(data, support)[0] if isinstance(prior, AutoLearner) else prior
        chosen = time.process_time()
        model = learner.adapt(data, support)
        adapted = time.process_time()
        model.predict(data)
        for name, seconds in zip(
            found, (chosen - started, adapted - chosen, time.process_time() - adapted), strict=True
        ):
            found[name].append(seconds)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("home", type=Path)
    arguments.add_argument("--domain", default="noto-ru")
    arguments.add_argument("--rounds", type=int, default=10)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    for what, seconds in measure(given.home, given.domain, given.rounds).items():
        print(f"{what:<8} {seconds:.3f} s")
