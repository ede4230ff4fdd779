"""Second-order MAML on stored embeddings: learn2learn, higher and TorchOpt against our inner loop in dual form.

A meta-step is 32 episodes of 5 inner steps and one step of Adam, on an MLP 512-256-64-5 or a linear head. All draw
episodes with our sampler. The meta-gradients of all parameters must agree in double precision before anything is timed.
"""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle
from typing import Any

import torch
from peers import Peers
from peers_maml import Maker, available
from stored_pool import DIM, WAY, Episodes
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from turns import Contender, Pace, how_many_times_faster, take_turns

from models.features import DomainData
from models.optimisation.inner_loop import Layer, StoredEpisodes, meta_gradient

META_BATCH, STEPS, RATE = 32, 5, 0.5
TOLERANCE = 1e-10
"""Of the length of a parameter's meta-gradient."""

PEAK_SIZE = 2048
GPU_META_BATCH, GPU_PEAK_SIZE = 4096, 8192
"""What keeps a GPU busy."""

DRAWN_AT_ONCE = 8
"""Meta-batches."""

SHAPES = {"mlp": (DIM, 256, 64, WAY), "linear": (DIM, WAY)}


def measure_maml(shape: str, domain: DomainData, peers: Peers, pace: Pace) -> dict[str, float | None]:
    """Return how many times faster we are than each library that can be had."""
    episodes, makers = Episodes(domain), available(peers)
    for name, make in makers.items():
        check_meta_gradients(name, make, shape, episodes)
    ours = our_meta_step(shape, episodes.items, episodes.parts(META_BATCH, DRAWN_AT_ONCE * META_BATCH))
    contenders = {"ours": ours} | {name: their_meta_step(make, shape, episodes) for name, make in makers.items()}
    times = take_turns({name: Contender(step, META_BATCH) for name, step in contenders.items()}, pace)
    return {f"maml_{shape}_vs_learn2learn": None} | {
        f"maml_{shape}_vs_{name}": how_many_times_faster(times, "ours", name) for name in makers
    }


def measure_peak(domain: DomainData, peers: Peers, pace: Pace) -> dict[str, float | None]:
    """Return the matmul peak of the device where the domain is, how near our meta-step with the MLP comes, and more.

    Episodes are drawn beforehand. The floor of its time is that of its floating-point operations at the peak. The rest
    is what a pool of half precision gains, for the MLP and for the linear head.
    """
    episodes = Episodes(domain)
    items = episodes.items
    batch, size = (META_BATCH, PEAK_SIZE) if items.device.type == "cpu" else (GPU_META_BATCH, GPU_PEAK_SIZE)
    drawn = [episodes.draw(batch) for _ in range(DRAWN_AT_ONCE)]
    ours = our_meta_step("mlp", items, cycle(drawn))
    left, right = torch.randn(2, size, size, generator=episodes.generator).to(items)
    contenders = {
        "ours": Contender(ours, batch),
        "ours, bfloat16 pool": Contender(our_meta_step("mlp", items.bfloat16(), cycle(drawn)), batch),
        "linear": Contender(our_meta_step("linear", items, cycle(drawn)), batch),
        "linear, bfloat16 pool": Contender(our_meta_step("linear", items.bfloat16(), cycle(drawn)), batch),
        "matmul": Contender(lambda: left @ right, 2 * size**3),
    }
    times = take_turns(contenders, pace)
    share = flops(ours) / batch * how_many_times_faster(times, "ours", "matmul")
    return {
        "matmul_peak_gflop_per_s": 1e-9 / statistics.median(times["matmul"]),
        "maml_mlp_episodes_per_s": 1 / statistics.median(times["ours"]),
        "flops_share_of_peak": share,
        "time_over_flop_floor": 1 / share,
        "maml_mlp_bfloat16_pool_gain": how_many_times_faster(times, "ours, bfloat16 pool", "ours"),
        "maml_linear_bfloat16_pool_gain": how_many_times_faster(times, "linear, bfloat16 pool", "linear"),
    }


def check_meta_gradients(name: str, make: Maker, shape: str, episodes: Episodes) -> None:
    """Raise unless a library's meta-gradient is ours, in double precision."""
    items = episodes.items.double()
    ours, theirs = (_network(shape, items.device).double() for _ in range(2))
    drawn = replace(episodes.draw(3), items=items)
    layers = _layers(ours)
    meta_gradient(layers, drawn, torch.full((STEPS, len(layers)), RATE).to(items))
    make(theirs, STEPS, RATE)(drawn.take(drawn.support), drawn.take(drawn.query))
    for mine, other in zip(_gradients(ours), _gradients(theirs), strict=True):
        error = float((mine - other).norm() / other.norm())
        if not error < TOLERANCE:
            raise AssertionError(f"the meta-gradient of {name} differs from ours by {error:.1e} of its length")


def our_meta_step(shape: str, items: Tensor, drawn: Iterator[StoredEpisodes]) -> Callable[[], None]:
    """Return a meta-step on the next episodes, with `items` in the place of theirs."""
    network = _network(shape, items.device)
    layers = _layers(network)
    rates = torch.full((STEPS, len(layers)), RATE, device=items.device)
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)

    def step() -> None:
        episodes = replace(next(drawn), items=items)
        optimiser.zero_grad()
        meta_gradient(layers, episodes, rates, chunk=len(episodes.support))
        optimiser.step()

    return step


def their_meta_step(make: Maker, shape: str, episodes: Episodes) -> Callable[[], None]:
    """Return a meta-step with a library's meta-gradient."""
    network = _network(shape, episodes.items.device)
    add_gradient = make(network, STEPS, RATE)
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)

    def step() -> None:
        drawn = episodes.draw(META_BATCH)
        optimiser.zero_grad()
        add_gradient(drawn.take(drawn.support), drawn.take(drawn.query))
        optimiser.step()

    return step


def flops(work: Callable[[], Any]) -> int:
    """Return the floating-point operations of all matrix products of a call."""

    def of_product_in_place(total: torch.Size, left: torch.Size, right: torch.Size, **_: Any) -> int:
        return 2 * left.numel() * right[-1]

    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.baddbmm_: of_product_in_place}) as counter:
        work()
    return counter.get_total_flops()


def _network(shape: str, device: torch.device) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in zip(SHAPES[shape], SHAPES[shape][1:], strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).to(device)


def _layers(network: nn.Sequential) -> list[Layer]:
    return [Layer(layer.weight, layer.bias) for layer in network if isinstance(layer, nn.Linear)]


def _gradients(network: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
