"""Fusion in similarity space: a learner that sees Gram matrices and what they tell of each view, and nothing else.

For every query, class and view a small network reads how similar the query is to the class's support (the mean, the
nearest, the farthest), how tight the class is, how well the view separates the support, and whether the other views
agree. From that it makes evidence for the class, and how far to trust the view for this query. No parameter of the head
belongs to a view, a modality, an encoder or a dimension, so all of them may be new (deep sets: Zaheer et al., 2017,
https://arxiv.org/abs/1703.06114, are what makes it indifferent to the order of views and of support items). What comes
before the head is that of every learner: modalities met in training count by what they were worth there, others by how
they hold the support's classes together, and encoders met there are whitened.

Evidence and trust each have a strength that follows the shot and starts at zero: untrained, this is nearest centroid.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.grams import EpisodeGrams, mean_where_unknown, squared_distances
from models.nearest import NearestCentroid
from models.separation import held_out_standing, separability, standings
from models.strength import ByShot

HIDDEN = 32
STATISTICS = 12
SHARPNESS = 10.0
"""Of the soft maximum and minimum of similarities."""
LARGEST_TRUST = 5.0
"""Bound on the logarithm of the factor of a view's weight."""


class SimilarityHead(nn.Module):
    """Weigh views by query, and add evidence from similarities to the nearness of each class."""

    def __init__(self) -> None:
        super().__init__()
        self.nearest = NearestCentroid()
        self.trunk = nn.Sequential(nn.Linear(STATISTICS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh())
        self.evidence = nn.Linear(HIDDEN, 1)
        self.trust = nn.Linear(2 * HIDDEN, 1)
        self.evidence_strength = ByShot()
        self.trust_strength = ByShot()

    def forward(self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"]) -> Float[Tensor, "batch query way"]:
        """Return logits of the queries."""
        shares, hidden = self.read(grams, weights)
        evidence = mean_where_unknown(self.evidence(hidden).squeeze(-1), classes_with_view(grams))
        strength = self.evidence_strength(grams.shots)[:, :, None, None]
        scores = strength * evidence - squared_distances(grams)
        shares = _normalised(shares * self.factors(hidden, grams))
        logits: Tensor = self.nearest.scale(grams) * torch.einsum("bvq,bvqw->bqw", shares, scores)
        return logits

    def reweigh(self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"]) -> Float[Tensor, "batch view query"]:
        """Return how much each query trusts each of its views; all zero for a query without any."""
        shares, hidden = self.read(grams, weights)
        return _normalised(shares * self.factors(hidden, grams))

    def read(
        self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"]
    ) -> tuple[Float[Tensor, "batch view query"], Float[Tensor, "batch view query way hidden"]]:
        """Return the weights of the views that each query has, and what the network reads of it beside each class."""
        shares = _normalised(weights.unsqueeze(-1) * grams.query_presence)
        return shares, self.trunk(describe(grams, shares))

    def factors(
        self, hidden: Float[Tensor, "batch view query way hidden"], grams: EpisodeGrams
    ) -> Float[Tensor, "batch view query"]:
        """Return what multiplies a view's weight for a query, from all classes together."""
        mask = classes_with_view(grams).unsqueeze(-1)
        mean = (hidden * mask).sum(3) / mask.sum(3).clamp(min=1)
        most = hidden.masked_fill(~mask, -1.0).amax(3)
        trust = self.trust(torch.cat([mean, most], dim=-1)).squeeze(-1).tanh()
        strength = self.trust_strength(grams.shots).unsqueeze(-1)
        factors: Tensor = (LARGEST_TRUST * (strength * trust).tanh()).exp()
        return factors


def describe(
    grams: EpisodeGrams, shares: Float[Tensor, "batch view query"]
) -> Float[Tensor, "batch view query way statistic"]:
    """Describe each query beside each class in each view; zero where the class has no item with the view.

    Similarities are in units of the view's own spread, because encoders differ in how alike they make everything.
    """
    members = grams.members
    counts = members.sum(2)
    is_known = classes_with_view(grams)
    share = members / counts.clamp(min=1).unsqueeze(2)
    mean = grams.cross @ share
    nearest, farthest = (
        (sign * SHARPNESS * grams.cross).exp().matmul(share).clamp(min=1e-6).log() / (sign * SHARPNESS)
        for sign in (1, -1)
    )
    length = (share * (grams.support @ share)).sum(2).clamp(min=1e-6).unsqueeze(2)
    cosine = mean / length.sqrt()
    gap, _, coverage = separability(grams)[:, :, None, None].unbind(-1)
    spread = spread_between(grams, members)
    similarities = [(value / (3 * spread)).tanh() for value in (mean, nearest, farthest, cosine, length, gap)]
    standing = standings(cosine, is_known)
    agreement = (shares.unsqueeze(-1) * standing).sum(1, keepdim=True)
    coherent = held_out_standing(grams)[0][:, :, None, None]
    shot, way = counts.clamp(min=1).log().unsqueeze(2), is_known.sum(-1, keepdim=True).clamp(min=1).log()
    columns = [*similarities, standing, agreement, coherent, coverage, shot, way]
    stacked = torch.stack([column.expand(mean.shape) for column in columns], dim=-1)
    return torch.where(is_known.unsqueeze(-1), stacked, 0.0)


def spread_between(
    grams: EpisodeGrams, members: Float[Tensor, "batch view support way"]
) -> Float[Tensor, "batch view 1 1"]:
    """Root mean square similarity of support items of different classes: the unit of a view's similarities."""
    has = members.sum(-1)
    different = has.unsqueeze(-1) * has.unsqueeze(-2) - members @ members.mT
    square = (grams.support.square() * different).sum((2, 3)) / different.sum((2, 3)).clamp(min=1)
    return (square + 1e-4).sqrt()[:, :, None, None]


def classes_with_view(grams: EpisodeGrams) -> Bool[Tensor, "batch view 1 way"]:
    """Say which classes have a support item with the view."""
    return (grams.support_presence.float() @ grams.membership > 0).unsqueeze(2)


def _normalised(shares: Float[Tensor, "batch view query"]) -> Float[Tensor, "batch view query"]:
    return shares / shares.sum(1, keepdim=True).clamp(min=1e-6)
