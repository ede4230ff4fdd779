"""How much each view counts, decided per domain from the support set itself."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from data_contracts.names import MODALITIES
from models.features import ViewSpec
from models.grams import EpisodeGrams
from models.separation import held_out_standings, separability

CONFIDENCE = 1.96
"""Standard errors that a lead has to exceed."""

SMALLEST_LEAD = 0.1
"""Of the most trusted view over the least trusted, in standard deviations over classes: below it they are alike."""


def modality_numbers(views: tuple[ViewSpec, ...]) -> Int[Tensor, " view"]:
    """Return each view's position among the known modalities."""
    return torch.tensor([MODALITIES.index(view.modality) for view in views])


class ViewWeights(nn.Module):
    """Weigh views by what their modality was worth in training and by how well they separate this support set.

    Weights are a softmax over views of their trust, `bias[modality] + evidence · statistics`; both start at zero, which
    is equal weights. No parameter belongs to a named view, so views never met in training are weighed like any other.

    A modality that training has not met is trusted like the least trusted of those that it has, until labels show more:
    where support items, left out, stand higher in their class by its view than by the least trusted one, beyond chance,
    it comes as near to the most trusted view of the episode as they do. Its views have one vote between them.
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

    def prior(self, modalities: Int[Tensor, " view"]) -> Float[Tensor, " view"]:
        """Return weights before any support set is seen."""
        trust, is_known = self.bias[modalities], self._is_known(modalities)
        if not is_known.all():
            trust = torch.where(is_known, trust, self._least()) - self._log_sharers(modalities)
        return trust.softmax(-1)

    def forward(self, grams: EpisodeGrams, modalities: Int[Tensor, " view"]) -> Float[Tensor, "batch view"]:
        """Return weights per episode; they sum to 1 over the views, and a view that no support item has gets none."""
        statistics = separability(grams)
        is_there = statistics[..., -1] > 0
        trust, is_known = self.bias[modalities] + statistics @ self.evidence, self._is_known(modalities)
        if not is_known.all():
            shown = self._trust_shown(grams, trust, is_known & is_there)
            trust = torch.where(is_known, trust, shown) - self._log_sharers(modalities)
        is_absent = ~is_there & is_there.any(-1, keepdim=True)
        return trust.masked_fill(is_absent, -torch.inf).softmax(-1)

    def _trust_shown(
        self, grams: EpisodeGrams, trust: Float[Tensor, "batch view"], is_known: Bool[Tensor, "batch view"]
    ) -> Float[Tensor, "batch view"]:
        """Return the trust that views deserve by what they do with the support, beside those with a known trust."""
        least = self._least()
        most, of_most = torch.where(is_known, trust, least).max(-1, keepdim=True)
        of_least = trust.masked_fill(~is_known, torch.inf).argmin(-1)
        with torch.no_grad():
            lead, error = held_out_standings(grams).lead(of_least)
            whole = lead.gather(1, of_most).clamp(min=SMALLEST_LEAD)
            part = ((lead - CONFIDENCE * error) / whole).clamp(0, 1)
        return least + part * (most - least)

    def _is_known(self, modalities: Int[Tensor, " view"]) -> Bool[Tensor, " view"]:
        """Say which views are of a modality that training has met; before it has met any, all are alike."""
        return (self.is_met | ~self.is_met.any())[modalities]

    def _least(self) -> Float[Tensor, ""]:
        """Return the trust in the least trusted modality of those met."""
        return self.bias.masked_fill(~self.is_met, torch.inf).min()

    def _log_sharers(self, modalities: Int[Tensor, " view"]) -> Float[Tensor, " view"]:
        """Return the logarithm of the number of views that share a vote: those of one modality that is not met."""
        alike = (modalities.unsqueeze(0) == modalities.unsqueeze(1)).sum(0).to(self.is_met.device)
        return torch.where(self.is_met[modalities], 1, alike).log()
