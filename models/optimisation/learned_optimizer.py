"""A learned optimiser: Andrychowicz et al., 2016, https://arxiv.org/abs/1606.04474; Ravi and Larochelle, 2017.

A recurrent network, the same for every coordinate, reads the gradient of the support's loss and writes the update:
`θ_{t+1} = θ_t + g_t` with `(g_t, h_{t+1}) = m(∇_t, h_t; φ)` (eq. 2 of the first paper). What it optimises is a linear
head on frozen features in dual form: `logits = nearest centroid + K A` with `K` the Gram matrix and one coefficient in
`A` for each support item and class, so neither dimensions nor views nor the number of classes are built in. The
negative gradient with respect to the weights is `Xᵀ (membership - softmax)`: its dual coordinates are the residuals.

- Inputs are log-magnitude and sign (appendix A) of the residual and, as in the second paper, of the item's loss;
  besides, the coefficient as it is. No derivatives are taken through the inputs, as in the first paper.
- Backpropagation is truncated: coefficients and state are detached every `SEGMENT` steps, and the outer loss is the
  mean over the queries' losses at the ends of the segments, each of which reaches back through its own segment alone.
- At every step the gradient that flows back is clipped for each episode; the outer loop clips its sum again.

Departures: a GRU takes the place of the LSTM; what it writes is added to the residual and its output starts at zero;
the sum is scaled by a strength that follows the shot and starts at zero, relative to the largest stable rate. So the
untrained head is nearest centroid, and with a strength but an untrained network it is gradient descent. The support's
own prototypes are what it starts from; prototypes that an item has no part in, as `maml` has them, did no better.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.grams import EpisodeGrams
from models.nearest import NearestCentroid, support_as_queries
from models.strength import ByShot
from models.temperature import decision_loss

HIDDEN = 16
STEPS = 8
SEGMENT = 4
LARGEST_GRADIENT = 1.0
"""Norm, for the loss of one episode, to which the gradient is clipped at every step."""

PRECISION = 5.0
"""Magnitudes below `exp(-PRECISION)` are told apart by size instead of logarithm: p of the first paper's appendix A.

The paper's 10 would magnify the rounding of residuals 22,000 times.
"""


class LearnedOptimizerHead(nn.Module):
    """Nearest centroid, corrected by a linear head that a learned optimiser fits to the support."""

    def __init__(self) -> None:
        super().__init__()
        self.nearest = NearestCentroid()
        self.strength = ByShot()
        self.update = UpdateRule()

    def forward(self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"]) -> Float[Tensor, "batch query way"]:
        """Return logits of the queries after the last step."""
        return self.unroll(grams, weights)[-1]

    def unroll(
        self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"]
    ) -> list[Float[Tensor, "batch query way"]]:
        """Return logits of the queries at the end of each segment."""
        gram, cross = grams.fused(weights)
        own, logits = self.nearest(support_as_queries(grams), weights), self.nearest(grams, weights)
        is_real = grams.is_real.unsqueeze(-1)
        rate = self.strength(grams.shots).unsqueeze(-1) * stable_rate(gram, is_real) * is_real
        coefficients = torch.zeros_like(grams.membership)
        state = coefficients.new_zeros(*coefficients.shape, HIDDEN)
        answers = []
        for _ in range(STEPS // SEGMENT):
            coefficients, state = coefficients.detach(), state.detach()
            for _ in range(SEGMENT):
                log_probabilities = (own + gram @ coefficients).log_softmax(-1)
                residual = grams.membership - log_probabilities.exp()
                loss = -(grams.membership * log_probabilities).sum(-1, keepdim=True)
                correction, state = self.update(residual, loss, coefficients, state)
                coefficients = clip_gradient(coefficients + rate * (residual + correction))
            answers.append(logits + cross @ coefficients)
        return answers


class UpdateRule(nn.Module):
    """What is added to the residual of one coordinate, given how it went so far; every coordinate is treated alike."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(5, HIDDEN)
        self.output = nn.Linear(HIDDEN, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self,
        residual: Float[Tensor, "batch support way"],
        loss: Float[Tensor, "batch support 1"],
        coefficients: Float[Tensor, "batch support way"],
        state: Float[Tensor, "batch support way hidden"],
    ) -> tuple[Float[Tensor, "batch support way"], Float[Tensor, "batch support way hidden"]]:
        """Return the correction, between -1 and 1, and the next state."""
        inputs = [log_and_sign(residual), log_and_sign(loss.expand_as(residual)), coefficients.unsqueeze(-1)]
        joined = torch.cat(inputs, dim=-1).detach()
        state = clip_gradient(self.cell(joined.flatten(0, 2), state.flatten(0, 2)).view_as(state))
        return self.output(state).squeeze(-1).tanh(), state


def unrolled_loss(
    head: nn.Module, grams: EpisodeGrams, weights: Float[Tensor, "batch view"], labels: Int[Tensor, "batch query"]
) -> Float[Tensor, ""]:
    """Return the cross-entropy of the queries, averaged over the ends of the segments."""
    assert isinstance(head, LearnedOptimizerHead)
    return torch.stack([decision_loss(logits, labels) for logits in head.unroll(grams, weights)]).mean()


def log_and_sign(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape 2"]:
    """Describe numbers of very different sizes by two near 1 in size (first paper, appendix A)."""
    size = values.abs().clamp(min=torch.finfo(values.dtype).tiny).log() / PRECISION
    large = torch.stack([size, values.sign()], dim=-1)
    small = torch.stack([-torch.ones_like(values), torch.tensor(PRECISION).exp() * values], dim=-1)
    return torch.where((size >= -1).unsqueeze(-1), large, small)


def stable_rate(
    gram: Float[Tensor, "batch support support"], is_real: Float[Tensor, "batch support 1"]
) -> Float[Tensor, "batch 1 1"]:
    """Return a step size at which gradient descent on the cross-entropy cannot diverge, from the row sums of `gram`."""
    return 2 / (1 + (is_real * (gram.abs() @ is_real)).amax(1, keepdim=True))


def clip_gradient(values: Float[Tensor, "batch support *rest"]) -> Float[Tensor, "batch support *rest"]:
    """Return `values`, through which no more than `LARGEST_GRADIENT` flows back for each episode of a mean loss."""
    if values.requires_grad:
        most = LARGEST_GRADIENT / len(values)
        values.register_hook(lambda gradient: gradient.renorm(2, 0, most))  # type: ignore[no-untyped-call]
    return values
