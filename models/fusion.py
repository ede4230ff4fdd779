"""How much each view counts, decided per domain from the support set itself."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from data_contracts.names import MODALITIES
from models.features import ViewSpec
from models.grams import EpisodeGrams


def modality_numbers(views: tuple[ViewSpec, ...]) -> Int[Tensor, " view"]:
    """Return each view's position among the known modalities."""
    return torch.tensor([MODALITIES.index(view.modality) for view in views])


class ViewWeights(nn.Module):
    """Weigh views by what their modality was worth in training and by how well they separate this support set.

    Weights are a softmax over views of `bias[modality] + evidence · statistics`; both start at zero, which is equal
    weights. No parameter belongs to a named view, so views never met in training are weighed like any other.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(len(MODALITIES)))
        self.evidence = nn.Parameter(torch.zeros(3))

    def prior(self, modalities: Int[Tensor, " view"]) -> Float[Tensor, " view"]:
        """Return weights before any support set is seen."""
        return self.bias[modalities].softmax(-1)

    def forward(self, grams: EpisodeGrams, modalities: Int[Tensor, " view"]) -> Float[Tensor, "batch view"]:
        """Return weights per episode; they sum to 1 over the views, and a view that no support item has gets none."""
        statistics = separability(grams)
        is_met = statistics[..., -1] > 0
        is_unmet = ~is_met & is_met.any(-1, keepdim=True)
        return (self.bias[modalities] + statistics @ self.evidence).masked_fill(is_unmet, -torch.inf).softmax(-1)


def separability(grams: EpisodeGrams) -> Float[Tensor, "batch view 3"]:
    """Describe how each view spreads the support set.

    The statistics are the mean similarity within classes less that between classes (0 at one shot, where no class has
    a pair), the mean similarity between classes, and the share of support items that have the view.
    """
    members = grams.membership.unsqueeze(1) * grams.support_presence.unsqueeze(-1)  # [batch, view, support, way]
    same = members @ members.mT
    both = members.sum(-1)
    pairs = both.unsqueeze(-1) * both.unsqueeze(-2)
    different = pairs - same
    same = same - torch.diag_embed(both)
    within = _masked_mean(grams.support, same)
    between = _masked_mean(grams.support, different)
    gap = torch.where(same.sum((-1, -2)) > 0, within - between, torch.zeros_like(within))
    items = grams.membership.sum((1, 2)).clamp(min=1).unsqueeze(-1)
    return torch.stack([gap, between, both.sum(-1) / items], dim=-1)


def _masked_mean(
    values: Float[Tensor, "batch view support support"], mask: Float[Tensor, "batch view support support"]
) -> Float[Tensor, "batch view"]:
    return (values * mask).sum((-1, -2)) / mask.sum((-1, -2)).clamp(min=1)
