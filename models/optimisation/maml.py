"""MAML, first-order MAML, ANIL and Meta-SGD as corrections to nearest centroid.

One head does all four. Every episode, a network on the fused items takes a few inner steps on the support, and what it
then puts out is added to the logits of nearest centroid:

- `maml` differentiates through the steps of all layers (Finn et al., 2017, https://arxiv.org/abs/1703.03400);
- `fomaml` takes the deltas for constants (section 5.2 of the same);
- `anil` moves the last layer alone (Raghu et al., 2020, https://arxiv.org/abs/1909.09157);
- `meta_sgd` learns a rate for each layer, step and hidden unit (Li et al., 2017, https://arxiv.org/abs/1707.09835).

Departures from the papers:

- The last layer starts every episode at zero and is not learned, so a class has no parameters, there may be any number
  of them, and naming them otherwise permutes the answers.
- Meta-SGD has a rate for each parameter. Here those of a unit share theirs: else the first layer's updates would be no
  sums over items, every episode would need a first layer of its own, and most of what is learned would be rates. The
  learner `meta_sgd_per_parameter` (`per_parameter.py`) pays that price.
- Rates are learned as strengths that follow the shot. They start at zero, where the head is nearest centroid, and are
  relative to the largest stable rate of their layer in that episode. Below zero they count as zero, and have the
  gradient that they would have there: otherwise one step in the wrong direction would end their training.
- The inner loss is that of the sum, the network being there to mend what nearest centroid gets wrong. For that, support
  items are compared with prototypes they have no part in; with their own they would all look right.
- The first layer's updates go by the fused Gram matrix, as if it were a layer on all views of their own dimension that
  starts as a layer on the common space.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.common_space import COMMON_DIM
from models.grams import EpisodeGrams
from models.nearest import NearestCentroid
from models.optimisation.inner_loop import Goal, InnerLoop, Layer, Projected, adapt_projected
from models.strength import ByShot, bounded

HIDDEN = (256, 64)
STEPS = 5
LARGEST_STRENGTH = 4.0


class MamlHead(nn.Module):
    """Nearest centroid, corrected by a network adapted to the support."""

    def __init__(self, loop: InnerLoop, *, has_own_rates: bool = False) -> None:
        """Build one; with `has_own_rates` steps and hidden units have rates of their own, not only layers."""
        super().__init__()
        self.loop = loop
        self.nearest = NearestCentroid()
        self.first, self.second = nn.Linear(COMMON_DIM, HIDDEN[0]), nn.Linear(*HIDDEN)
        for layer in (self.first, self.second):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")  # keeps the length of items of unit length
            nn.init.zeros_(layer.bias)
        self.n_rates = (STEPS if has_own_rates else 1, 1 if loop.is_head_only else len(HIDDEN) + 1)
        self.strengths = ByShot(math.prod(self.n_rates))
        self.unit_rates = nn.ParameterList(nn.Parameter(torch.zeros(count)) for count in HIDDEN if has_own_rates)

    def forward(self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"]) -> Float[Tensor, "batch query way"]:
        """Return logits of the queries; one without any view keeps those of nearest centroid."""
        goal = Goal(grams.membership, grams.is_real, self.nearest.held_out(grams, weights))
        correction = self.correct(grams, weights, goal) * grams.query_presence.any(1).unsqueeze(-1)
        logits: Tensor = self.nearest(grams, weights) + correction
        return logits

    def correct(
        self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"], goal: Goal
    ) -> Float[Tensor, "batch query way"]:
        """Return what the adapted network puts out for the queries."""
        items = self.project(grams, weights)
        deeper = [Layer(self.second.weight, self.second.bias), blank_layer(HIDDEN[-1], grams.membership)]
        return adapt_projected(deeper, items, goal, self.rates(grams, items), self.loop)

    def project(self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"]) -> Projected:
        """Show items to the first layer; rows that episodes share pass it once.

        Training draws a meta-batch from few classes: of 32 episodes a fifth of the rows are distinct, and a whole
        training step takes 7 % less for it. Of rows drawn from a large pool nearly all are, and nothing is gained.
        """
        support, query = grams.items.common(weights, self.first.weight)
        gram, cross = grams.fused(weights)
        return Projected(support + self.first.bias, query + self.first.bias, gram + 1, cross + 1)

    def rates(self, grams: EpisodeGrams, items: Projected) -> list[Float[Tensor, "batch step _"]]:
        """Return the rates of each layer that moves."""
        strength = bounded(self.strengths(grams.shots), LARGEST_STRENGTH)
        strength = strength + (strength.clamp(min=0) - strength).detach()
        stable = self.stable_rates(grams, items)[..., -self.n_rates[1] :]
        strength = strength.unflatten(-1, self.n_rates)  # type: ignore[no-untyped-call]
        rates = list((stable * strength).expand(-1, STEPS, -1).unsqueeze(-2).unbind(-1))
        for layer, own in enumerate(self.unit_rates):
            rates[layer] = rates[layer] * 2 * own.sigmoid()
        return rates

    @torch.no_grad()
    def stable_rates(self, grams: EpisodeGrams, items: Projected) -> Float[Tensor, "batch 1 layer"]:
        """Return for each layer a rate at which the loss cannot diverge, from the row sums of its inputs' Gram matrix.

        Layers above are taken to pass on what they get without making it larger.
        """
        share = Goal(grams.membership, grams.is_real).share()
        entered = items.support.relu()
        inputs = [items.gram]
        for hidden in (entered, self.second(entered).relu()):
            inputs.append(hidden @ hidden.mT + 1)
        lengths = [(grams.is_real * (gram.abs() @ share).squeeze(-1)).amax(1) for gram in inputs]
        return 2 / (1 + torch.stack(lengths, dim=-1)).unsqueeze(1)


def blank_layer(inputs: int, membership: Float[Tensor, "batch support way"]) -> Layer:
    """Return a last layer that answers nothing yet."""
    n_way = membership.shape[-1]
    return Layer(membership.new_zeros(n_way, inputs), membership.new_zeros(n_way))


def maml_head() -> MamlHead:
    """Return the head of `maml`."""
    return MamlHead(InnerLoop())


def fomaml_head() -> MamlHead:
    """Return the head of `fomaml`."""
    return MamlHead(InnerLoop(is_first_order=True))


def anil_head() -> MamlHead:
    """Return the head of `anil`."""
    return MamlHead(InnerLoop(is_head_only=True))


def meta_sgd_head() -> MamlHead:
    """Return the head of `meta_sgd`."""
    return MamlHead(InnerLoop(), has_own_rates=True)
