"""How fast the learning core is beside other libraries: `python tests/benchmarks/speed.py [--json] [--quick]`.

`--device cuda` measures what concerns MAML on a GPU instead, where time is that on the wall.

Every ratio is the median, over rounds in which the contenders take turns in one process and on one thread, of their
CPU time over ours: above 1 we are faster. What each compares, and how the results are made sure to agree first, is said
in `speed_maml.py`, `speed_prototypes.py` and `speed_evaluation.py`. The libraries are fetched once, into
`$METAFUSE_BENCH_CACHE` or `~/.cache/metafuse-bench`; the ratio to one that cannot be had is null.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import torch
from peers import Peers
from speed_evaluation import measure_evaluation
from speed_maml import measure_maml, measure_peak
from speed_prototypes import measure_sampler, measure_training
from stored_pool import draw_pool
from turns import Pace, gpu_clock

from models.features import DomainData

Ratios = dict[str, float | None]
Part = Callable[[DomainData, Peers, Pace], Ratios]

FULL, QUICK = Pace(rounds=15, seconds=0.4), Pace(rounds=7, seconds=0.1)

TARGETS = {
    "maml_mlp_vs_learn2learn": 4.5,
    "maml_linear_vs_learn2learn": 7.0,
    "proto32_vs_easyfsl": 5.0,
    "proto1_vs_easyfsl": 2.0,
    "sampler_vs_easyfsl": 6.0,
    "proto_eval_vs_easyfsl": 9.0,
    "finetune_eval_vs_easyfsl": 5.0,
    "ptmap_eval_vs_easyfsl": 30.0,
}

PARTS: dict[str, Part] = {
    "peak": measure_peak,
    "maml_mlp": partial(measure_maml, "mlp"),
    "maml_linear": partial(measure_maml, "linear"),
    "proto": measure_training,
    "sampler": measure_sampler,
    "proto_eval": partial(measure_evaluation, "proto"),
    "finetune_eval": partial(measure_evaluation, "finetune"),
    "ptmap_eval": partial(measure_evaluation, "ptmap"),
}

ON_GPU = ("peak", "maml_mlp", "maml_linear")


def measure(parts: Iterable[str], pace: Pace, device: str = "cpu") -> Ratios:
    """Return all figures of the given parts by name.

    Raises:
        AssertionError: a library's results are not ours.
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    domain, peers = draw_pool().to(device), Peers()
    figures: Ratios = {}
    for part in parts:
        figures |= PARTS[part](domain, peers, pace)
    return figures


def keep_freed_memory() -> None:
    """Have the C library keep what is freed, for all contenders alike, rather than give it back and fetch it again.

    glibc gives back what is free beyond twice the largest block that was freed so far, up to 32 MiB a block: one block
    of nearly that size settles it, whatever parts run.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


def table(figures: Ratios) -> str:
    """Write the figures below each other, with what is aimed at."""
    lines = [f"{'':<34} {'measured':>9} {'aim':>6}"]
    for name, figure in figures.items():
        aim = f"{TARGETS[name]:.1f}" if name in TARGETS else ""
        lines.append(f"{name:<34} {'-' if figure is None else f'{figure:.2f}':>9} {aim:>6}")
    return "\n".join(lines)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    arguments.add_argument("--only", nargs="+", choices=PARTS, help=f"default: all; on a GPU {', '.join(ON_GPU)}")
    arguments.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    chosen = arguments.parse_args()
    chosen_pace, possible = QUICK if chosen.quick else FULL, tuple(PARTS)
    if chosen.device == "cuda":
        chosen_pace, possible = replace(chosen_pace, clock=gpu_clock), ON_GPU
    parts = chosen.only or possible
    if not set(parts) <= set(possible):
        arguments.error(f"on a GPU there are {', '.join(possible)}, not {', '.join(set(parts) - set(possible))}")
    measured = measure(parts, chosen_pace, chosen.device)
    print(json.dumps(measured, indent=2) if chosen.json else table(measured))
