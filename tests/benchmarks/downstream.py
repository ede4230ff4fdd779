"""Groups and anomalies in the learned space and in the raw features: `python tests/benchmarks/downstream.py HOME`.

HOME is one where `metafuse demo` has run. A learner is trained without the test domain and without some classes. Half
of these are known in the domain, by a few labels each that the learner is adapted from; nobody has said anything of the
other half. Groups are those of all items of both halves, and compared with their classes. Anomalies are the items of
the unknown half; a random half of the known items is the reference, the other half is what may raise a false alarm.

Raw features are those of the baselines: unit norm per view, side by side, a missing view filled with the domain's mean.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accuracy import HELD_OUT, TRAINING
from sklearn.cluster import KMeans
from sklearn.ensemble import IsolationForest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, roc_auc_score
from sklearn.neighbors import LocalOutlierFactor
from torch import Tensor
from torch.nn.functional import normalize

from data_contracts.configs import TrainConfig
from models.downstream import cluster, find_anomalies
from models.evaluation import held_out_classes, train_learners
from models.features import DomainData
from models.learner import Prior
from models.training import fit_to_data, large_classes
from tasks.features import load_domain
from tasks.lake import Lake

STATED = 0.05
"""Rate of false alarms that is asked for."""

SHOT = 5
HALVES = 10
"""Random halves of the known items."""

DEFAULT = TrainConfig()


@dataclass(frozen=True)
class Problem:
    """Items of classes that training has not seen, in both spaces."""

    raw: Tensor
    learned: Tensor
    labels: Tensor
    is_known: Tensor


@dataclass(frozen=True)
class Row:
    """One method in one space: what it does, and how well, by measure."""

    what: str
    method: str
    space: str
    found: dict[str, float]


def measure(
    domains: Mapping[str, DomainData],
    training: Sequence[str],
    tested: Sequence[str],
    *,
    kind: str = "metric",
    split_seeds: Sequence[int] = (0,),
    config: TrainConfig = DEFAULT,
) -> list[Row]:
    """Return the means over class splits and test domains."""
    rows: list[list[Row]] = []
    for seed in split_seeds:
        known_domains, test = [domains[name] for name in training], [domains[name] for name in tested]
        classes = held_out_classes(known_domains, test, fraction=0.35, seed=seed)
        prior = trained(kind, known_domains, classes, config)
        for domain in test:
            print(f"split {seed}, {domain.domain}", file=sys.stderr)
            problem = prepare(prior, domain, classes, seed)
            halves = [list(anomalies(problem, half)) for half in range(HALVES)]
            rows.append([*groups(problem, seed), *(averaged(same) for same in zip(*halves, strict=True))])
    return [averaged(same) for same in zip(*rows, strict=True)]


def trained(kind: str, domains: Sequence[DomainData], exclude: Sequence[str], config: TrainConfig) -> Prior:
    seen = [data.without_classes(exclude) for data in domains]
    learners, _ = train_learners([kind], seen, fit_to_data(config, seen))
    return learners[kind]


def prepare(prior: Prior, domain: DomainData, classes: Sequence[str], seed: int) -> Problem:
    """Adapt to the domain from a few labels of every second class, drawn at random."""
    large = [name for name in large_classes(domain, SHOT + 1) if name in set(classes)]
    order = np.random.default_rng(seed).permutation(len(large))
    known = tuple(large[number] for number in order[: len(large) // 2])
    labelled, everything = domain.with_classes(known), domain.with_classes(tuple(large))
    support = torch.cat([(labelled.usable_labels == number).nonzero().flatten()[:SHOT] for number in range(len(known))])
    rows = (everything.usable_labels >= 0).nonzero().flatten()
    learned = prior.adapt(labelled, support).embed(domain.take(rows))
    return Problem(raw_features(domain)[rows], learned, everything.labels[rows], labelled.labels[rows] >= 0)


def raw_features(domain: DomainData) -> Tensor:
    views = [
        torch.where(
            domain.presence[:, number, None],
            normalize(domain.features[view.name], dim=-1),
            domain.means[view.name],
        )
        for number, view in enumerate(domain.views)
    ]
    return torch.cat(views, dim=-1)


def groups(problem: Problem, seed: int) -> Iterator[Row]:
    count = len(problem.labels.unique())
    plain = KMeans(count, n_init=4, random_state=seed).fit(problem.raw.numpy())
    yield agreement("k-means, true count, sklearn", "raw", plain.labels_, problem, {})
    for space, items in spaces(problem):
        for method, chosen in (("k_means, true count", {"count": count}), ("k_means", {}), ("hdbscan", {})):
            found = cluster(items, method=method.partition(",")[0], seed=seed, **chosen)
            yield agreement(method, space, found.numbers.numpy(), problem, {"stability": found.stability})


def agreement(method: str, space: str, numbers: np.ndarray, problem: Problem, more: dict[str, float]) -> Row:
    """Compare with the classes; items in no group count as one group."""
    truth = problem.labels.numpy()
    found = {
        "ARI": adjusted_rand_score(truth, numbers),
        "NMI": normalized_mutual_info_score(truth, numbers),
        "groups": len(set(numbers.tolist()) - {-1}),
        "classes": len(set(truth.tolist())),
        "in none": float((numbers < 0).mean()),
    }
    return Row("groups", method, space, found | more)


def anomalies(problem: Problem, seed: int) -> Iterator[Row]:
    known = problem.is_known.nonzero().flatten()
    shuffled = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))]
    reference, usual = shuffled[: len(known) // 2], shuffled[len(known) // 2 :]
    rows = torch.cat([usual, (~problem.is_known).nonzero().flatten()])
    is_strange = (~problem.is_known[rows]).numpy()
    for space, items in spaces(problem):
        found = find_anomalies(items[rows], items[reference], false_alarm_rate=STATED)
        yield detection("nearest neighbours", space, found.scores.numpy(), found.flags.numpy(), is_strange)
    for space, items in spaces(problem):
        for method, model in (
            ("LocalOutlierFactor, sklearn", LocalOutlierFactor(novelty=True, contamination=STATED)),
            ("IsolationForest, sklearn", IsolationForest(contamination=STATED, random_state=seed)),
        ):
            model.fit(items[reference].numpy())
            scores, flags = -model.score_samples(items[rows].numpy()), model.predict(items[rows].numpy()) < 0
            yield detection(method, space, scores, flags, is_strange)


def detection(method: str, space: str, scores: np.ndarray, flags: np.ndarray, is_strange: np.ndarray) -> Row:
    found = {
        "AUROC": roc_auc_score(is_strange, scores),
        "false alarms": float(flags[~is_strange].mean()),
        "found": float(flags[is_strange].mean()),
    }
    return Row("anomalies", method, space, found)


def spaces(problem: Problem) -> tuple[tuple[str, Tensor], ...]:
    return ("raw", problem.raw), ("learned", problem.learned)


def averaged(same: Sequence[Row]) -> Row:
    first = same[0]
    means = {name: float(np.mean([row.found[name] for row in same])) for name in first.found}
    return Row(first.what, first.method, first.space, means)


def value(rows: Sequence[Row], method: str, space: str, measure: str) -> float:
    """Look up one figure."""
    (row,) = (row for row in rows if (row.method, row.space) == (method, space))
    return row.found[measure]


def table(rows: Sequence[Row]) -> str:
    return "\n".join(
        f"{row.what:<10} {row.method:<28} {row.space:<8} "
        + "  ".join(f"{name} {figure:.3f}" for name, figure in row.found.items())
        for row in rows
    )


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("home", type=Path)
    arguments.add_argument("--learner", default="metric")
    arguments.add_argument("--split-seeds", type=int, nargs="+", default=[0, 1, 2])
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    lake = Lake(str(chosen.home / "lake"))
    loaded = {name: load_domain(lake, name) for name in (*TRAINING, *HELD_OUT)}
    print(table(measure(loaded, TRAINING, HELD_OUT, kind=chosen.learner, split_seeds=chosen.split_seeds)))
