"""Drawing episodes and training a metric network on them, against easyfsl's loader, classifier and loop.

easyfsl draws, gathers and trains one episode at a time. We draw for many steps at once, as row numbers, and gather the
items of a step together. The network is 512-256-64 on both sides; Adam is torch's default there, as in easyfsl's
notebook, and the fused one here. Items are stored as the product stores them for this, in bfloat16 on a processor that
multiplies it, and, as `…_float32`, in single precision as theirs are. easyfsl's logits are minus the distance to a
prototype and ours, as in the paper, minus its square: so the squares of its logits must give our loss before anything
is timed.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from peers import Peers, optional
from stored_pool import QUERY, SHOT, VIEW, WAY, Episodes, items_of
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from turns import Contender, Pace, how_many_times_faster, take_turns

from models.episodes import mean_shares, one_hot
from models.features import DomainData
from models.metric.network import MetricNetwork
from models.metric.prototypical_episodes import prototypical_loss, storage_type
from models.optimisation.inner_loop import StoredEpisodes

DRAWN_AT_ONCE = 32
DRAWN_TO_TRAIN = 128
ENDLESS = 10**9


def measure_sampler(domain: DomainData, peers: Peers, pace: Pace) -> dict[str, float | None]:
    """Return how many times faster episodes are drawn and their items gathered than by easyfsl's loader."""
    if (easyfsl := optional(peers.easyfsl)) is None:
        return {"sampler_vs_easyfsl": None}
    loaded = their_episodes(easyfsl, domain)
    episodes = Episodes(domain)
    contenders = {
        "ours": Contender(lambda: items_of(episodes.draw(DRAWN_AT_ONCE)), DRAWN_AT_ONCE),
        "easyfsl": Contender(lambda: next(loaded), 1),
    }
    return {"sampler_vs_easyfsl": how_many_times_faster(take_turns(contenders, pace), "ours", "easyfsl")}


def measure_training(domain: DomainData, peers: Peers, pace: Pace) -> dict[str, float | None]:
    """Return how many times faster we train on 32 episodes a step and on one, per episode.

    That is against easyfsl's loop as it is, and, as `…_fused`, against the same with our choice of Adam. The error is
    how far storing items moves the gradient, as a part of its length.
    """
    if (easyfsl := optional(peers.easyfsl)) is None:
        return {"proto32_vs_easyfsl": None, "proto1_vs_easyfsl": None}
    check_losses(easyfsl, domain)
    items = domain.features[VIEW.name]
    stored = items.to(storage_type(items))
    contenders = {
        "proto32": Contender(our_steps(domain, 32, stored), 32),
        "proto1": Contender(our_steps(domain, 1, stored), 1),
        "proto32_float32": Contender(our_steps(domain, 32, items), 32),
        "proto1_float32": Contender(our_steps(domain, 1, items), 1),
        "easyfsl": Contender(their_steps(easyfsl, domain), 1),
        "easyfsl_fused": Contender(their_steps(easyfsl, domain, fused=True), 1),
    }
    times = take_turns(contenders, pace)
    return {"proto_gradient_error": gradient_error(domain, stored)} | {
        f"{ours}_vs_{theirs}": how_many_times_faster(times, ours, theirs)
        for theirs in ("easyfsl", "easyfsl_fused")
        for ours in ("proto32", "proto1", "proto32_float32", "proto1_float32")
    }


def gradient_error(domain: DomainData, stored: Tensor) -> float:
    """Return how far the gradient by the network's weights is from that of the same items in single precision."""
    network, episodes = MetricNetwork(), Episodes(domain).draw(32)
    weights = (network.hidden.weight, network.hidden.bias, network.out.weight)
    losses = (
        prototypical_loss(network, items_of(replace(episodes, items=items)), shares(episodes), targets(episodes))
        for items in (episodes.items, stored)
    )
    single, half = (torch.cat([part.flatten() for part in torch.autograd.grad(loss, weights)]) for loss in losses)
    return float((half - single).norm() / single.norm())


def check_losses(easyfsl: SimpleNamespace, domain: DomainData) -> None:
    """Raise unless our loss of some episodes is what easyfsl's distances give, with the same network."""
    network = MetricNetwork()
    classifier = easyfsl.PrototypicalNetworks(network)
    episodes = Episodes(domain).draw(8)
    losses = []
    for part in (episodes[number : number + 1] for number in range(8)):
        classifier.process_support_set(part.take(part.support)[0], part.support_labels[0])
        distances = classifier(part.take(part.query)[0])
        losses.append(cross_entropy(-distances.square(), part.query_labels[0]))
    ours = prototypical_loss(network, items_of(episodes), shares(episodes), targets(episodes))
    torch.testing.assert_close(ours, torch.stack(losses).mean())


def our_steps(domain: DomainData, batch: int, items: Tensor) -> Callable[[], None]:
    """Return a step on `batch` episodes, whose items are taken from `items`."""
    network = MetricNetwork()
    optimiser = torch.optim.Adam(network.parameters(), 1e-3, fused=True)
    drawn = our_episodes(Episodes(domain), batch, items)

    def step() -> None:
        optimiser.zero_grad()
        prototypical_loss(network, *next(drawn)).backward()
        optimiser.step()

    return step


def our_episodes(episodes: Episodes, batch: int, items: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Draw many episodes at once; return what the loss takes of `batch` of them after another, without end."""
    while True:
        drawn = replace(episodes.draw(DRAWN_TO_TRAIN), items=items)
        rows = torch.cat([drawn.support, drawn.query], dim=1)
        parts = (part.split(batch) for part in (rows, shares(drawn), targets(drawn)))
        yield from ((drawn.take(wanted), *rest) for wanted, *rest in zip(*parts, strict=True))


def shares(episodes: StoredEpisodes) -> Tensor:
    """Return the share of each support item in the mean of its class."""
    return mean_shares(one_hot(episodes.support_labels, WAY))


def targets(episodes: StoredEpisodes) -> Tensor:
    """Return the labels of the queries, one-hot."""
    return one_hot(episodes.query_labels, WAY)


def their_steps(easyfsl: SimpleNamespace, domain: DomainData, *, fused: bool = False) -> Callable[[], None]:
    """Return a step on one episode, as in easyfsl's notebook on episodic training, or with the fused Adam there too."""
    classifier = easyfsl.PrototypicalNetworks(MetricNetwork())
    optimiser = torch.optim.Adam(classifier.parameters(), 1e-3, fused=fused)
    loaded = their_episodes(easyfsl, domain)

    def step() -> None:
        support, support_labels, query, query_labels, _ = next(loaded)
        optimiser.zero_grad()
        classifier.process_support_set(support, support_labels)
        cross_entropy(classifier(query), query_labels).backward()
        optimiser.step()

    return step


def their_episodes(easyfsl: SimpleNamespace, domain: DomainData) -> Iterator[Any]:
    """Draw and load episodes with easyfsl's data set, sampler and collation."""
    stored = easyfsl.FeaturesDataset(domain.labels.tolist(), domain.features[VIEW.name], list(domain.classes))
    sampler = easyfsl.TaskSampler(stored, WAY, SHOT, QUERY, ENDLESS)
    return iter(DataLoader(stored, batch_sampler=sampler, collate_fn=sampler.episodic_collate_fn))
