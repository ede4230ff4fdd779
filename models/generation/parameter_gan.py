"""A GAN over parameters: Goodfellow et al., 2014, https://arxiv.org/abs/1406.2661, eq. 1, on heads in place of data.

`θ = G(z, support; φ)` is a linear head made from a few labels. `D(θ; ψ)` tells it from the head that plenty of labels
give: ridge regression on all labelled items that the training domain has of the episode's classes (of a class of more
than 100, on so many beside those of the episodes). The outer loop minimises the cross-entropy of the queries and plays

    min_φ max_ψ  E[log D(θ_real; ψ)] + E[log(1 - D(G(z, support; φ); ψ))]

by one descent: the gradient that reaches φ through D is reversed (Ganin and Lempitsky, 2015,
https://arxiv.org/abs/1409.7495). D's maps have spectral norm 1 (Miyato et al., 2018, https://arxiv.org/abs/1802.05957);
what it reads is bounded, hence the game is.

Departures: heads are coefficients of items, and G and D see inner products alone, so any view and dimension will do: D
reads how the unit weight vector of a class answers the prototypes, its own and its rivals'. Noise reaches G as the
inner products of `z ~ N(0, 1)` with the support items. Singular values are exact, so that D keeps no state. θ corrects
nearest centroid with a strength that starts at zero and is bounded as the hypernetwork's is; the sample of z is fixed,
its answers are averaged, and their disagreement is the uncertainty. By it the mean is less sure than the heads are on
average, so abstention heeds it already; `FusedModel.uncertainty` tells it alone, and `score` writes it down. The items
whose products with the noise are taken are those of the common space: where all views have encoders of one source, as
tables have, there are none, so that the samples are all the same.

What the game holds in memory is bounded by the labelled items of the classes that a batch of episodes has
(`FusedLearner.plenty`), without gradient, and one episode's share of them. A head of plenty takes time in proportion to
the items of its classes: where they are more than the common space has dimensions, ridge regression is solved in it.
"""

import math
from functools import partial
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, linear, normalize, softplus

from models.common_space import COMMON_DIM
from models.generation.classes import (
    about_prototypes,
    impartial,
    known_classes,
    log_shots,
    mean_of_known,
    prototype_shares,
    rivals,
)
from models.generation.hypernetwork import LARGEST_STRENGTH, HeadGenerator
from models.grams import EpisodeGrams, LabelledItems
from models.nearest import NearestCentroid
from models.strength import ByShot, bounded

SAMPLES = 8
HIDDEN = 32
SLOPE = 0.2
"""Of leaky rectified units, for negative inputs."""
STEEPNESS = 5.0
"""Largest change of the log-odds by a change of what D reads."""
RIDGE = 1.0
"""Penalty of the head fitted on plenty of labels; items have about length 1."""


