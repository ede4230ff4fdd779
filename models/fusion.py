"""How much each view counts, decided per domain from the support set itself."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from data_contracts.names import MODALITIES
from models.features import ViewSpec
from models.grams import EpisodeGrams
from models.metrics import STANDARD_ERRORS
from models.separation import held_out_standing, separability

LOWEST_STANDING = 0.1
"""Standard deviations over classes: where no view's items stand higher, none tells classes apart."""


def modality_numbers(views: tuple[ViewSpec, ...]) -> Int[Tensor, " view"]:
    """Return each view's position among the known modalities."""
    return torch.tensor([MODALITIES.index(view.modality) for view in views])


class ViewWeights(nn.Module):
    """Weigh views by what their modality was worth in training and by how well they separate this support set.

    Weights are a softmax over views of their trust, `bias[modality] + evidence · statistics`; both start at zero, which
    is equal weights. No parameter belongs to a named view.

    A modality that training has not met has the smallest bias of those that it has, and its views share what one would
    have. Labels can raise it: where left-out support items stand in their own class by a new view, less 1.96 standard
    errors, is divided by where they stand by the best view, and by that part the trust of the new view comes nearer to
    that of the most trusted view of a known modality.
    """

    is_met: Bool[Tensor, " modality"]

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(len(MODALITIES)))
        self.evidence = nn.Parameter(torch.zeros(3))
        self.register_buffer("is_met", torch.zeros(len(MODALITIES), dtype=torch.bool))

    def meet(self, modalities: Int[Tensor, " view"]) -> None:
        """Count modalities among those that training has met."""
        self.is_met[modalities] = True

    def prior(self, modalities: Int[Tensor, " view"], is_there: Bool[Tensor, " view"]) -> Float[Tensor, " view"]:
        """Return weights before any support set is seen; `is_there` says which views any item has."""
        shared = torch.where(self._is_known(modalities), 0.0, log_sharers(modalities, is_there))
        return (self._bias(modalities) - shared).softmax(-1)

    def forward(self, grams: EpisodeGrams, modalities: Int[Tensor, " view"]) -> Float[Tensor, "batch view"]:
        """Return weights per episode; they sum to 1 over the views, and a view that no support item has gets none."""
        statistics = separability(grams)
        is_there = statistics[..., -1] > 0
        trust, is_known = self._bias(modalities) + statistics @ self.evidence, self._is_known(modalities)
        if not is_known.all():
            shown = self._shown(grams, trust, is_known & is_there) - log_sharers(modalities, is_there)
            trust = torch.where(is_known, trust, shown)
        is_absent = ~is_there & is_there.any(-1, keepdim=True)
        return trust.masked_fill(is_absent, -torch.inf).softmax(-1)

    def _bias(self, modalities: Int[Tensor, " view"]) -> Float[Tensor, " view"]:
        least = self.bias.masked_fill(~self.is_met, torch.inf).min()
        return torch.where(self._is_known(modalities), self.bias[modalities], least)

    def _is_known(self, modalities: Int[Tensor, " view"]) -> Bool[Tensor, " view"]:
        """Say which views are of a modality that training has met; before it has met any, all are alike."""
        return (self.is_met | ~self.is_met.any())[modalities]

    def _shown(
        self, grams: EpisodeGrams, trust: Float[Tensor, "batch view"], is_known: Bool[Tensor, "batch view"]
    ) -> Float[Tensor, "batch view"]:
        """Return the trust that views earn by the support, on the way to that of the most trusted known view.

        Where none of the known views is there, they are on the way from the smallest to the largest bias.
        """
        with torch.no_grad():
            standing, error = held_out_standing(grams)
            highest = standing.amax(-1, keepdim=True).clamp(min=LOWEST_STANDING)
            part = ((standing - STANDARD_ERRORS * error) / highest).clamp(0, 1)
        biases = self.bias[self.is_met]
        most = torch.where(is_known, trust, -torch.inf).amax(-1, keepdim=True)
        way = torch.where(is_known.any(-1, keepdim=True), most - trust, biases.max() - biases.min())
        return trust + part * way.clamp(min=0)


def log_sharers(
    modalities: Int[Tensor, " view"], is_there: Bool[Tensor, "*batch view"]
) -> Float[Tensor, "*batch view"]:
    """Return the logarithm of the number of views of the same modality that are there."""
    is_same = (modalities.unsqueeze(0) == modalities.unsqueeze(1)).to(is_there.device).float()
    return (is_there.float() @ is_same).clamp(min=1).log()
