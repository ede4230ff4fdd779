"""Fused prototypical networks: Snell et al., 2017, https://arxiv.org/abs/1703.05175.

Departures from the paper: embeddings are frozen, several views are fused with weights that depend on the support set,
items are centred by their domain, whitened within classes and averaged with their unlabelled neighbours before
prototypes are taken, and prototypes are fine-tuned by a few gradient steps. Each departure has a learned strength that
starts at zero, so the untrained learner is nearest centroid. The strengths may depend on the shot.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from data_contracts.names import MODALITIES
from models.episodes import EpisodeBatch, one_hot
from models.features import DomainData, ViewSpec
from models.fusion import ViewWeights, modality_numbers
from models.geometry import WithinClassBasis, centre, centred_views, find_neighbours, fit_bases
from models.grams import EpisodeGrams, distinct_rows, gather_grams, squared_distances

FINE_TUNING_STEPS = 10
POOL_SIZE = 2048


class ByShot(nn.Module):
    """A strength that is linear in the logarithm of the shot."""

    def __init__(self, count: int = 1, *, start: float = 0.0) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.full((count,), start))
        self.slope = nn.Parameter(torch.zeros(count))

    def forward(self, shot: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch count"]:
        """Return the strengths at the given shot."""
        strength: Tensor = self.level + self.slope * shot.log().unsqueeze(-1)
        return strength


class PrototypicalLearner(nn.Module):
    """Prior over domains for nearest-prototype classification from a handful of labels."""

    kind: ClassVar[str] = "metric"

    def __init__(self) -> None:
        super().__init__()
        self.view_weights = ViewWeights()
        self.whitening = ByShot(len(MODALITIES))
        self.smoothing = ByShot()
        self.fine_tuning = ByShot()
        self.log_temperature = ByShot(start=2.0)
        self.bases: dict[str, WithinClassBasis] = {}

    def fit_statistics(self, domains: Sequence[DomainData], classes: tuple[str, ...]) -> None:
        """Fit what needs no gradient: the within-class scatter of each shared encoder over `classes`."""
        self.bases = fit_bases(domains, classes)

    def meta_loss(self, episodes: EpisodeBatch) -> Float[Tensor, ""]:
        """Return the cross-entropy of queries under the prototypes of their episode."""
        return cross_entropy(
            self.log_probabilities(episodes).flatten(0, 1), episodes.query_labels.flatten(), ignore_index=-1
        )

    def log_probabilities(self, episodes: EpisodeBatch) -> Float[Tensor, "batch query way"]:
        """Adapt to each episode's support and return log-probabilities of its queries.

        Strengths that act before prototypes are taken follow the mean shot of the batch.
        """
        rows, support, query = distinct_rows(episodes)
        shot = episodes.membership.sum((1, 2)).mean() / episodes.n_way
        views = self.represent(episodes.domain, rows, shot)
        grams = gather_grams(views, _has_view(views), support, query, episodes.membership)
        return self.classify(grams, modality_numbers(episodes.domain.views)).log_softmax(-1)

    def represent(
        self, domain: DomainData, rows: Int[Tensor, " row"], shot: Float[Tensor, ""]
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Return the views of the given rows: centred, whitened, averaged with their neighbours in the domain."""
        pool_rows = pool_of(domain)
        return self.place(
            domain.views,
            centred_views(domain, rows),
            centred_views(domain, pool_rows),
            rows[:, None] == pool_rows,
            shot,
        )

    def place(
        self,
        specs: tuple[ViewSpec, ...],
        rows: Mapping[str, Float[Tensor, "row _"]],
        pool: Mapping[str, Float[Tensor, "pool _"]],
        is_same: Bool[Tensor, "row pool"],
        shot: Float[Tensor, ""],
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Whiten centred rows and average them with their neighbours in a pool; a missing view is filled from these."""
        numbers = modality_numbers(specs)
        weights = dict(zip(rows, self.view_weights.prior(numbers).tolist(), strict=True))
        with torch.no_grad():
            neighbours = find_neighbours(rows, pool, weights, is_same)
        strength = self.smoothing(shot).squeeze(-1)
        powers = self.whitening(shot)[numbers]
        placed = {}
        for spec, power in zip(specs, powers, strict=True):
            own, others = rows[spec.name], pool[spec.name]
            if spec.encoder_id in self.bases:
                basis = self.bases[spec.encoder_id]
                own, others = basis.whiten(own, power), basis.whiten(others, power)
            placed[spec.name] = normalize(own + strength * neighbours.average(others), dim=-1)
        return placed

    def classify(self, grams: EpisodeGrams, modalities: Int[Tensor, " view"]) -> Float[Tensor, "batch query way"]:
        """Return logits of queries: fused distances to prototypes, corrected by fine-tuning on the support."""
        weights = self.view_weights(grams, modalities)
        scale = self.log_temperature(grams.shots).exp().unsqueeze(-1)
        correction = self.fine_tune(grams, weights, scale)
        logits: Tensor = scale * nearness(grams, weights) + grams.fused(weights)[1] @ correction
        return logits

    def fine_tune(
        self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"], scale: Float[Tensor, "batch 1 1"]
    ) -> Float[Tensor, "batch support way"]:
        """Descend the support's cross-entropy from the prototypes; returns the steps as weights on support items."""
        own = support_as_queries(grams)
        gram = grams.fused(weights)[0]
        start = scale * nearness(own, weights)
        rate = self.fine_tuning(grams.shots).unsqueeze(-1)
        is_real = grams.membership.sum(-1, keepdim=True)
        correction = torch.zeros_like(grams.membership)
        for _ in range(FINE_TUNING_STEPS):
            residual = grams.membership - is_real * (start + gram @ correction).softmax(-1)
            correction = correction + rate * residual
        return correction

    def adapt(self, domain: DomainData, support: Int[Tensor, " support"]) -> "PrototypicalModel":
        """Adapt to one domain from its labelled rows `support`."""
        with torch.no_grad():
            return PrototypicalModel.fit(self, domain, support)

    def config(self) -> dict[str, Any]:
        """Return what rebuilds the learner."""
        return {"kind": self.kind}

    def weights(self) -> dict[str, Tensor]:
        """Return parameters and bases by name."""
        bases = {
            f"bases/{encoder_id}/{part}": getattr(basis, part)
            for encoder_id, basis in self.bases.items()
            for part in ("directions", "ratios")
        }
        return {**{name: value.detach() for name, value in self.named_parameters()}, **bases}

    @classmethod
    def load(cls, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> "PrototypicalLearner":
        """Rebuild a learner from what `config` and `weights` gave."""
        learner = cls()
        named = dict(learner.named_parameters())
        learner.load_state_dict({name: weights[name] for name in named})
        encoders = {name.split("/", 1)[1].rpartition("/")[0] for name in weights if name.startswith("bases/")}
        learner.bases = {
            encoder_id: WithinClassBasis(
                weights[f"bases/{encoder_id}/directions"], weights[f"bases/{encoder_id}/ratios"]
            )
            for encoder_id in sorted(encoders)
        }
        return learner


class PrototypicalModel:
    """One domain's prototypes, with the few numbers of the prior and the unlabelled pool that place its items."""

    kind: ClassVar[str] = "metric"

    def __init__(
        self,
        learner: PrototypicalLearner,
        views: tuple[ViewSpec, ...],
        classes: tuple[str, ...],
        tensors: Mapping[str, Tensor],
        pool_ids: tuple[str, ...],
    ) -> None:
        self.learner = learner
        self.views = views
        self.classes = classes
        self.tensors = dict(tensors)
        self.pool_ids = pool_ids

    @classmethod
    def fit(
        cls, learner: PrototypicalLearner, domain: DomainData, support: Int[Tensor, " support"]
    ) -> "PrototypicalModel":
        """Place the support and keep what is needed to place further items the same way."""
        labels = domain.labels[support]
        shot = torch.bincount(labels, minlength=len(domain.classes)).float().mean()
        pool = centred_views(domain, pool_of(domain))
        placed = learner.represent(domain, support, shot)
        tensors = {
            "shot": shot,
            "labels": labels,
            **{f"mean/{name}": mean for name, mean in domain.means.items()},
            **{f"pool/{name}": items.half() for name, items in pool.items()},
            **{f"support/{name}": items for name, items in placed.items()},
        }
        pool_ids = tuple(domain.item_ids[row] for row in pool_of(domain).tolist())
        return cls(learner, domain.views, domain.classes, tensors, pool_ids)

    @property
    def view_weights(self) -> dict[str, float]:
        """Share of the decision that each view carries; shares sum to 1."""
        with torch.no_grad():
            weights = self.learner.view_weights(self._grams(self._support()), modality_numbers(self.views))
        return dict(zip((view.name for view in self.views), weights[0].tolist(), strict=True))

    def predict(self, data: DomainData) -> Float[Tensor, "item way"]:
        """Return calibrated class probabilities; an item without any view gets the uniform row."""
        with torch.no_grad():
            grams = self._grams(self._place(data))
            return self.learner.classify(grams, modality_numbers(self.views))[0].softmax(-1)

    def embed(self, data: DomainData) -> Float[Tensor, "item dim"]:
        """Return items in the fused space, where squared distance is what the model decides by."""
        shares = self.view_weights
        with torch.no_grad():
            return torch.cat([shares[name] ** 0.5 * items for name, items in self._place(data).items()], dim=-1)

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
    def load(cls, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> "PrototypicalModel":
        """Rebuild a model from what `config` and `weights` gave."""
        prior = {name.removeprefix("prior/"): value for name, value in weights.items() if name.startswith("prior/")}
        own = {name: value for name, value in weights.items() if not name.startswith("prior/")}
        views = tuple(ViewSpec(**view) for view in config["views"])
        learner = PrototypicalLearner.load({}, prior)
        return cls(learner, views, tuple(config["classes"]), own, tuple(config["pool_ids"]))

    def _support(self) -> dict[str, Float[Tensor, "support _"]]:
        return {view.name: self.tensors[f"support/{view.name}"] for view in self.views}

    def _place(self, data: DomainData) -> dict[str, Float[Tensor, "item _"]]:
        found = {view.name: number for number, view in enumerate(data.views)}
        rows = {}
        for view in self.views:
            if view.name in found:
                is_present = data.presence[:, found[view.name]]
                rows[view.name] = centre(data.features[view.name], self.tensors[f"mean/{view.name}"], is_present)
            else:
                rows[view.name] = torch.zeros(len(data), view.dim)
        pool = {view.name: self.tensors[f"pool/{view.name}"].float() for view in self.views}
        position = {item_id: number for number, item_id in enumerate(self.pool_ids)}
        own = torch.tensor([position.get(item_id, -1) for item_id in data.item_ids])
        is_same = own[:, None] == torch.arange(len(self.pool_ids))
        return self.learner.place(self.views, rows, pool, is_same, self.tensors["shot"])

    def _grams(self, queries: Mapping[str, Float[Tensor, "item _"]]) -> EpisodeGrams:
        support = self._support()
        return EpisodeGrams(
            support=torch.stack([support[name] @ support[name].T for name in support]).unsqueeze(0),
            cross=torch.stack([queries[name] @ support[name].T for name in support]).unsqueeze(0),
            support_presence=_has_view(support).T.unsqueeze(0),
            query_presence=_has_view(queries).T.unsqueeze(0),
            membership=one_hot(self.tensors["labels"], len(self.classes)).unsqueeze(0),
        )


def nearness(grams: EpisodeGrams, weights: Float[Tensor, "batch view"]) -> Float[Tensor, "batch query way"]:
    """Return minus the weighted mean squared distance to each prototype, over the views a query has."""
    shares = weights.unsqueeze(-1) * grams.query_presence
    shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-6)
    return -torch.einsum("bvq,bvqw->bqw", shares, squared_distances(grams))


def support_as_queries(grams: EpisodeGrams) -> EpisodeGrams:
    """Return the same episodes with the support in the place of the queries."""
    return replace(grams, cross=grams.support, query_presence=grams.support_presence)


def pool_of(domain: DomainData) -> Int[Tensor, " pool"]:
    """Return the rows that serve as unlabelled neighbours: all, or an evenly spaced `POOL_SIZE` of them."""
    if len(domain) <= POOL_SIZE:
        return torch.arange(len(domain))
    return torch.linspace(0, len(domain) - 1, POOL_SIZE).long()


def _has_view(views: Mapping[str, Float[Tensor, "row _"]]) -> Bool[Tensor, "row view"]:
    return torch.stack([items.square().sum(-1) > 0.5 for items in views.values()], dim=-1)
