"""Classes seen from the mean of their prototypes, and scores that favour no class about which nothing is known."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from models.episodes import mean_shares
from models.grams import EpisodeGrams
from models.strength import MOST_SHOTS


def present_members(grams: EpisodeGrams) -> Float[Tensor, "batch support way"]:
    """Return the membership of support items that have any view."""
    return grams.membership * grams.support_presence.any(1).unsqueeze(-1)


def known_classes(grams: EpisodeGrams) -> Bool[Tensor, "batch way"]:
    """Say which classes have a support item with any view."""
    return present_members(grams).any(1)


def prototype_shares(grams: EpisodeGrams) -> Float[Tensor, "batch support way"]:
    """Return the share of each support item in the prototype of each class."""
    return mean_shares(present_members(grams))


def mean_of_known(
    classes: Float[Tensor, "batch way number"], is_known: Bool[Tensor, "batch way"]
) -> Float[Tensor, "batch 1 number"]:
    """Return the mean over known classes."""
    known = is_known.unsqueeze(-1).to(classes)
    return (known * classes).sum(1, keepdim=True) / known.sum(1, keepdim=True).clamp(min=1)


def rivals(is_known: Bool[Tensor, "batch way"]) -> Bool[Tensor, "batch way way"]:
    """Say for each class which others are known."""
    return is_known.unsqueeze(1) & ~torch.eye(is_known.shape[1], dtype=torch.bool, device=is_known.device)


def log_shots(counts: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the logarithm of numbers of labels, which stays within what training has seen."""
    return counts.clamp(1.0, MOST_SHOTS).log()


def about_prototypes(
    grams: EpisodeGrams, weights: Float[Tensor, "batch view"]
) -> tuple[Float[Tensor, "batch support support"], Float[Tensor, "batch query support"]]:
    """Return the fused inner products with the origin at the mean of all prototypes; zero for absent support items."""
    gram, cross = grams.fused(weights)
    share = mean_of_known(prototype_shares(grams).mT, known_classes(grams)).mT
    to_origin = gram @ share  # [batch, support, 1]
    square = share.mT @ to_origin
    is_present = present_members(grams).sum(-1, keepdim=True)
    return (
        (gram - to_origin - to_origin.mT + square) * is_present * is_present.mT,
        (cross - cross @ share - to_origin.mT + square) * is_present.mT,
    )


def impartial(
    scores: Float[Tensor, "batch query way"], grams: EpisodeGrams, weights: Float[Tensor, "batch view"]
) -> Float[Tensor, "batch query way"]:
    """Return scores about their mean; zero for classes without support and for queries without a view that counts."""
    is_known = known_classes(grams)
    is_seen = (weights.unsqueeze(-1) * grams.query_presence).sum(1) > 0
    offset = scores - mean_of_known(scores.mT, is_known).mT
    return offset * is_known.unsqueeze(1) * is_seen.unsqueeze(-1)
