"""In-context classification: CAML, Fifty et al., 2024, https://arxiv.org/abs/2310.10971.

A transformer without causal mask reads support and queries as one sequence. A support item carries the label vector of
its class, a query that of "unknown", and label vectors are equiangular (an ELMES, section 4.1), so no class is special.
Nothing is fitted to a new domain: adapting is one forward pass.

Departures from the paper, the first three of which measurement asked for on classes and domains never met:

- Content and label of a token are kept apart. Labels are points of the simplex, `e_k - 1/n` for class k of n and 0 for
  the unknown, and layers see only their inner products and average them: relabelling permutes the answers exactly, and
  there is no largest number of ways.
- Content moves only to averages of the support, and attention is a learned function of inner products, where a
  transformer projects coordinates: those of an encoder that training has not met mean nothing to it.
- What a query reads corrects nearest centroid, with a strength that starts at zero.
- Queries attend to the support alone, so that the answer to one does not depend on the others.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.generation.classes import (
    about_prototypes,
    impartial,
    known_classes,
    log_shots,
    mean_of_known,
    present_members,
)
from models.grams import EpisodeGrams
from models.nearest import NearestCentroid
from models.strength import ByShot

LAYERS = 2
HEADS = 4
HIDDEN = 32
SHARPEST = 3.0
"""Largest score that the network of a layer gives."""


class InContextHead(nn.Module):
    """Correct nearest centroid by the label that each query reads from the support."""

    def __init__(self) -> None:
        super().__init__()
        self.nearest = NearestCentroid()
        self.layers = nn.ModuleList(Attention() for _ in range(LAYERS))
        self.strength = ByShot()

    def forward(self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"]) -> Float[Tensor, "batch query way"]:
        """Return logits of the queries."""
        correction = impartial(self.read(grams, weights), grams, weights)
        strength = self.nearest.scale(grams) * self.strength(grams.shots).unsqueeze(-1)
        logits: Tensor = self.nearest(grams, weights) + strength * correction
        return logits

    def read(self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"]) -> Float[Tensor, "batch query way"]:
        """Return the labels that the queries end with.

        Content is known by its inner products with the support items (`cross`) and, for the support itself, as shares
        of its items (`shares`).
        """
        gram, cross = about_prototypes(grams, weights)
        is_there, shots = known_items(grams), grams.shots
        labels = label_vectors(grams)
        read = labels.new_zeros(*cross.shape[:2], labels.shape[-1])
        shares = torch.eye(gram.shape[-1]).expand_as(gram)
        for layer in self.layers:
            content = shares @ gram
            by_query = layer(cross @ shares.mT, read @ labels.mT, is_there, shots)
            by_support = layer(content @ shares.mT, labels @ labels.mT, is_there, shots)
            cross, shares = (cross + by_query @ content) / 2, (shares + by_support @ shares) / 2
            read, labels = read + by_query @ labels, (labels + by_support @ labels) / 2
        return read


class Attention(nn.Module):
    """Attention of any items to the support, from inner products of contents and of labels; heads are averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(5, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HEADS), nn.Tanh())
        self.log_sharpness = nn.Parameter(torch.linspace(1.0, 3.0, HEADS))

    def forward(
        self,
        similarity: Float[Tensor, "batch item support"],
        agreement: Float[Tensor, "batch item support"],
        is_there: Bool[Tensor, "batch support"],
        shots: Float[Tensor, " batch"],
    ) -> Float[Tensor, "batch item support"]:
        """Return attention, which sums to 1 over the support items that are there."""
        is_hidden = ~is_there.unsqueeze(1)
        nearest = similarity.masked_fill(is_hidden, -1.0).amax(-1, keepdim=True)
        mean = mean_of_known(similarity.mT, is_there).mT
        parts = (similarity, agreement, nearest, mean, log_shots(shots)[:, None, None])
        described = torch.stack([part.expand_as(similarity) for part in parts], dim=-1)
        sharpness = self.log_sharpness.clamp(max=4.0).exp()
        scores = sharpness * similarity.unsqueeze(-1) + SHARPEST * self.network(described)
        scores = scores.masked_fill(is_hidden.unsqueeze(-1), torch.finfo(scores.dtype).min)
        attention: Tensor = scores.softmax(-2).mean(-1)
        return attention


def label_vectors(grams: EpisodeGrams) -> Float[Tensor, "batch support way"]:
    """Return each support item's label on the simplex of the classes that have support; zero for absent items."""
    members, is_known = present_members(grams), known_classes(grams).unsqueeze(1)
    return members - members.sum(-1, keepdim=True) * is_known / is_known.sum(-1, keepdim=True).clamp(min=1)


def known_items(grams: EpisodeGrams) -> Bool[Tensor, "batch support"]:
    """Say which support items are no padding and have a view."""
    return present_members(grams).any(-1)