class ParameterGanHead(nn.Module):
    """Answer with the mean of an ensemble of generated heads, each of which corrects nearest centroid."""

    z: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.nearest = NearestCentroid()
        self.generator = HeadGenerator(noise=1)
        self.discriminator = Discriminator()
        self.strength = ByShot()
        self.register_buffer("z", torch.randn(COMMON_DIM, SAMPLES, generator=torch.Generator().manual_seed(0)))

    def forward(self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"]) -> Float[Tensor, "batch query way"]:
        """Return log-probabilities of the queries, averaged over the ensemble."""
        return average(self.ensemble(grams, weights))

    def uncertainty(self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"]) -> Float[Tensor, "batch query"]:
        """Return how far the heads disagree on each query, in nats: 0 if all say the same, at most log(way).

        It is the mutual information of answer and head (Houlsby et al., 2011, https://arxiv.org/abs/1112.5745).
        """
        answers = self.ensemble(grams, weights)
        return (answers.exp() * (answers - average(answers))).sum(-1).mean(0).clamp(min=0)

    def ensemble(
        self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"]
    ) -> Float[Tensor, "sample batch query way"]:
        """Return the log-probabilities that each generated head gives."""
        gram, cross = about_prototypes(grams, weights)
        strength = self.nearest.scale(grams) * bounded(self.strength(grams.shots), LARGEST_STRENGTH).unsqueeze(-1)
        heads = self.heads(gram, grams, grams.items.common(weights)[0])
        scores = [impartial(cross @ head + bias.unsqueeze(1), grams, weights) for head, bias in heads]
        answers: Tensor = (self.nearest(grams, weights) + strength * torch.stack(scores)).log_softmax(-1)
        return answers

    def heads(
        self,
        gram: Float[Tensor, "batch support support"],
        grams: EpisodeGrams,
        support: Float[Tensor, "batch support common"],
    ) -> list[tuple[Float[Tensor, "batch support way"], Float[Tensor, "batch way"]]]:
        """Return G(z, support) for every z: coefficients of the support items, and biases."""
        noise = support @ self.z
        return [self.generator(gram, grams, one.unsqueeze(-1)) for one in noise.unbind(-1)]

    def game(
        self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"], plenty: LabelledItems
    ) -> Float[Tensor, ""]:
        """Return minus the value of the game; its gradient teaches D and, reversed, G, and moves no item."""
        gram = about_prototypes(grams, weights)[0].detach()
        support = grams.items.common(weights)[0].detach()
        is_known, share = known_classes(grams), prototype_shares(grams)
        prototypes = share.mT @ support
        origin = mean_of_known(prototypes, is_known)
        real = torch.stack([ridge_head(*own) for own in plenty.by_episode(weights.detach())])
        heads = [head.mT @ (support - origin) for head, _ in self.heads(gram, grams, support)]
        generated = reverse_gradient(torch.stack(heads))
        judge = partial(self.discriminator, prototypes=prototypes - origin, is_known=is_known, shots=grams.shots)
        return (softplus(-judge(real)) + softplus(judge(generated)).mean(0))[is_known].mean()


class Discriminator(nn.Module):
    """D: the log-odds that the weight vector of a class came from plenty of labels."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (5, HIDDEN, HIDDEN, 1)
        self.layers = nn.ModuleList(nn.Linear(before, after, bias=False) for before, after in pairwise(sizes))

    def forward(
        self,
        heads: Float[Tensor, "*sample batch way common"],
        prototypes: Float[Tensor, "batch way common"],
        is_known: Bool[Tensor, "batch way"],
        shots: Float[Tensor, " batch"],
    ) -> Float[Tensor, "*sample batch way"]:
        """Read each weight vector's cosines to the prototype it was made for and to the others."""
        cosines = normalize(heads, dim=-1) @ normalize(prototypes, dim=-1).mT
        is_rival = rivals(is_known)
        own = cosines.diagonal(dim1=-2, dim2=-1)
        closest = cosines.masked_fill(~is_rival, -1.0).amax(-1)
        mean = (cosines * is_rival).sum(-1) / is_rival.sum(-1).clamp(min=1)
        shot = log_shots(shots).unsqueeze(-1).expand_as(own)
        read = torch.stack([own, closest, mean, shot, torch.ones_like(own)], dim=-1)
        first, second, last = self.layers
        hidden = leaky_relu(contraction(second, leaky_relu(contraction(first, read), SLOPE)), SLOPE)
        log_odds: Tensor = STEEPNESS * contraction(last, hidden).squeeze(-1)
        return log_odds


def contraction(layer: nn.Module, items: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch out"]:
    """Apply a linear map scaled to spectral norm 1."""
    assert isinstance(layer, nn.Linear)
    return linear(items, layer.weight / torch.linalg.matrix_norm(layer.weight, ord=2))


def reverse_gradient(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the values as they are; their gradient changes its sign."""
    return 2 * values.detach() - values


def ridge_head(items: Float[Tensor, "item common"], members: Float[Tensor, "item way"]) -> Float[Tensor, "way common"]:
    """Fit a linear head with a free intercept to one-hot labels by ridge regression; returns its weight vectors.

    It is solved for coefficients of the items or for the weights themselves, whichever are fewer.
    """
    items, targets = items - items.mean(0), members - members.mean(0)
    is_dual = items.shape[0] < items.shape[1]
    gram = items @ items.T if is_dual else items.T @ items
    penalised = gram + RIDGE * torch.eye(len(gram), device=gram.device)
    head: Tensor = torch.linalg.solve(penalised, targets if is_dual else items.T @ targets).T
    return head @ items if is_dual else head


def average(answers: Float[Tensor, "sample batch query way"]) -> Float[Tensor, "batch query way"]:
    """Return the logarithm of the mean probability."""
    return answers.logsumexp(0) - math.log(len(answers))
