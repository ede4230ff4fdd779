"""A table of embeddings as large as the base classes of miniImageNet: 64 classes of 600 items, 512 numbers each."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from models.episodes import EpisodeSampler
from models.features import DomainData, ViewSpec
from models.optimisation.inner_loop import StoredEpisodes

CLASSES, PER_CLASS, DIM = 64, 600, 512
WAY, SHOT, QUERY = 5, 5, 15

VIEW = ViewSpec("embedding", "image", "drawn", DIM)


def draw_pool(seed: int = 0) -> DomainData:
    """Draw clouds around a centre per class; numbers are not negative, as after a ReLU, and items have length 1."""
    generator = torch.Generator().manual_seed(seed)
    centres = 0.35 * torch.randn(CLASSES, 1, DIM, generator=generator)
    items = (centres + torch.randn(CLASSES, PER_CLASS, DIM, generator=generator)).flatten(0, 1)
    labels = torch.arange(CLASSES).repeat_interleave(PER_CLASS)
    names = tuple(f"class-{number}" for number in range(CLASSES))
    return DomainData(
        "pool",
        (VIEW,),
        {VIEW.name: normalize(items.relu(), dim=-1)},
        torch.ones(len(items), 1, dtype=torch.bool),
        labels,
        names,
        tuple(map(str, range(len(items)))),
    )


class Episodes:
    """5-way episodes of 5 support and 15 query items a class, from one generator."""

    def __init__(self, domain: DomainData, seed: int = 1) -> None:
        self.items = domain.features[VIEW.name]
        self.sampler = EpisodeSampler(domain)
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, batch: int) -> StoredEpisodes:
        """Draw the next episodes."""
        drawn = self.sampler.sample(batch, WAY, SHOT, QUERY, self.generator)
        return StoredEpisodes(self.items, drawn.support, drawn.support_labels, drawn.query, drawn.query_labels)

    def parts(self, batch: int, drawn_at_once: int) -> Iterator[StoredEpisodes]:
        """Draw many episodes at once and return them in batches, without end."""
        while True:
            episodes = self.draw(drawn_at_once)
            yield from (episodes[start : start + batch] for start in range(0, drawn_at_once, batch))


def items_of(episodes: StoredEpisodes) -> Float[Tensor, "batch item dim"]:
    """Gather the items of episodes, the support before the queries."""
    return episodes.take(torch.cat([episodes.support, episodes.query], dim=1))
