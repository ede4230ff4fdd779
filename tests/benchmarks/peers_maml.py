"""Second-order MAML as learn2learn, higher and TorchOpt do it: 5-way episodes one by one, through autograd."""

from collections.abc import Callable
from types import ModuleType

import torch
from peers import Peers, optional
from stored_pool import QUERY, SHOT, WAY
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

MetaGradient = Callable[[Tensor, Tensor], None]
"""Called with the support and query items of some episodes; adds the meta-gradient to a network's parameters."""

Maker = Callable[[nn.Module, int, float], MetaGradient]
"""Called with a network, inner steps and the inner rate."""


def labels_beside(network: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the labels of support and queries, where the network is."""
    ways = torch.arange(WAY, device=next(network.parameters()).device)
    return ways.repeat_interleave(SHOT), ways.repeat_interleave(QUERY)


def available(peers: Peers) -> dict[str, Maker]:
    """Return those that can be had, by name."""
    all_of_them = {
        "learn2learn": (peers.learn2learn, learn2learn),
        "higher": (peers.higher, higher),
        "torchopt": (peers.torchopt, torchopt),
    }
    found = {name: (optional(get), make) for name, (get, make) in all_of_them.items()}
    return {name: make(library) for name, (library, make) in found.items() if library is not None}


def learn2learn(library: ModuleType) -> Maker:
    def make(network: nn.Module, steps: int, rate: float) -> MetaGradient:
        learner = library.MAML(network, lr=rate, first_order=False)
        labels, query_labels = labels_beside(network)

        def add_gradient(support: Tensor, query: Tensor) -> None:
            for own, asked in zip(support, query, strict=True):
                clone = learner.clone()
                for _ in range(steps):
                    clone.adapt(cross_entropy(clone(own), labels))
                (cross_entropy(clone(asked), query_labels) / len(support)).backward()

        return add_gradient

    return make


def higher(library: ModuleType) -> Maker:
    def make(network: nn.Module, steps: int, rate: float) -> MetaGradient:
        inner = torch.optim.SGD(network.parameters(), lr=rate)
        labels, query_labels = labels_beside(network)

        def add_gradient(support: Tensor, query: Tensor) -> None:
            for own, asked in zip(support, query, strict=True):
                with library.innerloop_ctx(network, inner, copy_initial_weights=False) as (clone, optimiser):
                    for _ in range(steps):
                        optimiser.step(cross_entropy(clone(own), labels))
                    (cross_entropy(clone(asked), query_labels) / len(support)).backward()

        return add_gradient

    return make


def torchopt(library: ModuleType) -> Maker:
    def make(network: nn.Module, steps: int, rate: float) -> MetaGradient:
        inner = library.MetaSGD(network, lr=rate)
        labels, query_labels = labels_beside(network)

        def add_gradient(support: Tensor, query: Tensor) -> None:
            start = library.extract_state_dict(network, by="reference", detach_buffers=True)
            state = library.extract_state_dict(inner, by="reference")
            for own, asked in zip(support, query, strict=True):
                for _ in range(steps):
                    inner.step(cross_entropy(network(own), labels))
                (cross_entropy(network(asked), query_labels) / len(support)).backward()
                library.recover_state_dict(network, start)
                library.recover_state_dict(inner, state)

        return add_gradient

    return make
