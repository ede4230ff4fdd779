"""Learners that answer from similarities: place the items, weigh the views, and let a head decide.

A head sees only `EpisodeGrams` and view weights (and what it made of the same support before), so any head works
with any views, encoders and dimensions, and one learner, one domain model and one stored form serve every family whose
answer is a function of similarities.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from models.episodes import EpisodeBatch, one_hot, shots_of
from models.features import DomainData, ViewSpec
from models.fusion import ViewWeights, modality_numbers
from models.grams import (
    EpisodeGrams,
    LabelledItems,
    PlacedItems,
    distinct_rows,
    gather_grams,
    in_common_space,
)
from models.heads import (
    AdversarialHead,
    EnsembleHead,
    EpisodeLoss,
    FittedHead,
    SupportMemory,
    TunedHead,
    WeighingHead,
    query_loss,
)
from models.placement import Placement
from models.pool import Pool, centre, has_view
from models.settling import Asked, drop_unless_it_pays, keep, settle_strengths
from models.strength import ByShot
from models.temperature import Temperature, Uncalibrated

PLENTY = 100
"""Labelled items of a class that are plenty: of a larger class the first so many are taken."""

PLACED_AT_ONCE = 1024
"""Labelled items in one part: to place one takes a few numbers for every item of the pool."""


class FusedLearner(nn.Module):
    """A prior over domains: where items lie, how much views count, and a head that classifies from that."""

    def __init__(self, kind: str, head: nn.Module, loss: EpisodeLoss = query_loss) -> None:
        """Build from a head called as `head(grams, weights) -> logits [batch, query, way]`."""
        super().__init__()
        self.kind = kind
        self.loss = loss
        self.placement = Placement()
        self.view_weights = ViewWeights()
        self.head = head
        self.temperature = Temperature()

    def networks(self) -> Iterator[nn.Parameter]:
        """Return the weights of networks: all parameters but strengths and view weights."""
        strengths = {
            id(parameter)
            for module in self.modules()
            if isinstance(module, ByShot | ViewWeights)
            for parameter in module.parameters()
        }
        return (parameter for parameter in self.parameters() if id(parameter) not in strengths)

    def meet(self, domains: Sequence[DomainData]) -> None:
        """Count the modalities that any item of the domains has among those that training has met."""
        for domain in domains:
            self.view_weights.meet(modality_numbers(domain.views)[domain.in_pool.any(0).cpu()])

    def fit_statistics(self, domains: Sequence[DomainData], classes: tuple[str, ...]) -> None:
        """Fit what needs no gradient: the within-class scatter of each shared encoder, and what the head asks for."""
        self.placement.fit(domains, classes)
        if isinstance(self.head, FittedHead):
            with torch.no_grad():
                labelled = [self._labelled_items(domain.with_classes(classes)) for domain in domains]
            self.head.fit([items for items, _ in labelled], [labels for _, labels in labelled])

    def meta_loss(self, episodes: EpisodeBatch) -> Float[Tensor, ""]:
        """Return the loss of the outer loop; for most heads the mean cross-entropy of the queries."""
        grams, weights, labels = self._asked(episodes)
        loss = self.loss(self.head, grams, weights, labels)
        if isinstance(self.head, AdversarialHead):
            loss = loss + self.head.game(grams, weights, self.plenty(episodes, grams.items))
        return loss

    def unsettle(self) -> None:
        """Use all of the head."""
        keep(self.head, {1.0: 1.0})

    def settle(self, batches: Sequence[EpisodeBatch]) -> None:
        """Drop the part that a head has in contest unless it pays on episodes, and use as much of the head as does."""
        with torch.no_grad():
            drop_unless_it_pays(self.head, map(self._asked, batches))
            settle_strengths(self.head, map(self._asked, batches))

    def calibrate(self, batches: Iterable[tuple[EpisodeBatch, bool]]) -> None:
        """Fit the temperature to episodes, each batch with whether views were hidden in it."""
        answers = []
        with torch.no_grad():
            for episodes, is_hidden in batches:
                grams, weights, labels = self._asked(episodes)
                logits, coverage = self.head(grams, weights), grams.coverage(weights)
                answers.append(Uncalibrated(logits, labels, grams.shots, coverage, is_hidden))
        self.temperature.fit(answers)

    def log_probabilities(self, episodes: EpisodeBatch) -> Float[Tensor, "batch query way"]:
        """Adapt to each episode's support and return log-probabilities of its queries."""
        modalities = modality_numbers(episodes.domain.views)
        return self.classify(self._grams(episodes), modalities).log_softmax(-1)

    def classify(
        self, grams: EpisodeGrams, modalities: Int[Tensor, " view"], memory: SupportMemory | None = None
    ) -> Float[Tensor, "batch query way"]:
        """Return logits of the queries, whose softmax is calibrated; a `memory` is of the support that grams have."""
        weights = self.view_weights(grams, modalities)
        is_remembered = memory is not None and isinstance(self.head, TunedHead)
        logits = self.head(grams, weights, memory) if is_remembered else self.head(grams, weights)
        calibrated: Tensor = self.temperature(logits, grams.shots, grams.coverage(weights))
        return calibrated

    def _asked(self, episodes: EpisodeBatch) -> Asked:
        """Return a batch as the head is asked about it."""
        grams = self._grams(episodes)
        weights = self.view_weights(grams, modality_numbers(episodes.domain.views))
        return Asked(grams, weights, episodes.query_labels)

    def _grams(self, episodes: EpisodeBatch) -> EpisodeGrams:
        """Place the items of a batch once, with the strengths for its mean shot; padded queries get no view."""
        rows, support, query = distinct_rows(episodes)
        views = self.placed(episodes.domain, rows, episodes.shots.mean())
        came_with = episodes.domain.presence[rows]
        items = PlacedItems(tuple(views.values()), _encoders(episodes.domain.views), support, query, came_with)
        grams = gather_grams(items, has_view(views), episodes.membership)
        is_query = (episodes.query_labels >= 0).unsqueeze(1)
        return replace(grams, query_presence=grams.query_presence & is_query)

    @torch.no_grad()
    def plenty(self, episodes: EpisodeBatch, placed: PlacedItems) -> LabelledItems:
        """Return the items that the domain of a batch has labelled of its classes: those `placed` for it, and `PLENTY`.

        Memory is bounded by what is returned, `COMMON_DIM` numbers for each view of such an item, since items are
        placed in parts. In training they are of at most `training.EPISODE_CLASSES` classes.
        """
        domain, labels, numbers = episodes.domain, episodes.domain.usable_labels, episodes.class_numbers
        is_further = (labels >= 0) & torch.isin(labels, numbers) & (positions_in_class(labels) < PLENTY)
        rows = distinct_rows(episodes)[0]
        is_further[rows] = False
        further = is_further.nonzero().flatten()
        parts = [
            self.placed(domain, part, episodes.shots.mean()).values() for part in torch.split(further, PLACED_AT_ONCE)
        ]
        in_common = [in_common_space(tuple(views), placed.encoder_ids) for views in (placed.views, *parts)]
        return LabelledItems(torch.cat(in_common, dim=1), labels[torch.cat([rows, further])], numbers)

    def _labelled_items(self, domain: DomainData) -> tuple[Float[Tensor, "item common"], Int[Tensor, " item"]]:
        """Return items with a label; a view that none of them has takes no weight from the others."""
        rows = (domain.usable_labels >= 0).nonzero().flatten()
        views = self.placed(domain, rows, torch.tensor(1.0, device=rows.device))
        each = torch.arange(len(rows), device=rows.device).unsqueeze(0)
        items = PlacedItems(tuple(views.values()), _encoders(domain.views), each, each[:, :0], domain.presence[rows])
        is_there = has_view(views).any(0)
        weights = self.view_weights.prior(modality_numbers(domain.views), is_there) * is_there
        weights = weights / weights.sum().clamp(min=1e-6)
        return items.common(weights.unsqueeze(0))[0][0], domain.labels[rows]

    def placed(
        self, domain: DomainData, rows: Int[Tensor, " row"], shot: Float[Tensor, ""]
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Place rows of a domain as episodes of the given shot need them."""
        at = domain.positions_in_pool(rows)
        return self.place(domain.views, domain.centred(rows), at, domain.pool, domain.in_pool, shot)

    def place(
        self,
        views: tuple[ViewSpec, ...],
        rows: Mapping[str, Float[Tensor, "row _"]],
        at: Int[Tensor, " row"],
        pool: Pool,
        in_pool: Bool[Tensor, "pool view"],
        shot: Float[Tensor, ""],
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Place centred rows among a pool, whose views are weighed before any label is seen."""
        weights = self.view_weights.prior(modality_numbers(views), in_pool.any(0))
        return self.placement.place(views, rows, at, pool, in_pool, weights, shot)

    def adapt(self, domain: DomainData, support: Int[Tensor, " support"]) -> "FusedModel":
        """Adapt to one domain from its labelled rows `support`; training on later does not touch the result."""
        with torch.no_grad():
            return fit_model(deepcopy(self), domain, support)

    def config(self) -> dict[str, Any]:
        """Return what rebuilds the learner."""
        return {"kind": self.kind}

    def weights(self) -> dict[str, Tensor]:
        """Return parameters, buffers and bases by name."""
        return {**self.state_dict(), **self.placement.stored_bases()}

    def restore(self, stored: Mapping[str, Tensor]) -> None:
        """Take parameters, buffers and bases from what `weights` gave (KeyError or RuntimeError if they do not fit)."""
        self.load_state_dict({name: stored[name] for name in self.state_dict()})
        self.placement.restore_bases(stored)


class FusedModel:
    """One domain's labelled items, placed, with the prior and the unlabelled pool that place further ones.

    The learner is the model's own, and nothing in it or in the tensors may change: what follows from them is kept.
    """

    def __init__(
        self,
        learner: FusedLearner,
        views: tuple[ViewSpec, ...],
        classes: tuple[str, ...],
        tensors: Mapping[str, Tensor],
        pool_ids: tuple[str, ...],
    ) -> None:
        self.kind = learner.kind
        self.learner = learner
        self.views = views
        self.classes = classes
        self.tensors = dict(tensors)
        self.pool_ids = pool_ids
        self._memory = SupportMemory()

    @cached_property
    def pool(self) -> Pool:
        """The domain's items as they were when it was adapted to, in single precision, unlike what is stored."""
        return Pool({view.name: self.tensors[f"pool/{view.name}"].float() for view in self.views})

    @property
    def view_weights(self) -> dict[str, float]:
        """Share of the decision that each view carries; shares sum to 1.

        Where the head weighs views for each item, this is the mean over the pool: items that the domain had when it was
        adapted to. One that lacks a view, even after filling, counts with 0 for it.
        """
        head = self.learner.head
        with torch.no_grad():
            if isinstance(head, WeighingHead):
                grams = self._grams(self._placed_pool(), self.pool.has_view)
                shares = head.reweigh(grams, self._weights(grams))[0].reshape(len(self.views), -1).sum(1)
                weights = shares / shares.sum().clamp(min=1e-6)
            else:
                weights = self._support_weights()
        return dict(zip((view.name for view in self.views), weights.tolist(), strict=True))

    def predict(self, data: DomainData) -> Float[Tensor, "item way"]:
        """Return calibrated class probabilities; an item without any view gets the uniform row."""
        with torch.no_grad():
            grams = self._grams_of(data)
            return self.learner.classify(grams, modality_numbers(self.views), self._memory)[0].softmax(-1)

    def uncertainty(self, data: DomainData) -> Float[Tensor, " item"] | None:
        """Return how far the heads of an ensemble disagree on each item, in nats; None if there is one head only."""
        head = self.learner.head
        if not isinstance(head, EnsembleHead):
            return None
        with torch.no_grad():
            grams = self._grams_of(data)
            return head.uncertainty(grams, self._weights(grams))[0]

    def embed(self, data: DomainData) -> Float[Tensor, "item dim"]:
        """Return items in the fused space, whose squared distances are the weighted sums of those of the views.

        The weights are those that the head is given. What a head makes of them may differ from item to item, and items
        that are compared need one space.
        """
        with torch.no_grad():
            shares, views = self._support_weights(), self._place(data).values()
            return torch.cat([share**0.5 * items for share, items in zip(shares, views, strict=True)], dim=-1)

    def config(self) -> dict[str, Any]:
        """Return what rebuilds the model: views, classes and the ids of the pool."""
        return {
            "kind": self.kind,
            "views": [asdict(view) for view in self.views],
            "classes": list(self.classes),
            "pool_ids": list(self.pool_ids),
        }

    def weights(self) -> dict[str, Tensor]:
        """Return the prior's numbers (`prior/…`), the pool, the means and the placed support."""
        return {**{f"prior/{name}": value for name, value in self.learner.weights().items()}, **self.tensors}

    @classmethod
    def load(cls, learner: FusedLearner, config: Mapping[str, Any], stored: Mapping[str, Tensor]) -> "FusedModel":
        """Rebuild a model, and the untrained `learner` of its kind, from what `config` and `weights` gave.

        Raises:
            KeyError, TypeError, ValueError or RuntimeError: they do not fit each other.
        """
        learner.restore({name.removeprefix("prior/"): value for name, value in stored.items()})
        own = {name: value for name, value in stored.items() if not name.startswith("prior/")}
        views = tuple(ViewSpec(**view) for view in config["views"])
        model = cls(learner, views, tuple(config["classes"]), own, tuple(config["pool_ids"]))
        model._check()
        return model

    def _check(self) -> None:
        modality_numbers(self.views)
        support, pool, labels = len(self.tensors["labels"]), len(self.pool_ids), self.tensors["labels"]
        shapes: dict[str, tuple[int, ...]] = {"shot": (), "labels": (support,), "came_with": (support, len(self.views))}
        for view in self.views:
            shapes |= {f"mean/{view.name}": (view.dim,)}
            basis = self.learner.placement.bases.get(view.encoder_id)
            if basis is not None and len(basis.directions) != view.dim:
                raise ValueError(
                    f"the basis of {view.encoder_id} is for {len(basis.directions)} numbers, not {view.dim}"
                )
            shapes |= {f"pool/{view.name}": (pool, view.dim), f"support/{view.name}": (support, view.dim)}
        for name, shape in shapes.items():
            if self.tensors[name].shape != shape:
                raise ValueError(f"{name} has shape {tuple(self.tensors[name].shape)}, not {shape}")
        if self.tensors["came_with"].dtype != torch.bool:
            raise ValueError(f"came_with holds {self.tensors['came_with'].dtype}, not truth values")
        if not support or not 0 <= int(labels.min()) <= int(labels.max()) < len(self.classes):
            raise ValueError(f"labels do not number the {len(self.classes)} classes")

    def _support(self) -> dict[str, Float[Tensor, "support _"]]:
        return {view.name: self.tensors[f"support/{view.name}"] for view in self.views}

    def _came_with(self, data: DomainData) -> Bool[Tensor, "item view"]:
        numbers = {view.name: number for number, view in enumerate(data.views)}
        absent = torch.zeros_like(data.labels, dtype=torch.bool)
        columns = [data.presence[:, numbers[view.name]] if view.name in numbers else absent for view in self.views]
        return torch.stack(columns, dim=-1)

    def _place(self, data: DomainData) -> dict[str, Float[Tensor, "item _"]]:
        rows = {
            view.name: centre(data.features[view.name], self.tensors[f"mean/{view.name}"], is_present)
            if view.name in data.features
            else torch.zeros(len(data), view.dim, device=data.labels.device)
            for view, is_present in zip(self.views, self._came_with(data).T, strict=True)
        }
        position = {item_id: number for number, item_id in enumerate(self.pool_ids)}
        numbers_in_pool = [position.get(item_id, -1) for item_id in data.item_ids]
        at = torch.tensor(numbers_in_pool, dtype=torch.long, device=data.labels.device)
        return self._placed(rows, at)

    def _placed_pool(self) -> dict[str, Float[Tensor, "pool _"]]:
        return self._placed(self.pool.views, torch.arange(len(self.pool_ids), device=self.tensors["labels"].device))

    def _placed(
        self, rows: Mapping[str, Float[Tensor, "item _"]], at: Int[Tensor, " item"]
    ) -> dict[str, Float[Tensor, "item _"]]:
        """Place centred rows, which the pool holds `at` these positions, -1 if it does not."""
        return self.learner.place(self.views, rows, at, self.pool, self.pool.has_view, self.tensors["shot"])

    def _grams_of(self, data: DomainData) -> EpisodeGrams:
        """Return one episode that asks for all items of `data`."""
        return self._grams(self._place(data), self._came_with(data))

    def _support_weights(self) -> Float[Tensor, " view"]:
        return self._weights(self._grams(self._support(), self.tensors["came_with"]))[0]

    def _weights(self, grams: EpisodeGrams) -> Float[Tensor, "1 view"]:
        """Return the view weights that the head is given."""
        weights: Tensor = self.learner.view_weights(grams, modality_numbers(self.views))
        return weights

    def _grams(
        self, queries: Mapping[str, Float[Tensor, "item _"]], came_with: Bool[Tensor, "item view"]
    ) -> EpisodeGrams:
        support = self._support()
        n_support, n_query = len(self.tensors["labels"]), len(next(iter(queries.values())))
        each = torch.arange(n_support + n_query, device=self.tensors["labels"].device).unsqueeze(0)
        items = PlacedItems(
            tuple(torch.cat([support[name], queries[name]]) for name in support),
            _encoders(self.views),
            each[:, :n_support],
            each[:, n_support:],
            torch.cat([self.tensors["came_with"], came_with]),
        )
        return EpisodeGrams(
            support=torch.stack([support[name] @ support[name].T for name in support]).unsqueeze(0),
            cross=torch.stack([queries[name] @ support[name].T for name in support]).unsqueeze(0),
            support_presence=has_view(support).T.unsqueeze(0),
            query_presence=has_view(queries).T.unsqueeze(0),
            membership=one_hot(self.tensors["labels"], len(self.classes)).unsqueeze(0),
            items=items,
        )


def _encoders(views: tuple[ViewSpec, ...]) -> tuple[str | None, ...]:
    return tuple(None if view.is_of_one_source else view.encoder_id for view in views)


def positions_in_class(labels: Int[Tensor, " item"]) -> Int[Tensor, " item"]:
    """Return how many items before each have its label."""
    order = labels.argsort(stable=True)
    of_sorted = torch.arange(len(labels), device=labels.device) - torch.searchsorted(labels[order], labels[order])
    return torch.empty_like(labels).index_copy(0, order, of_sorted)


def fit_model(learner: FusedLearner, domain: DomainData, support: Int[Tensor, " support"]) -> FusedModel:
    """Place the support and keep what is needed to place further items the same way."""
    labels = domain.labels[support]
    shot = shots_of(one_hot(labels, len(domain.classes)))
    placed = learner.placed(domain, support, shot)
    tensors = {
        "shot": shot,
        "labels": labels,
        "came_with": domain.presence[support],
        **{f"mean/{name}": mean for name, mean in domain.means.items()},
        **{f"pool/{name}": items.half() for name, items in domain.pool.masked(domain.in_pool).items()},
        **{f"support/{name}": items for name, items in placed.items()},
    }
    pool_ids = tuple(domain.item_ids[row] for row in domain.pool_rows.tolist())
    return FusedModel(learner, domain.views, domain.classes, tensors, pool_ids)
