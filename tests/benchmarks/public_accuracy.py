"""The gain over tuned logistic regression on public data: `python tests/benchmarks/public_accuracy.py debian CACHE`.

`debian` is packages described in eight languages, two of them held out with a share of the sections; `keel` is tables
that have no class in common, some of them held out. Both are fetched by this machine's apt or pip into CACHE and kept
there. Options are those of `accuracy.py`, and `--way`.
Held-out tables with fewer classes than `--way` are left out: a table's own classes are all that an episode can draw.
With tables, all classes of the held-out ones are new, so that splits differ in their episodes alone.
"""

import argparse
from pathlib import Path

import debian_packages
import keel_tables
import torch
from accuracy import add_options, protocol_of, show_progress, table

from models.evaluation import run_protocol

COLLECTIONS = {"debian": debian_packages, "keel": keel_tables}


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("collection", choices=COLLECTIONS)
    arguments.add_argument("cache", type=Path)
    arguments.add_argument("--way", type=int, default=5)
    add_options(arguments)
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    collection = COLLECTIONS[chosen.collection]
    chosen.cache.mkdir(parents=True, exist_ok=True)
    domains = collection.load(chosen.cache, (*collection.TRAINING, *collection.HELD_OUT))
    test = [name for name in collection.HELD_OUT if len(domains[name].classes) >= chosen.way]
    rows = run_protocol(protocol_of(chosen, collection.TRAINING, test, chosen.way), domains, show_progress)
    print(f"tested on {', '.join(test)}", table(rows), sep="\n")
