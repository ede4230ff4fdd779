"""A metric network trained by the triplet or the contrastive loss, beside the distances of nearest centroid.

The network is trained on labelled items of base classes, as in Hadsell et al., 2006, and Hoffer and Ailon, 2015,
https://arxiv.org/abs/1412.6622. Departures: the embedding below it is frozen, which leaves two layers (512-256-64, wide
enough for several views at once) to learn; and squared distances in its space, in units of the spread of the support
there, are averaged with those of nearest centroid by a gate, which is learned, follows the shot and starts closed.
On a new domain a linear classifier in the joint space of both is fine-tuned on the support, as `fine_tuning.py` says.

A network knows the classes that it was trained on too well. Its weights are therefore no concern of the outer loop:
they are fitted on one fold of the classes, while the gate is learned on episodes of the other.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.common_space import COMMON_DIM
from models.episodes import mean_shares
from models.grams import EpisodeGrams
from models.heads import SupportMemory
from models.metric.fine_tuning import FineTuning
from models.metric.known import where_known
from models.metric.losses import ROUNDING, contrastive_loss, euclidean, pairwise_squared, triplet_loss
from models.nearest import NearestCentroid, nearness
from models.strength import ByShot, within

TRIPLET_MARGIN = 0.3
CONTRASTIVE_MARGIN = 1.5
"""Items have about unit length, which the untrained network keeps: those of different classes are about √2 apart."""

STEPS = 100
BATCH = 128
LEARNING_RATE = 1e-3

DistanceLoss = Callable[[Float[Tensor, "item item"], Int[Tensor, " item"]], Float[Tensor, ""]]


class MetricNetwork(nn.Module):
    """Two layers from the common space to a smaller one, where lengths are free.

    It starts as a random projection that keeps lengths: hidden units come in pairs of opposite sign, and since
    `relu(a) - relu(-a) = a`, the second layer can put together what the first has cut apart.
    """

    def __init__(self, n_inputs: int = COMMON_DIM, n_hidden: int = 256, n_outputs: int = 64) -> None:
        super().__init__()
        self.hidden = nn.Linear(n_inputs, n_hidden)
        self.out = nn.Linear(n_hidden, n_outputs)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Go back to the start, which is the same for every network of this size."""
        draw = torch.Generator().manual_seed(0)
        n_pairs, n_inputs, n_outputs = self.hidden.out_features // 2, self.hidden.in_features, self.out.out_features
        first = nn.init.orthogonal_(torch.empty(n_pairs, n_inputs), (n_inputs / n_pairs) ** 0.5, draw)
        last = nn.init.orthogonal_(torch.empty(n_outputs, n_pairs), (n_pairs / n_outputs) ** 0.5, draw)
        with torch.no_grad():
            self.hidden.weight.copy_(torch.cat([first, -first]))
            self.out.weight.copy_(torch.cat([last, -last], dim=1))
            self.hidden.bias.zero_()
            self.out.bias.zero_()

    def forward(self, items: Float[Tensor, "*batch n_inputs"]) -> Float[Tensor, "*batch n_outputs"]:
        """Return the items in the learned space."""
        projected: Tensor = self.out(self.hidden(items).relu())
        return projected


NetworkFit = Callable[[MetricNetwork, Sequence[Float[Tensor, "_ common"]], Sequence[Int[Tensor, " _"]]], None]
"""Called as `fit(network, items, labels)`, with one entry of items and labels per domain."""


class LearnedMetricHead(nn.Module):
    """Score queries by their squared distance to class prototypes, in the fused space and in the network's.

    The two are one space, that of the distances' mean, in which a linear classifier is fine-tuned.
    """

    def __init__(self, fit_network: NetworkFit) -> None:
        super().__init__()
        self.fit_network = fit_network
        self.nearest = NearestCentroid()
        self.network = MetricNetwork().requires_grad_(False)
        self.gate = ByShot()
        self.fine_tuning = FineTuning()

    def forward(
        self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"], memory: SupportMemory | None = None
    ) -> Float[Tensor, "batch query way"]:
        """Return logits of the queries."""
        support, query = (self.network(items) for items in grams.items.common(weights))
        centre = mean_of_real(support, grams.is_real)  # about it, a classifier with little penalty is found soon
        support, query = support - centre, query - centre
        unit = mean_of_real(support.square().sum(-1, keepdim=True), grams.is_real).clamp(min=ROUNDING)
        gate = within(self.gate(grams.shots), 0.0, math.inf).unsqueeze(-1)

        def joined(
            learned: Float[Tensor, "batch item other"], fused: Float[Tensor, "batch item other"]
        ) -> Float[Tensor, "batch item other"]:
            mean: Tensor = (gate * learned / unit + fused) / (1 + gate)
            return mean

        def answer(items: Float[Tensor, "batch query out"], asked: EpisodeGrams) -> Float[Tensor, "batch query way"]:
            prototypes = mean_shares(asked.membership).mT @ support
            learned = where_known(pairwise_squared(items, prototypes), asked)
            return -self.nearest.scale(asked) * joined(learned, -nearness(asked, weights))

        gram, cross = grams.fused(weights)
        logits: Tensor = self.fine_tuning(
            answer(query, grams),
            partial(answer, support),
            joined(support @ support.mT, gram),
            joined(query @ support.mT, cross),
            grams,
            memory,
        )
        return logits

    def fit(self, items: Sequence[Float[Tensor, "_ common"]], labels: Sequence[Int[Tensor, " _"]]) -> None:
        """Train the network, from its start, on labelled items of one domain after another."""
        self.network.reset_parameters()
        self.fit_network(self.network, items, labels)


def mean_of_real(
    values: Float[Tensor, "batch support dim"], is_real: Float[Tensor, "batch support"]
) -> Float[Tensor, "batch 1 dim"]:
    """Return the mean over support items that are no padding."""
    return (is_real / is_real.sum(-1, keepdim=True).clamp(min=1)).unsqueeze(1) @ values


def fit_distances(
    network: MetricNetwork,
    items: Sequence[Float[Tensor, "_ common"]],
    labels: Sequence[Int[Tensor, " _"]],
    loss: DistanceLoss,
) -> None:
    """Descend the loss of distances between items; those of a step are of one domain."""

    def of_drawn(draw: torch.Generator) -> Float[Tensor, ""]:
        domain = int(torch.randint(len(items), (), generator=draw))
        rows = torch.randperm(len(items[domain]), generator=draw)[:BATCH].to(labels[domain])
        projected = network(items[domain][rows])
        return loss(euclidean(pairwise_squared(projected, projected)), labels[domain][rows])

    descend(network, of_drawn)


@torch.enable_grad()
def descend(network: MetricNetwork, loss: Callable[[torch.Generator], Float[Tensor, ""]]) -> None:
    """Take `STEPS` steps on a loss of what it draws from a generator of its own."""
    network.requires_grad_(True)
    is_on_cpu = network.hidden.weight.device.type == "cpu"  # where a fused step takes a twentieth less
    optimiser = torch.optim.Adam(network.parameters(), LEARNING_RATE, fused=is_on_cpu or None)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, STEPS)
    draw = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        optimiser.zero_grad()
        loss(draw).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    network.requires_grad_(False)


triplet_head = partial(LearnedMetricHead, partial(fit_distances, loss=partial(triplet_loss, margin=TRIPLET_MARGIN)))
contrastive_head = partial(
    LearnedMetricHead, partial(fit_distances, loss=partial(contrastive_loss, margin=CONTRASTIVE_MARGIN))
)
