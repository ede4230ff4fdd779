"""The gain over tuned logistic regression on public data: `python tests/benchmarks/public_accuracy.py debian CACHE`.

`debian` is packages described in eight languages, two of them held out with a share of the sections; `keel` is tables
that have no class in common, some of them held out. Both are fetched by this machine's apt or pip into CACHE and kept
there. `--missing 0.5` hides half of the views of training and test items; baselines get the domain's mean instead.
Held-out tables with fewer classes than `--way` are left out: a table's own classes are all that an episode can draw.
With tables, all classes of the held-out ones are new, so that split seeds differ in their episodes alone.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import debian_packages
import keel_tables
import torch
from accuracy import table
from torch.nn.functional import one_hot

from data_contracts.configs import BenchmarkConfig
from models.evaluation import run_protocol
from models.features import DomainData

COLLECTIONS = {"debian": debian_packages, "keel": keel_tables}


def hide_views(domain: DomainData, share: float, generator: torch.Generator) -> DomainData:
    """Hide that share of the views at random; an item that would lose all keeps one of them."""
    chance = torch.rand(domain.presence.shape, generator=generator)
    kept = domain.presence & (chance >= share)
    luckiest = one_hot((chance * domain.presence).argmax(1), len(domain.views)).bool() & domain.presence
    return domain.with_presence(torch.where(kept.any(1, keepdim=True), kept, luckiest))


def with_missing(domains: Mapping[str, DomainData], share: float) -> dict[str, DomainData]:
    """Hide views of every domain, each by a draw of its own."""
    return {
        name: hide_views(domain, share, torch.Generator().manual_seed(number)) if share else domain
        for number, (name, domain) in enumerate(domains.items())
    }


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("collection", choices=COLLECTIONS)
    arguments.add_argument("cache", type=Path)
    arguments.add_argument("--learners", nargs="+", default=["metric"])
    arguments.add_argument("--way", type=int, default=5)
    arguments.add_argument("--episodes", type=int, default=600)
    arguments.add_argument("--split-seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--missing", type=float, default=0.0)
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    collection = COLLECTIONS[chosen.collection]
    chosen.cache.mkdir(parents=True, exist_ok=True)
    domains = collection.load(chosen.cache, (*collection.TRAINING, *collection.HELD_OUT))
    protocol = BenchmarkConfig(
        train=collection.TRAINING,
        test=tuple(name for name in collection.HELD_OUT if len(domains[name].classes) >= chosen.way),
        learners=tuple(chosen.learners),
        split_seeds=tuple(chosen.split_seeds),
        n_way=chosen.way,
        episodes=chosen.episodes,
    )
    rows = run_protocol(
        protocol,
        with_missing(domains, chosen.missing),
        lambda done, total, what: print(what, f"{done}/{total}", file=sys.stderr),
    )
    print(f"tested on {', '.join(protocol.test)}", table(rows), sep="\n")
