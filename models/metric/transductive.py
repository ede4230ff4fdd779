"""Transductive refinement of prototypes by optimal transport: PT-MAP, Hu et al., 2021, https://arxiv.org/abs/2006.03806.

Queries that are asked together are answered together: those of an episode, or each block of 4,096 items of a domain
that is scored. They are assigned to prototypes by an entropic transport plan whose entries are `exp(-λ d²)` with
marginals set by Sinkhorn's iterations (Cuturi, 2013, https://arxiv.org/abs/1306.0895), and prototypes move towards the
mean of what is assigned to them (algorithm 1).

Balance is a choice. With it, in `transductive_balanced`, every class gets the same share of the queries, as benchmarks
have it; without it, in `transductive`, each query is shared out by itself and classes may be of any size. Departures:
prototypes are mixtures of support and queries, so that Gram matrices are all that is needed; the features are not
transformed by powers; the refined distances replace those of nearest centroid to a degree that follows the shot and
starts at zero; and a linear classifier is fine-tuned on the support, as `fine_tuning.py` says. It takes its share from
what refined prototypes say, but what it is held against on left-out items are prototypes that have not moved.
"""

from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.episodes import mean_shares
from models.grams import EpisodeGrams
from models.heads import SupportMemory
from models.metric.fine_tuning import FineTuning
from models.metric.known import where_known
from models.nearest import NearestCentroid, nearness
from models.strength import ByShot, within

STEPS = 10
RATE = 0.2
SHARPNESS = 10.0
"""λ: of squared distances, in the plan."""
MOST_ITERATIONS = 1000
TOLERANCE = 1e-6


class TransductiveHead(nn.Module):
    """Score queries by their distance to prototypes that the queries have refined, and by a fine-tuned linear head."""

    def __init__(self, *, is_balanced: bool = False) -> None:
        """Build one; `is_balanced` says that every class has the same share of the queries."""
        super().__init__()
        self.is_balanced = is_balanced
        self.nearest = NearestCentroid()
        self.strength = ByShot()
        self.fine_tuning = FineTuning()

    def forward(
        self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"], memory: SupportMemory | None = None
    ) -> Float[Tensor, "batch query way"]:
        """Return logits of the queries."""
        gram, cross = grams.fused(weights)
        between = grams.items.between_queries(weights)
        everything = torch.cat([torch.cat([gram, cross.mT], dim=2), torch.cat([cross, between], dim=2)], dim=1)
        before = start(grams.membership, between.shape[1])
        with torch.no_grad():
            after = refine(everything, before, grams.query_presence.any(1), is_balanced=self.is_balanced)
        n_support = gram.shape[1]
        moved = distances(everything, after, n_support) - distances(everything, before, n_support)
        strength = within(self.strength(grams.shots), 0.0, 1.0).unsqueeze(-1)
        refined = self.nearest.scale(grams) * (nearness(grams, weights) - strength * where_known(moved, grams))
        logits: Tensor = self.fine_tuning(refined, partial(self.nearest, weights=weights), gram, cross, grams, memory)
        return logits


def start(membership: Float[Tensor, "batch support way"], n_query: int) -> Float[Tensor, "batch item way"]:
    """Return the class means as mixtures of support and queries."""
    means = mean_shares(membership)
    return torch.cat([means, means.new_zeros(len(means), n_query, means.shape[2])], dim=1)


def refine(
    gram: Float[Tensor, "batch item item"],
    mixtures: Float[Tensor, "batch item way"],
    is_seen: Bool[Tensor, "batch query"],
    *,
    is_balanced: bool,
) -> Float[Tensor, "batch item way"]:
    """Move prototypes towards the mean of the support of their class and of the queries assigned to them.

    `gram` holds the similarities of support and queries, in this order; queries that are not seen move nothing.
    """
    n_support = gram.shape[1] - is_seen.shape[1]
    own = (mixtures[:, :n_support] > 0).to(gram)
    for _ in range(STEPS):
        plan = assign(gram, mixtures, is_seen, is_balanced=is_balanced)
        members = torch.cat([own, plan], dim=1)
        target = members / members.sum(1, keepdim=True).clamp(min=1e-10)
        mixtures = mixtures + RATE * (target - mixtures)
    return mixtures


def assign(
    gram: Float[Tensor, "batch item item"],
    mixtures: Float[Tensor, "batch item way"],
    is_seen: Bool[Tensor, "batch query"],
    *,
    is_balanced: bool,
) -> Float[Tensor, "batch query way"]:
    """Share queries out over classes; a row sums to 1, or to 0 for a query that is not seen."""
    n_support = gram.shape[1] - is_seen.shape[1]
    has_support = mixtures.sum(1, keepdim=True) > 0
    affinity = -SHARPNESS * distances(gram, mixtures, n_support)
    affinity = affinity.masked_fill(~has_support, torch.finfo(affinity.dtype).min)  # a padded episode has no class
    plan = affinity.softmax(-1) * is_seen.unsqueeze(-1)
    return balance(plan, is_seen, has_support) if is_balanced else plan


def balance(
    plan: Float[Tensor, "batch query way"], is_seen: Bool[Tensor, "batch query"], is_class: Bool[Tensor, "batch 1 way"]
) -> Float[Tensor, "batch query way"]:
    """Scale rows and columns in turn until every class has the same share of the queries; tasks that have it rest."""
    if not plan.numel():
        return plan
    share = is_seen.sum(1) / is_class.sum((1, 2)).clamp(min=1)
    balanced = torch.empty_like(plan)
    active = torch.arange(len(plan), device=plan.device)
    current = plan.movedim(2, 0).contiguous()  # [way, batch, query]: sums are cheap
    rows = current.sum(0)
    for _ in range(MOST_ITERATIONS):
        before = rows
        current = current / rows.clamp(min=1e-10)
        current = current * (share / current.sum(2).clamp(min=1e-10)).unsqueeze(-1)
        rows = current.sum(0)
        is_done = (rows - before).abs().amax(1) < TOLERANCE
        if is_done.any():
            balanced[active[is_done]] = current[:, is_done].movedim(0, 2)
            active, share, rows, current = active[~is_done], share[~is_done], rows[~is_done], current[:, ~is_done]
            if not len(active):
                return balanced
    balanced[active] = current.movedim(0, 2)
    return balanced


def distances(
    gram: Float[Tensor, "batch item item"], mixtures: Float[Tensor, "batch item way"], n_support: int
) -> Float[Tensor, "batch query way"]:
    """Return squared distances of the queries to mixtures of all items, less the queries' own squared lengths."""
    products = gram @ mixtures
    return (mixtures * products).sum(1, keepdim=True) - 2 * products[:, n_support:]
