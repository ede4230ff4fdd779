"""In-context classification: CAML, Fifty et al., 2024, https://arxiv.org/abs/2310.10971.

In the paper a transformer without causal mask reads support and a query as one sequence. A support item carries the
label vector of its class, a query that of "unknown", and label vectors are equiangular (an ELMES, section 4.1), so no
class is special. Nothing is fitted to a new domain: adapting is one forward pass.

Departures from the paper:

- Content and label of a token are kept apart. Labels are points of the simplex, `e_k - 1/n` for class k of n and 0 for
  the unknown, and layers see only their inner products and average them: relabelling permutes the answers exactly, and
  there is no largest number of ways.
- Content moves only to averages of the support, and attention is a learned function of inner products. With learned
  projections of coordinates, as in a transformer, this head lost 7 to 10 points on domains and classes never met.
- What a query reads corrects nearest centroid, with a strength that starts at zero.
- Queries attend to the support, and it to itself alone, so that the answer to one does not depend on the others, and
  the support is read once for all of them. There is nothing in a layer but attention.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
from models.grams import EpisodeGrams, query_blocks
from models.nearest import NearestCentroid
from models.strength import ByShot, within

LAYERS = 2
HEADS = 4
HIDDEN = 32
MOST_LOG_SHARPNESS = 4.0
SHARPEST = 3.0
"""Largest score that the network of a layer gives."""
PAIRS_AT_ONCE = 2**20
"""Queries of large domains are answered in blocks of this many pairs of query and support item."""


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
        """Return the labels that the queries end with."""
        gram, cross = about_prototypes(grams, weights)
        contexts = list(self.contexts(gram, grams))
        blocks = query_blocks(cross, grams.is_real.numel(), PAIRS_AT_ONCE)
        return torch.cat([self.ask(block, contexts) for block in blocks], dim=1)

    def contexts(self, gram: Float[Tensor, "batch support support"], grams: EpisodeGrams) -> Iterator["Context"]:
        """Return what the support offers to each layer."""
        shares, labels = torch.eye(gram.shape[-1], device=gram.device).expand_as(gram), label_vectors(grams)
        for layer in self.layers:
            context = Context(shares, shares @ gram, labels, present_members(grams).any(-1), grams.shots)
            yield context
            attention = layer(context.content @ shares.mT, labels @ labels.mT, context)
            shares, labels = (shares + attention @ shares) / 2, (labels + attention @ labels) / 2

    def ask(
        self, content: Float[Tensor, "batch query support"], contexts: Sequence["Context"]
    ) -> Float[Tensor, "batch query way"]:
        """Return the labels that queries end with, from their inner products with the support items."""
        read = content.new_zeros(*content.shape[:2], contexts[0].labels.shape[-1])
        for layer, context in zip(self.layers, contexts, strict=True):
            attention = layer(content @ context.shares.mT, read @ context.labels.mT, context)
            content, read = (content + attention @ context.content) / 2, read + attention @ context.labels
        return read


@dataclass(frozen=True)
class Context:
    """The support as a layer finds it: content as shares of the items, and by inner products with them; labels."""

    shares: Float[Tensor, "batch support support"]
    content: Float[Tensor, "batch support support"]
    labels: Float[Tensor, "batch support way"]
    is_there: Bool[Tensor, "batch support"]
    shots: Float[Tensor, " batch"]


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
        context: Context,
    ) -> Float[Tensor, "batch item support"]:
        """Return attention, which sums to 1 over the support items that are there."""
        is_hidden = ~context.is_there.unsqueeze(1)
        nearest = similarity.masked_fill(is_hidden, -1.0).amax(-1, keepdim=True)
        mean = mean_of_known(similarity.mT, context.is_there).mT
        parts = (similarity, agreement, nearest, mean, log_shots(context.shots)[:, None, None])
        described = torch.stack([part.expand_as(similarity) for part in parts], dim=-1)
        sharpness = within(self.log_sharpness, -math.inf, MOST_LOG_SHARPNESS).exp()
        scores = sharpness * similarity.unsqueeze(-1) + SHARPEST * self.network(described)
        scores = scores.masked_fill(is_hidden.unsqueeze(-1), torch.finfo(scores.dtype).min)
        attention: Tensor = scores.softmax(-2).mean(-1)
        return attention


def label_vectors(grams: EpisodeGrams) -> Float[Tensor, "batch support way"]:
    """Return each support item's label on the simplex of the classes that have support; zero for absent items."""
    members, is_known = present_members(grams), known_classes(grams).unsqueeze(1)
    return members - members.sum(-1, keepdim=True) * is_known / is_known.sum(-1, keepdim=True).clamp(min=1)
