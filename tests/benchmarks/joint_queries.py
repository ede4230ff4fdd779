"""What answering queries together presumes: `python tests/benchmarks/joint_queries.py HOME`.

HOME is one where `metafuse demo` has run. The transductive learners and `metric`, which answers every query by itself
once its neighbours are known, are trained on the domains of `accuracy.py` and answer the same episodes of held-out
classes of the others, in three trials:

- `even`: as in every benchmark, there are as many queries of each class;
- `skewed`: shares of the classes are drawn from a Dirichlet distribution (concentration 1), a class keeping one query;
- `strangers`: as many queries again are of classes that the support does not name. They are asked, but not judged.

Printed are accuracy and, for the others, the paired difference from `metric`.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accuracy import HELD_OUT, TRAINING, points, show_progress
from departures import accuracies
from jaxtyping import Float
from torch import Tensor

from data_contracts.configs import BenchmarkConfig
from models.episodes import EpisodeBatch
from models.evaluation import draw_episodes, held_out_classes, train_learners
from models.features import DomainData
from models.fused import FusedLearner
from models.metrics import accuracy_per_episode, estimate
from models.training import fit_to_data
from tasks.features import load_domain
from tasks.lake import Lake

LEARNERS = ("metric", "transductive", "transductive_balanced")


def answer_even(learner: FusedLearner, batch: EpisodeBatch, _: torch.Generator) -> Float[Tensor, " batch"]:
    """Return the accuracy of each episode as it was drawn."""
    return accuracies(learner, [batch])


def answer_skewed(learner: FusedLearner, batch: EpisodeBatch, generator: torch.Generator) -> Float[Tensor, " batch"]:
    """Return accuracies where classes keep unlike shares of their queries."""
    return accuracies(learner, [skewed(batch, generator)])


def answer_among_strangers(
    learner: FusedLearner, batch: EpisodeBatch, generator: torch.Generator
) -> Float[Tensor, " batch"]:
    """Return accuracies on the queries of an episode where others are asked beside them."""
    with torch.no_grad():
        answers = learner.log_probabilities(with_strangers(batch, generator))
    return accuracy_per_episode(answers[:, : batch.query.shape[1]], batch.query_labels)


Trial = Callable[[FusedLearner, EpisodeBatch, torch.Generator], Float[Tensor, " batch"]]
TRIALS: dict[str, Trial] = {"even": answer_even, "skewed": answer_skewed, "strangers": answer_among_strangers}


def skewed(batch: EpisodeBatch, generator: torch.Generator) -> EpisodeBatch:
    """Return the episodes with queries of each class in unlike numbers: all of one class, at least one of each."""
    drawn = torch.empty(len(batch), batch.n_way).exponential_(generator=generator)
    share = drawn / drawn.amax(1, keepdim=True)  # of what a class has; exponentials are in proportion to a Dirichlet
    labels = batch.query_labels
    kept = torch.full_like(labels, -1)
    for way in range(batch.n_way):
        is_own = labels == way
        most = (share[:, way : way + 1] * is_own.sum(1, keepdim=True)).round().clamp(min=1)
        kept[is_own & (is_own.cumsum(1) <= most)] = way
    return replace(batch, query_labels=kept)


def with_strangers(batch: EpisodeBatch, generator: torch.Generator) -> EpisodeBatch:
    """Return the episodes with as many queries again, of labelled items whose classes are not those of the episode.

    Their label is the first way, so that they count as asked; whoever judges leaves them out.
    """
    domain, count = batch.domain, batch.query.shape[1]
    is_stranger = (domain.usable_labels >= 0) & (domain.usable_labels != batch.class_numbers.unsqueeze(-1)).all(1)
    drawn = torch.multinomial(is_stranger.float(), count, generator=generator)
    labels = torch.cat([batch.query_labels, torch.zeros_like(drawn)], dim=1)
    return replace(batch, query=torch.cat([batch.query, drawn], dim=1), query_labels=labels)


def measure(
    training: Sequence[DomainData], test: Sequence[DomainData], config: BenchmarkConfig
) -> dict[tuple[str, int], dict[str, Float[Tensor, " episode"]]]:
    """Return the accuracies of every learner by trial and shot, over the first class split."""
    seed = config.split_seeds[0]
    classes = held_out_classes(training, test, fraction=config.holdout_fraction, seed=seed)
    seen = [data.without_classes(classes) for data in training]
    learners, _ = train_learners(config.learners, seen, fit_to_data(config.training, seen), show_progress)
    found = {}
    for shot in config.shots:
        drawn = [draw_episodes(data.with_classes(classes), classes, shot, config, seed) for data in test]
        parts = [batch[start : start + 50] for batch in drawn for start in range(0, len(batch), 50)]
        for trial, answer in TRIALS.items():
            found[trial, shot] = {
                name: torch.cat(
                    [answer(learner, part, torch.Generator().manual_seed(n)) for n, part in enumerate(parts)]
                )
                for name, learner in learners.items()
            }
    return found


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("home", type=Path)
    arguments.add_argument("--episodes", type=int, default=300, help="of every shot and test domain")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    lake = Lake(str(chosen.home / "lake"))
    protocol = BenchmarkConfig(train=TRAINING, test=HELD_OUT, learners=LEARNERS, episodes=chosen.episodes)
    domains = ([load_domain(lake, name) for name in names] for names in (TRAINING, HELD_OUT))
    for (trial, shot), answers in measure(*domains, protocol).items():
        reference = answers[LEARNERS[0]]
        for name, accuracy in answers.items():
            gain = "" if name == LEARNERS[0] else points(*estimate(accuracy - reference))
            print(f"{trial:<10} {shot:>4} {name:<22} {points(*estimate(accuracy)):>14} {gain:>14}")
