"""Episodes: few-label problems drawn from a labelled domain (Vinyals et al., 2016, https://arxiv.org/abs/1606.04080).

An episode is row numbers into its domain, never copies of features. Drawing is vectorised over episodes and costs in
proportion to the items drawn, whatever the size of the classes. It is done on the CPU, so that a seed gives the same
episodes on every device; row numbers then go where the domain is.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data_contracts.errors import EpisodeTooSmall
from models.features import DomainData


@dataclass(frozen=True)
class EpisodeBatch:
    """A batch of episodes of one domain. Way and shot may vary within it: a label of -1 marks padding."""

    domain: DomainData
    support: Int[Tensor, "batch support"]
    support_labels: Int[Tensor, "batch support"]
    query: Int[Tensor, "batch query"]
    query_labels: Int[Tensor, "batch query"]
    n_way: int

    def __len__(self) -> int:
        return len(self.support)

    def __getitem__(self, part: slice) -> "EpisodeBatch":
        return EpisodeBatch(
            self.domain,
            self.support[part],
            self.support_labels[part],
            self.query[part],
            self.query_labels[part],
            self.n_way,
        )

    @property
    def membership(self) -> Float[Tensor, "batch support way"]:
        """One-hot support labels; a padded row is all zero."""
        return one_hot(self.support_labels, self.n_way)

    @property
    def shots(self) -> Float[Tensor, " batch"]:
        """Shot of each episode."""
        return shots_of(self.membership)

    @property
    def class_numbers(self) -> Int[Tensor, "batch way"]:
        """Number in the domain of the class of each way; -1 for a way without support."""
        numbers = self.domain.labels[self.support].unsqueeze(-1)
        return torch.where(self.membership > 0, numbers, -1).amax(1)

    def presence(self, rows: Int[Tensor, "batch item"]) -> Bool[Tensor, "batch item view"]:
        """Say which views the given rows have."""
        return self.domain.presence[rows]

    def item_ids(self, rows: Int[Tensor, " item"]) -> tuple[str, ...]:
        """Return the ids of the given rows."""
        return tuple(self.domain.item_ids[row] for row in rows.tolist())


def as_episode(domain: DomainData, support: Int[Tensor, " support"], query: Int[Tensor, " query"]) -> EpisodeBatch:
    """Return one episode over all classes of a domain, from given rows."""
    return EpisodeBatch(
        domain,
        support.unsqueeze(0),
        domain.labels[support].unsqueeze(0),
        query.unsqueeze(0),
        domain.labels[query].unsqueeze(0),
        len(domain.classes),
    )


def one_hot(labels: Int[Tensor, "*shape"], n_way: int) -> Float[Tensor, "*shape way"]:
    """Return one-hot rows; a label of -1 gives zeros."""
    return (labels.unsqueeze(-1) == torch.arange(n_way, device=labels.device)).float()


def mean_shares(membership: Float[Tensor, "*batch support way"]) -> Float[Tensor, "*batch support way"]:
    """Return the share of each item in the mean of its class; a class without items has none."""
    return membership / membership.sum(-2, keepdim=True).clamp(min=1)


def shots_of(membership: Float[Tensor, "*batch support way"]) -> Float[Tensor, "*batch"]:
    """Return the mean number of support items of the classes that have any."""
    counts = membership.sum(-2)
    return counts.sum(-1) / (counts > 0).sum(-1).clamp(min=1)


class EpisodeSampler:
    """Draws episodes from the classes of one domain that have enough labelled items with any view."""

    def __init__(self, domain: DomainData, classes: tuple[str, ...] | None = None) -> None:
        self.domain = domain
        wanted = domain.classes if classes is None else classes
        index = {name: number for number, name in enumerate(domain.classes)}
        known = [index[name] for name in wanted if name in index]
        labels = domain.usable_labels.cpu()
        order = torch.argsort(labels, stable=True)
        sizes = torch.bincount(labels + 1, minlength=len(domain.classes) + 1)
        starts = sizes.cumsum(0) - sizes
        self.rows = order
        self.class_numbers = torch.tensor(known, dtype=torch.long)
        self.sizes = sizes[self.class_numbers + 1]
        self.starts = starts[self.class_numbers + 1]

    def sample(
        self, batch: int, n_way: int, n_shot: int, n_query: int, generator: torch.Generator, *, min_query: int = 1
    ) -> EpisodeBatch:
        """Draw `batch` episodes of `n_way` classes with `n_shot` support and `n_query` query items each.

        A class with fewer than `n_shot + n_query` items gives the episode fewer queries, but at least `min_query`.

        Raises:
            EpisodeTooSmall: fewer than `n_way` classes have `n_shot + min_query` labelled items.
        """
        chosen = self._draw_classes(batch, n_way, n_shot + min_query, generator)  # [batch, way]
        sizes, starts = self.sizes[chosen].flatten(), self.starts[chosen].flatten()
        drawn = draw_without_replacement(sizes, n_shot + n_query, generator)  # [batch * way, shot + query]
        is_real = drawn >= 0
        rows = self.rows[starts[:, None] + drawn.clamp(min=0)].view(batch, n_way, -1)
        labels = torch.arange(n_way)[None, :, None].expand_as(rows)
        labels = labels.where(is_real.view_as(rows), torch.tensor(-1))
        rows, labels = rows.to(self.domain.labels.device), labels.to(self.domain.labels.device)
        return EpisodeBatch(
            self.domain,
            rows[..., :n_shot].reshape(batch, -1),
            labels[..., :n_shot].reshape(batch, -1),
            rows[..., n_shot:].reshape(batch, -1),
            labels[..., n_shot:].reshape(batch, -1),
            n_way,
        )

    def usable_classes(self, n_items: int) -> Int[Tensor, " usable"]:
        """Return positions of the classes that have at least `n_items` labelled items."""
        return (self.sizes >= n_items).nonzero().flatten()

    def _draw_classes(
        self, batch: int, n_way: int, n_items: int, generator: torch.Generator
    ) -> Int[Tensor, "batch way"]:
        usable = self.usable_classes(n_items)
        if len(usable) < n_way:
            raise EpisodeTooSmall(
                self._shortage(n_way, n_items), domain=self.domain.domain, n_way=n_way, needed=n_items
            )
        keys = torch.rand(batch, len(usable), generator=generator)
        return usable[keys.topk(n_way, dim=1).indices]

    def _shortage(self, n_way: int, n_items: int) -> str:
        names = [self.domain.classes[number] for number in self.class_numbers.tolist()]
        sizes = dict(zip(names, self.sizes.tolist(), strict=True))
        short = [f"{name!r} has {size} labelled items" for name, size in sizes.items() if size < n_items]
        listed = "; ".join(short[:5]) + ("; …" if len(short) > 5 else "") if short else "no other class is there"
        return (
            f"domain {self.domain.domain!r} has {len(names) - len(short)} classes with at least {n_items} labelled "
            f"items, but these {n_way}-way episodes need {n_way} ({listed}). "
            "Label more items, or ask for fewer classes or shots."
        )


def draw_without_replacement(
    sizes: Int[Tensor, " row"], count: int, generator: torch.Generator
) -> Int[Tensor, "row count"]:
    """Draw `count` different numbers below `sizes[i]` for every row i, in uniformly random order.

    A row with fewer than `count` numbers gets all of them, then -1. Rows are drawn with replacement and rows with a
    repeat are drawn again; small classes, where repeats are likely, are shuffled whole instead.
    """
    rows = torch.full((len(sizes), count), -1)
    is_small = sizes < count * count
    small, large = is_small.nonzero().flatten(), (~is_small).nonzero().flatten()
    if len(small):
        width = int(sizes[small].max())
        keys = torch.rand(len(small), width, generator=generator)
        keys = keys.masked_fill(torch.arange(width) >= sizes[small, None], -1.0)
        best = keys.topk(min(count, width), dim=1)
        rows[small, : best.indices.shape[1]] = best.indices.where(best.values >= 0, torch.tensor(-1))
    while len(large):
        drawn = (torch.rand(len(large), count, generator=generator) * sizes[large, None]).long()
        drawn = drawn.clamp(max=sizes[large, None] - 1)
        rows[large] = drawn
        ordered = drawn.sort(dim=1).values
        large = large[(ordered[:, 1:] == ordered[:, :-1]).any(dim=1)]
    return rows
