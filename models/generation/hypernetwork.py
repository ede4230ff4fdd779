"""Hypernetwork: Ha et al., 2016, https://arxiv.org/abs/1609.09106.

A support set goes in and the weights of the domain's head come out, with no gradient step: a weight vector and a bias
for each class, from its support and from all classes together (amortised, as in VERSA: Gordon et al., 2019,
https://arxiv.org/abs/1805.09921, section 3), and a scale and a shift of the fusion (FiLM: Perez et al., 2018,
https://arxiv.org/abs/1709.07871, eq. 1).

Departures: what is generated is coefficients of the support items, by networks that see inner products alone, so the
head fits any views and encoders and any number of classes. It corrects nearest centroid, FiLM acts on the logarithms of
the view weights, and both have a strength that starts at zero. That of the head is bounded: heads that suited the
tables of training have, without a bound, turned the answers on another table round.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.generation.classes import (
    about_prototypes,
    impartial,
    known_classes,
    log_shots,
    mean_of_known,
    present_members,
    prototype_shares,
    rivals,
)
from models.grams import EpisodeGrams
from models.nearest import NearestCentroid
from models.separation import separability
from models.strength import ByShot, bounded

HIDDEN = 64
SHARPEST = 5.0
"""Largest score in attention."""

LARGEST_STRENGTH = 0.5
"""Of a generated head: its class's part of a weight vector, and its rivals', each count at most half of a prototype."""


class HypernetworkHead(nn.Module):
    """Score queries by nearest centroid under generated view weights, corrected by a generated linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.nearest = NearestCentroid()
        self.film = FusionFilm()
        self.generator = HeadGenerator()
        self.strength = ByShot()

    def forward(self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"]) -> Float[Tensor, "batch query way"]:
        """Return logits of the queries."""
        weights = self.reweigh(grams, weights)
        gram, cross = about_prototypes(grams, weights)
        head, bias = self.generator(gram, grams, gram[..., :0])
        correction = impartial(cross @ head + bias.unsqueeze(1), grams, weights)
        strength = self.nearest.scale(grams) * bounded(self.strength(grams.shots), LARGEST_STRENGTH).unsqueeze(-1)
        logits: Tensor = self.nearest(grams, weights) + strength * correction
        return logits

    def reweigh(self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"]) -> Float[Tensor, "batch view"]:
        """Return the generated view weights, which are those of every query."""
        generated: Tensor = self.film(grams, weights)
        return generated


class FusionFilm(nn.Module):
    """Scale and shift the logarithms of view weights by what the support says of each view and of all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(9, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 2), nn.Tanh())
        self.strength = ByShot()

    def forward(self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"]) -> Float[Tensor, "batch view"]:
        """Return view weights; they sum to 1, and a view of weight zero keeps it."""
        is_used = weights > 0
        own = torch.cat([separability(grams), weights.unsqueeze(-1)], dim=-1)
        shot = log_shots(grams.shots)[:, None, None].expand_as(own[..., :1])
        described = torch.cat([own, mean_of_known(own, is_used).expand_as(own), shot], dim=-1)
        scale, shift = (self.strength(grams.shots).unsqueeze(-1) * self.network(described)).unbind(-1)
        logits: Tensor = scale.exp() * weights.clamp(min=1e-12).log() + shift
        return logits.masked_fill(~is_used, -torch.inf).softmax(-1)


class HeadGenerator(nn.Module):
    """Generate each class's weight vector, as coefficients of the support items, and its bias.

    A weight vector is a share of the class's own support, pooled by attention, less a share of that of its rivals.
    `noise` is how many further numbers per support item the networks may use.
    """

    def __init__(self, noise: int = 0) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.Linear(6 + noise, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 2), nn.Tanh())
        self.shares = nn.Sequential(nn.Linear(8 + noise, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 3), nn.Tanh())

    def forward(
        self,
        gram: Float[Tensor, "batch support support"],
        grams: EpisodeGrams,
        noise: Float[Tensor, "batch support noise"],
    ) -> tuple[Float[Tensor, "batch support way"], Float[Tensor, "batch way"]]:
        """Return the coefficients of each class's weight vector and its bias, from `about_prototypes`."""
        members, share = present_members(grams), prototype_shares(grams)
        classes = describe_classes(gram, grams)
        context = mean_of_known(classes, known_classes(grams)).expand_as(classes)
        kept, shed, bias = self.shares(torch.cat([classes, context, share.mT @ noise], dim=-1)).unbind(-1)
        own, other = (SHARPEST * self.attention(describe_pairs(gram, grams, noise))).unbind(-1)
        others = members.sum(-1, keepdim=True) - members
        head = (1 + kept).unsqueeze(1) * pool(own, members) - (1 + shed).unsqueeze(1) * pool(other, others)
        return head, bias


def describe_classes(gram: Float[Tensor, "batch support support"], grams: EpisodeGrams) -> Float[Tensor, "batch way 4"]:
    """Return each prototype's squared length, the spread and the logarithm of its items, and its closest rival."""
    share, is_known = prototype_shares(grams), known_classes(grams)
    between = share.mT @ gram @ share
    lengths = between.diagonal(dim1=1, dim2=2)
    spreads = (share.mT @ gram.diagonal(dim1=1, dim2=2).unsqueeze(-1)).squeeze(-1) - lengths
    closest = between.masked_fill(~rivals(is_known), -1.0).amax(-1)
    counts = log_shots(present_members(grams).sum(1))
    return torch.stack([lengths, spreads, counts, closest], dim=-1)


def describe_pairs(
    gram: Float[Tensor, "batch support support"], grams: EpisodeGrams, noise: Float[Tensor, "batch support noise"]
) -> Float[Tensor, "batch support way described"]:
    """Return, for each support item and class: whether it is of the class, and how both lie to each other."""
    members, share = present_members(grams), prototype_shares(grams)
    to_class = gram @ share
    to_own = (members * to_class).sum(-1, keepdim=True)
    lengths = (share * to_class).sum(1, keepdim=True)
    counts = log_shots(members.sum(1, keepdim=True))
    parts = (members, to_class, to_own, lengths, counts, log_shots(grams.shots)[:, None, None])
    pairs = torch.stack([part.expand_as(members) for part in parts], dim=-1)
    return torch.cat([pairs, noise.unsqueeze(2).expand(*pairs.shape[:-1], -1)], dim=-1)


def pool(
    scores: Float[Tensor, "batch support way"], mask: Float[Tensor, "batch support way"]
) -> Float[Tensor, "batch support way"]:
    """Return the softmax of scores over the support items that take part; zero where none does."""
    return scores.masked_fill(mask == 0, torch.finfo(scores.dtype).min).softmax(1) * mask
