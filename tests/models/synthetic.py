"""Small domains whose classes are clouds around centres that all domains share."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from zlib import crc32

import torch
from torch import Tensor

from models.catalogue import build_learner
from models.episodes import EpisodeBatch, EpisodeSampler
from models.features import DomainData, ViewSpec
from models.fused import FusedLearner
from models.geometry import Neighbours, find_neighbours
from models.grams import EpisodeGrams, PlacedItems, distinct_rows, gather_grams
from models.pool import has_view

TITLE = ViewSpec("title", "text", "words-1", 12)
PICTURE = ViewSpec("picture", "image", "pixels-1", 16)
FACTS = ViewSpec("facts", "tabular", "numbers-1", 6)
VIEWS = (TITLE, PICTURE, FACTS)

NOISE = {"title": 0.8, "picture": 1.2, "facts": 3.0}
"""How far items lie from the centre of their class, per number; a view not named here has 1."""


def class_names(count: int, *, start: int = 0) -> tuple[str, ...]:
    return tuple(f"class-{number:02d}" for number in range(start, start + count))


def make_domain(
    name: str = "toys",
    *,
    classes: Sequence[str] | int = 8,
    per_class: int = 12,
    views: Sequence[ViewSpec] = VIEWS,
    missing: float = 0.0,
    unlabelled: int = 0,
    seed: int = 0,
) -> DomainData:
    """Draw a domain: an offset of its own, a centre per class that depends on class and encoder alone, and noise."""
    names = class_names(classes) if isinstance(classes, int) else tuple(classes)
    draw = torch.Generator().manual_seed(seed)
    truth = torch.arange(len(names)).repeat_interleave(per_class)
    features, presence = {}, torch.rand(len(truth), len(views), generator=draw) >= missing
    for number, view in enumerate(views):
        centres = torch.stack([centre_of(label, view) for label in names])
        offset = torch.randn(view.dim, generator=draw)
        noise = NOISE.get(view.name, 1.0) * torch.randn(len(truth), view.dim, generator=draw)
        features[view.name] = (centres[truth] + offset + noise) * presence[:, number, None]
    labels = truth.clone()
    labels[torch.randperm(len(truth), generator=draw)[:unlabelled]] = -1
    ids = tuple(f"{name}-{number:04d}" for number in range(len(truth)))
    return DomainData(name, tuple(views), features, presence, labels, names, ids)


def with_other_hidden_features(domain: DomainData) -> DomainData:
    """Return a domain whose features are quite other ones wherever a view is hidden."""
    generator = torch.Generator().manual_seed(0)
    features = {}
    for view, is_there in zip(domain.views, domain.presence.T, strict=True):
        items = domain.features[view.name]
        noise = 100 * torch.randn(items.shape, generator=generator)
        features[view.name] = torch.where(is_there.unsqueeze(-1), items, noise)
    other = replace(domain, features=features)
    other.__dict__["means"] = domain.means
    return other


def centre_of(label: str, view: ViewSpec) -> Tensor:
    """The centre of a class under an encoder, the same in every domain."""
    seed = crc32(f"{label}/{view.encoder_id}".encode())
    return torch.randn(view.dim, generator=torch.Generator().manual_seed(seed))


def draw(
    domain: DomainData, batch: int = 6, n_way: int = 4, n_shot: int = 2, n_query: int = 5, *, seed: int = 0
) -> EpisodeBatch:
    return EpisodeSampler(domain).sample(batch, n_way, n_shot, n_query, torch.Generator().manual_seed(seed))


def gather(batch: EpisodeBatch, dtype: torch.dtype = torch.float32) -> EpisodeGrams:
    """Return episodes as similarities of items that are centred and nothing else."""
    rows, support, query = distinct_rows(batch)
    views = tuple(items.to(dtype) for items in batch.domain.centred(rows).values())
    items = PlacedItems(
        views, tuple(view.encoder_id for view in batch.domain.views), support, query, batch.domain.presence[rows]
    )
    return gather_grams(items, batch.domain.presence[rows], batch.membership.to(dtype))


def neighbours_among(
    rows: Mapping[str, Tensor], pool: Mapping[str, Tensor], shares: Sequence[float], is_same: Tensor, count: int = 10
) -> dict[str, Neighbours]:
    """The neighbours of centred rows by each view, by the weights of the views in turn."""
    cosines = (items @ pool[name].T for name, items in rows.items())
    found = find_neighbours(cosines, has_view(rows), has_view(pool), torch.tensor(shares), is_same, count=count)
    return dict(zip(rows, found, strict=True))


def joined_views(grams: EpisodeGrams, weights: Tensor) -> Tensor:
    """Return the items behind episodes, weighted views side by side."""
    return torch.cat([w**0.5 * items for w, items in zip(weights, grams.items.views, strict=True)], dim=-1)


def support_of(domain: DomainData, n_shot: int) -> Tensor:
    """The first rows of every class."""
    rows = [(domain.labels == number).nonzero().flatten()[:n_shot] for number in range(len(domain.classes))]
    return torch.cat(rows)


def without_view(domain: DomainData, name: str) -> DomainData:
    """The same items with one view never heard of."""
    kept = [number for number, view in enumerate(domain.views) if view.name != name]
    return replace(
        domain,
        views=tuple(domain.views[number] for number in kept),
        features={view: matrix for view, matrix in domain.features.items() if view != name},
        presence=domain.presence[:, kept],
    )


def departed_learner(kind: str = "metric", domains: Sequence[DomainData] = ()) -> FusedLearner:
    """A learner that is nowhere near its start: every parameter has moved, and strengths depend on the shot.

    Strengths and view weights have grown; the weights of networks have moved either way, little enough that no unit is
    saturated and what a network says varies.
    """
    learner = build_learner(kind)
    assert isinstance(learner, FusedLearner)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        of_networks = {id(parameter) for parameter in learner.networks()}
        for parameter in learner.parameters():
            if id(parameter) in of_networks:
                parameter.add_(parameter.shape[-1] ** -0.5 * torch.randn(parameter.shape, generator=generator))
            else:
                parameter.add_(0.3 * torch.rand(parameter.shape, generator=generator) + 0.1)
    learner.temperature.exponents.copy_(torch.tensor([0.4, 0.6]))
    if domains:
        learner.meet(domains)
        learner.fit_statistics(domains, domains[0].classes)
    return learner


def misled_learner() -> FusedLearner:
    """A learner that has been taught to trust the pictures alone."""
    learner = build_learner("metric")
    with torch.no_grad():
        learner.view_weights.bias[1] = 9.0
    return learner


def domain_of_noisy_pictures(classes: int) -> DomainData:
    """A domain whose pictures say nothing."""
    domain = make_domain("noisy", classes=classes, per_class=16, views=(TITLE, PICTURE), seed=3)
    domain.features["picture"].copy_(torch.randn(domain.features["picture"].shape, generator=torch.Generator()))
    return domain
