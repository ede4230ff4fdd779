"""What a step of meta-training costs: `python tests/benchmarks/training_steps.py [--device cuda] [--meta-batch 16]`.

Every learner trains as `meta-train` has it, on one domain of two views of 512 numbers. Milliseconds are on the wall,
medians over the steps, with the state that a checkpoint would hold and without looks at the validation classes.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from stored_pool import CLASSES, PER_CLASS, VIEW, draw_pool
from turns import gpu_clock

from data_contracts.configs import TrainConfig
from models.catalogue import LEARNERS, build_learner
from models.features import DomainData, ViewSpec
from models.training import TrainProgress, train

LEAST_STEPS = 3

VIEWS = (ViewSpec("picture", "image", "drawn-1", 512), ViewSpec("title", "text", "drawn-2", 512))


def draw_domain(per_class: int) -> DomainData:
    """Return items whose two views are drawn by themselves, with the classes in common."""
    pools = [draw_pool(seed) for seed in range(len(VIEWS))]
    rows = (torch.arange(CLASSES)[:, None] * PER_CLASS + torch.arange(per_class)).flatten()
    features = {view.name: pool.features[VIEW.name] for view, pool in zip(VIEWS, pools, strict=True)}
    whole = replace(pools[0], views=VIEWS, features=features, presence=pools[0].presence.expand(-1, len(VIEWS)))
    return whole.take(rows)


def milliseconds_per_step(kind: str, domain: DomainData, config: TrainConfig, device: str) -> float:
    """Return the median over all steps but the first; statistics are fitted before it, and not again."""
    clock = gpu_clock if device == "cuda" else time.perf_counter
    run = train(build_learner(kind).to(device), [domain.to(device)], config)
    spent = [after - before for before, after in itertools.pairwise(_times(run, config.steps, clock))]
    return 1e3 * statistics.median(spent[1:])


def _times(run: Iterator[TrainProgress], steps: int, clock: Callable[[], float]) -> Iterator[float]:
    for _ in itertools.islice(run, steps):  # step 0 is the start; the last would be followed by a look
        yield clock()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--device", nargs="+", choices=("cpu", "cuda"), default=["cpu"])
    arguments.add_argument("--learners", nargs="+", choices=LEARNERS, default=LEARNERS)
    arguments.add_argument("--meta-batch", type=int, default=TrainConfig().meta_batch)
    arguments.add_argument(
        "--per-class", type=int, default=60, help=f"items, of {CLASSES} classes; at most {PER_CLASS}"
    )
    arguments.add_argument("--steps", type=int, default=12)
    given = arguments.parse_args()
    if given.steps < LEAST_STEPS:
        arguments.error(f"--steps is {given.steps}, and {LEAST_STEPS} are needed: the first and the last are not timed")
    torch.set_num_threads(1)
    drawn = draw_domain(given.per_class)
    asked = TrainConfig(meta_batch=given.meta_batch, steps=given.steps, validate_every=given.steps)
    print(f"{'':<24}" + "".join(f"{f'{name}, ms':>10}" for name in given.device))
    for learner in given.learners:
        figures = [milliseconds_per_step(learner, drawn, asked, device) for device in given.device]
        print(f"{learner:<24}" + "".join(f"{figure:>10.1f}" for figure in figures), flush=True)
