"""Extra support made from classes met before: distribution calibration, and a generator that has to beat it.

Calibration (Yang et al., 2021, https://arxiv.org/abs/2101.06395, eq. 5-6) takes a class to be a normal distribution
whose mean lies between its support and the means of the base classes nearest to it, and whose spread is theirs. The
generator makes items from noise, a prototype and the base classes near it, and is trained through the answers they lead
to (Wang et al., 2018, https://arxiv.org/abs/1801.05401, section 4): how far an item goes towards the base classes is
decided for each class and item by a network, and it is deformed as items of the base classes are (Schwartz et al.,
2018, https://arxiv.org/abs/1806.04734).

Departures from the papers: nearness to base classes is soft; calibration starts from the class's prototype, and since
nothing but prototypes is made of its draws, their mean is taken; the network sees distances alone, never coordinates.
The noise comes with its opposite, so that deformations leave the prototypes where they are; as nothing but the sum of
items is used, what the generator decides is how far prototypes go.

Prototypes with synthetic items in them correct nearest centroid by two strengths that start at zero: that of
calibration, and that of what the generator changes about calibration. The first is learned as if there were no
generator, so that what remains without the second is calibration as it would be by itself. The second is never
negative, and in the end it is set to zero unless the generator beats calibration on classes that no weight was trained
on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.common_space import COMMON_DIM
from models.generation.classes import (
    impartial,
    known_classes,
    log_shots,
    mean_of_known,
    present_members,
    prototype_shares,
)
from models.grams import EpisodeGrams
from models.nearest import NearestCentroid
from models.strength import ByShot
from models.temperature import decision_loss

BASE_CLASSES = 256
BASE_COUNT = 2.0
"""As how many items the near base classes count in calibration (k in the paper)."""
TEMPERATURE = 0.1
"""Of squared distances to base classes."""
SYNTHETIC = 8
HIDDEN = 64


class FeatureGeneratorHead(nn.Module):
    """Correct nearest centroid by prototypes that synthetic items of the class take part in."""

    noise: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.nearest = NearestCentroid()
        self.base = BaseClasses()
        self.generator = Generator()
        self.calibration = ByShot()
        self.generation = ByShot()
        drawn = torch.randn(SYNTHETIC // 2, COMMON_DIM, generator=torch.Generator().manual_seed(0))
        self.register_buffer("noise", torch.cat([drawn, -drawn]))

    def fit(self, items: Sequence[Float[Tensor, "_ common"]], labels: Sequence[Int[Tensor, " _"]]) -> None:
        """Take the statistics of base classes, all domains together."""
        self.base.fit(torch.cat(list(items)), torch.cat(list(labels)))

    def forward(self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"]) -> Float[Tensor, "batch query way"]:
        """Return logits of the queries."""
        calibrated, generated = self.corrections(grams, weights)
        calibration = self.calibration(grams.shots).unsqueeze(-1)
        advantage = self.advantage(grams.shots).unsqueeze(-1)
        correction = calibration * calibrated + advantage * (generated - calibrated)
        logits: Tensor = self.nearest(grams, weights) + self.nearest.scale(grams) * correction
        return logits

    def plain(self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"]) -> Float[Tensor, "batch query way"]:
        """Return the logits of calibration alone."""
        calibrated, _ = self.corrections(grams, weights)
        correction = self.calibration(grams.shots).unsqueeze(-1) * calibrated
        logits: Tensor = self.nearest(grams, weights) + self.nearest.scale(grams) * correction
        return logits

    def drop(self) -> None:
        """Leave calibration alone."""
        with torch.no_grad():
            for parameter in self.generation.parameters():
                parameter.zero_()

    def advantage(self, shots: Float[Tensor, " batch"]) -> Float[Tensor, "batch 1"]:
        """Return the strength of what the generator changes about calibration: 0 where it does not beat it.

        Gradients pass as if it could be negative, so that a generator that gets better is used again.
        """
        strength: Tensor = self.generation(shots)
        return strength + (strength.clamp(min=0) - strength).detach()

    def contenders(
        self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"]
    ) -> Mapping[str, Float[Tensor, "batch query way"]]:
        """Return the logits of nearest centroid, and of calibrated and of generated prototypes in its place."""
        nearest, scale = self.nearest(grams, weights), self.nearest.scale(grams)
        calibrated, generated = self.corrections(grams, weights)
        return {
            "nearest": nearest,
            "calibrated": nearest + scale * calibrated,
            "generated": nearest + scale * generated,
        }

    def corrections(
        self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"]
    ) -> tuple[Float[Tensor, "batch query way"], Float[Tensor, "batch query way"]]:
        """Return what calibrated and generated prototypes change about nearness; nothing without base classes."""
        support, query = grams.items.common(weights)
        own = prototype_shares(grams).mT @ support
        near, _ = self.base.near(own)
        calibrated = (own + BASE_COUNT * near) / (1 + BASE_COUNT)
        count = present_members(grams).sum(1).unsqueeze(-1)
        generated = (count * own + self.synthesise(support, grams).sum(0)) / (count + SYNTHETIC)
        before = closeness(query, own)
        by_calibration = impartial(closeness(query, calibrated) - before, grams, weights)
        by_generation = impartial(closeness(query, generated) - before, grams, weights)
        is_fitted = (self.base.counts > 0).any()
        return is_fitted * by_calibration, is_fitted * by_generation

    def synthesise(
        self, support: Float[Tensor, "batch support common"], grams: EpisodeGrams
    ) -> Float[Tensor, "synthetic batch way common"]:
        """Return synthetic items of every class from its support in the common space."""
        own = prototype_shares(grams).mT @ support
        near, spread = self.base.near(own)
        described = describe(own, near, spread, grams)
        step = torch.stack([self.generator(described, one[0]) for one in self.noise])
        return own + step * (near - own) + self.noise[:, None, None] * spread

    def contest(
        self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"], labels: Int[Tensor, "batch query"]
    ) -> Float[Tensor, ""]:
        """Return the cross-entropy with generated prototypes in full strength plus that with them as they are used.

        It teaches the generator and the strength of what it changes, and nothing else.
        """
        with torch.no_grad():
            nearest, scale = self.nearest(grams, weights), self.nearest.scale(grams)
            calibration = self.calibration(grams.shots).unsqueeze(-1)
        views = tuple(items.detach() for items in grams.items.views)
        detached = replace(grams, items=replace(grams.items, views=views))
        calibrated, generated = self.corrections(detached, weights.detach())
        advantage = self.advantage(grams.shots).unsqueeze(-1)
        used = nearest + scale * (calibration * calibrated + advantage * (generated - calibrated))
        full = cross_entropy((nearest + scale * generated).flatten(0, 1), labels.flatten(), ignore_index=-1)
        return full + decision_loss(used, labels)


def generator_loss(
    head: nn.Module, grams: EpisodeGrams, weights: Float[Tensor, "batch view"], labels: Int[Tensor, "batch query"]
) -> Float[Tensor, ""]:
    """Return the cross-entropy of the queries by calibration alone, plus that of the contest with it."""
    assert isinstance(head, FeatureGeneratorHead)
    return decision_loss(head.plain(grams, weights), labels) + head.contest(grams, weights, labels)


class BaseClasses(nn.Module):
    """Means and standard deviations of classes met in training, the largest `BASE_CLASSES` of them."""

    means: Tensor
    spreads: Tensor
    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(BASE_CLASSES, COMMON_DIM))
        self.register_buffer("spreads", torch.zeros(BASE_CLASSES, COMMON_DIM))
        self.register_buffer("counts", torch.zeros(BASE_CLASSES))

    def fit(self, items: Float[Tensor, "item common"], labels: Int[Tensor, " item"]) -> None:
        """Replace the statistics by those of the given items."""
        counts = torch.bincount(labels).to(items)
        divisor = counts.clamp(min=1).unsqueeze(-1)
        nothing = items.new_zeros(len(counts), COMMON_DIM)
        means = nothing.index_add(0, labels, items) / divisor
        spreads = (nothing.index_add(0, labels, (items - means[labels]).square()) / divisor).sqrt()
        largest = counts.argsort(descending=True, stable=True)[:BASE_CLASSES]
        for kept, found in ((self.means, means), (self.spreads, spreads), (self.counts, counts)):
            kept.zero_()
            kept[: len(largest)] = found[largest]

    def near(
        self, prototypes: Float[Tensor, "batch way common"]
    ) -> tuple[Float[Tensor, "batch way common"], Float[Tensor, "batch way common"]]:
        """Return mean and standard deviation of the base classes near each prototype; zero if there are none."""
        distances = self.means.square().sum(-1) - 2 * prototypes @ self.means.T
        shares = (-distances / TEMPERATURE).masked_fill(self.counts == 0, torch.finfo(distances.dtype).min).softmax(-1)
        return shares @ self.means, shares @ self.spreads


class Generator(nn.Module):
    """Decide how far a synthetic item goes from the prototype of its class towards the base classes near it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(11, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 1), nn.Sigmoid())

    def forward(
        self, described: Float[Tensor, "batch way 10"], noise: Float[Tensor, ""]
    ) -> Float[Tensor, "batch way 1"]:
        """Return the share of the way, between 0 and 1."""
        share: Tensor = self.network(torch.cat([described, noise.expand_as(described[..., :1])], dim=-1))
        return share


def describe(
    own: Float[Tensor, "batch way common"],
    near: Float[Tensor, "batch way common"],
    spread: Float[Tensor, "batch way common"],
    grams: EpisodeGrams,
) -> Float[Tensor, "batch way 10"]:
    """Return how far each prototype lies from base classes and origin, and how that is on average in the episode."""
    counts = log_shots(present_members(grams).sum(1))
    squares = [part.square().sum(-1) for part in (near - own, own, near, spread)]
    described = torch.stack([*squares, counts], dim=-1)
    context = mean_of_known(described, known_classes(grams)).expand_as(described)
    return torch.cat([described, context], dim=-1)


def closeness(
    query: Float[Tensor, "batch query common"], prototypes: Float[Tensor, "batch way common"]
) -> Float[Tensor, "batch query way"]:
    """Return minus squared distances, up to what is the same for all classes."""
    return 2 * query @ prototypes.mT - prototypes.square().sum(-1).unsqueeze(1)
