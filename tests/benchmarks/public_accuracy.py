"""The gain over tuned logistic regression on public data: `python tests/benchmarks/public_accuracy.py debian CACHE`.

`debian` is packages described in eight languages, two of them held out with a share of the sections, which is drawn for
every split; `keel` is ten tables that have no class in common, of which every split draws four to test on. Both are
fetched by this machine's apt or pip into CACHE and kept there. Options are those of `accuracy.py`.
"""

import argparse
from pathlib import Path

import debian_packages
import keel_tables
import torch
from accuracy import add_options, protocol_of, show_progress, table

from data_contracts.reports import BenchmarkRow
from models.evaluation import run_protocol

COLLECTIONS = {"debian": debian_packages, "keel": keel_tables}


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("collection", choices=COLLECTIONS)
    arguments.add_argument("cache", type=Path)
    add_options(arguments)
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    collection = COLLECTIONS[chosen.collection]
    chosen.cache.mkdir(parents=True, exist_ok=True)
    rows: list[BenchmarkRow] = []
    for seed in range(chosen.splits):
        train, test = collection.split(seed)
        domains = collection.load(chosen.cache, (*train, *test))
        config = protocol_of(chosen, train, test).model_copy(update={"split_seeds": (seed,)})
        rows += run_protocol(config, domains, show_progress)
    print(table(rows))
