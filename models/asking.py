"""Whom to ask: which items would help most if someone labelled them.

Filtered active submodular selection: Wei, Iyer and Bilmes, 2015, https://proceedings.mlr.press/v37/wei15.html, which is
greedy facility location over the most uncertain items. Each pick is the item that brings most others closest to
something labelled, so it is typical of many and unlike both the labelled items and the earlier picks. Two departures:
closeness is the drop in squared distance, as in k-medoids, and what is labelled already counts as picked. Weighing
items by their uncertainty as well lost accuracy with few labels, when the model does not know what it does not know
(Hacohen, Dekel and Weinshall, 2022, https://arxiv.org/abs/2202.02794). Greedy picks are within 1 - 1/e of the best set
(Nemhauser, Wolsey and Fisher, 1978, https://doi.org/10.1007/BF01588971), and every start of the list is the list for
fewer picks.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

CONSIDERED = 2000
"""So many of the most uncertain items are compared with one another."""


def entropy(probabilities: Float[Tensor, "item way"]) -> Float[Tensor, " item"]:
    """Return the entropy of each answer in nats, zero where there are no classes."""
    terms: Tensor = torch.special.entr(probabilities)
    return terms.sum(-1)


def most_helpful(
    embedding: Float[Tensor, "item dim"],
    doubt: Float[Tensor, " item"],
    *,
    is_open: Bool[Tensor, " item"],
    is_labelled: Bool[Tensor, " item"],
    count: int,
    seed: int = 0,
) -> Int[Tensor, " asked"]:
    """Return the rows to ask for, best first: `count` of those that are open, or all if they are fewer.

    Of more than can be compared, the items of most `doubt` are; the seed decides between equals.
    """
    order = torch.randperm(len(embedding), generator=torch.Generator().manual_seed(seed))
    rows = order[is_open[order]]
    rows = rows[doubt[rows].argsort(descending=True, stable=True)][:CONSIDERED]
    if not count or not len(rows):
        return rows[:0]
    items = embedding[rows]
    between = torch.cdist(items, items).square()
    distance = _distance_to_nearest(items, embedding[is_labelled], otherwise=between)
    is_left = torch.ones(len(rows), dtype=torch.bool)
    asked: list[Tensor] = []
    for _ in range(min(count, len(rows))):
        gains = (distance.unsqueeze(1) - between).clamp(min=0).sum(0)
        best = gains.where(is_left, -1.0).argmax()
        asked.append(rows[best])
        is_left[best] = False
        distance = torch.minimum(distance, between[:, best])
    return torch.stack(asked)


def _distance_to_nearest(
    items: Float[Tensor, "item dim"], labelled: Float[Tensor, "labelled dim"], otherwise: Float[Tensor, "item item"]
) -> Float[Tensor, " item"]:
    """Return squared distances to the nearest labelled item; without any, as if it were at the farthest distance."""
    if len(labelled) == 0:
        return otherwise.amax().expand(len(items))
    parts = [torch.cdist(items, part).square().amin(1) for part in torch.split(labelled, CONSIDERED)]
    return torch.stack(parts).amin(0)
