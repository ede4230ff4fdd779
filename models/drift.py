"""Have a domain's items changed since its model was adapted? Two-sample tests of each view, and facts that need none.

A view's recent items and the reference's are compared by the maximum mean discrepancy (Gretton et al., 2012,
https://jmlr.org/papers/v13/gretton12a.html): its unbiased estimate (eq. 3), a Gaussian kernel as wide as the median
distance, and random permutations for the level, which hold it for any number of items. They are taken from one Gram
matrix, many at a time. The share of items that have the view at all is compared by Fisher's exact test. All p-values of
a domain are corrected together by Holm's method (1979, https://www.jstor.org/stable/4615733), so that items that are
drawn as before raise a false alarm with the chance stated, whatever the number of views; each look is a chance anew.

Items are compared by direction, which is what models see of them. A table's encoder is fitted to the items of its day:
of a column with many rare values it knows those of the reference better than those of later items, which can look like
drift where the reference is small.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import fisher_exact
from torch import Tensor
from torch.nn.functional import normalize

from data_contracts.configs import DriftConfig
from data_contracts.reports import ViewDrift
from models.features import DomainData, ViewSpec

ROUNDING = 1e-5
"""Squared distances below this are those of equal items."""
TIE = 1e-6
"""Statistics that differ by less are equal but for rounding, which is common where items have few values."""
CHUNK = 500
"""Permutations that are tried at once."""
FINENESS = 10
"""The smallest p-value there can be, corrected, is the false-alarm rate divided by this."""


@dataclass(frozen=True)
class Drift:
    """How recent items differ from the reference; `findings` says each difference in words."""

    findings: tuple[str, ...]
    why: str
    views: dict[str, ViewDrift]


def find_drift(
    reference: DomainData, recent: DomainData, config: DriftConfig, *, other_changes: Sequence[str] = ()
) -> Drift:
    """Compare recent items with the reference; views that came, went or got another encoder need no test.

    `other_changes` are facts that the items do not show. Without enough items on both sides nothing is tested.
    """
    changes = (*changed_views(reference.views, recent.views), *other_changes)
    lacking = _lacking(len(reference), len(recent), config)
    if lacking:
        return Drift(changes, "; ".join((*changes, lacking)), {})
    views = compare_views(reference, recent, config)
    findings = (*changes, *_alarms(views, config.false_alarm_rate))
    compared = f"no drift: {len(recent)} recent items are like the {len(reference)} of the reference"
    return Drift(findings, "; ".join(findings) or compared, views)


def unseen(reference: DomainData, current: DomainData) -> Bool[Tensor, " item"]:
    """Say which current items are not in the reference, or not with the content they had there."""
    position = {item_id: row for row, item_id in enumerate(reference.item_ids)}
    rows = torch.tensor([position.get(item_id, -1) for item_id in current.item_ids])
    is_unseen = rows < 0
    for before, now in _shared(reference, current):
        name = current.views[now].name
        is_unseen |= reference.presence[rows, before] != current.presence[:, now]
        is_changed = (reference.features[name][rows] != current.features[name]).any(1)
        is_unseen |= current.presence[:, now] & is_changed
    return is_unseen


def changed_views(before: Sequence[ViewSpec], after: Sequence[ViewSpec]) -> tuple[str, ...]:
    """Say which views came, which went, and which got another encoder."""
    old, new = ({view.name: view.encoder_id for view in views} for views in (before, after))
    return (
        *(f"view {name} is new" for name in new if name not in old),
        *(f"view {name} is gone" for name in old if name not in new),
        *(
            f"view {name} is encoded by {new[name]}, no longer by {old[name]}"
            for name in new
            if name in old and new[name] != old[name]
        ),
    )


def compare_views(reference: DomainData, recent: DomainData, config: DriftConfig) -> dict[str, ViewDrift]:
    """Test each view that both have under one encoder; the p-values are corrected for all that were tested."""
    shared = _shared(reference, recent)
    permutations = math.ceil(FINENESS * 2 * len(shared) / config.false_alarm_rate)
    views = {
        recent.views[now].name: _compare_view((reference, before), (recent, now), permutations, config)
        for before, now in shared
    }
    raw = {(name, test): p for name, view in views.items() for test, p in _p_values(view).items()}
    for (name, test), p_value in zip(raw, holm(list(raw.values())), strict=True):
        views[name] = views[name].model_copy(update={test: p_value})
    return views


def discrepancy(
    reference: Float[Tensor, "reference dim"], recent: Float[Tensor, "recent dim"], *, permutations: int, seed: int = 0
) -> tuple[float, float]:
    """Return the squared maximum mean discrepancy, unbiased, and its p-value under random permutations."""
    items = torch.cat([reference, recent])
    gram = gaussian_gram(items).fill_diagonal_(0)
    is_recent = torch.arange(len(items)) >= len(reference)
    statistic = _discrepancies(gram, is_recent.unsqueeze(0))
    generator = torch.Generator().manual_seed(seed)
    exceeding = 0
    for start in range(0, permutations, CHUNK):
        count = min(CHUNK, permutations - start)
        shuffled = is_recent[torch.rand(count, len(items), generator=generator).argsort(1)]
        exceeding += int((_discrepancies(gram, shuffled) >= statistic - TIE).sum())
    return statistic.item(), (1 + exceeding) / (1 + permutations)


def gaussian_gram(items: Float[Tensor, "item dim"]) -> Float[Tensor, "item item"]:
    """Return Gaussian similarities, as wide as the median distance between items that differ."""
    squared = torch.cdist(items, items).square()
    apart = squared[squared > ROUNDING]
    return torch.exp(-squared / (2 * apart.median())) if len(apart) else torch.ones_like(squared)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected so that one at or below a level, of however many, is a false alarm at that level."""
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def _discrepancies(gram: Float[Tensor, "item item"], is_recent: Bool[Tensor, "draw item"]) -> Float[Tensor, " draw"]:
    """Return the unbiased estimate for each way to divide the items; the diagonal of `gram` is zero."""
    members = is_recent.float()
    to_recent = members @ gram
    within_recent = (to_recent * members).sum(1)
    across = to_recent.sum(1) - within_recent
    within_reference = gram.sum() - within_recent - 2 * across
    recent, reference = members.sum(1), (1 - members).sum(1)
    return (
        within_recent / (recent * (recent - 1))
        + within_reference / (reference * (reference - 1))
        - 2 * across / (recent * reference)
    )


def _compare_view(
    before: tuple[DomainData, int], after: tuple[DomainData, int], permutations: int, config: DriftConfig
) -> ViewDrift:
    """Compare one view, given by its number on either side."""
    has_view = [data.presence[:, number] for data, number in (before, after)]
    share_before, share_after = (present.float().mean().item() for present in has_view)
    items = [_sample(data, number, config) for data, number in (before, after)]
    is_enough = min(map(len, items)) >= config.at_least
    found = discrepancy(*items, permutations=permutations, seed=config.seed) if is_enough else (None, None)
    return ViewDrift(
        statistic=found[0],
        p_value=found[1],
        share_before=share_before,
        share_after=share_after,
        share_p_value=_presence_p_value(*has_view),
    )


def _p_values(view: ViewDrift) -> dict[str, float]:
    tests = {"share_p_value": view.share_p_value, "p_value": view.p_value}
    return {name: p_value for name, p_value in tests.items() if p_value is not None}


def _presence_p_value(before: Bool[Tensor, " reference"], after: Bool[Tensor, " recent"]) -> float:
    table = [[int(present.sum()), int((~present).sum())] for present in (before, after)]
    return float(fisher_exact(table).pvalue)


def _sample(data: DomainData, number: int, config: DriftConfig) -> Float[Tensor, "item dim"]:
    """Return unit-norm items that have a view, a seeded draw of them if they are many; their order does not matter."""
    rows = sorted(data.presence[:, number].nonzero().flatten().tolist(), key=data.item_ids.__getitem__)
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(config.seed))[: config.window]
    chosen: Int[Tensor, " item"] = torch.tensor(rows, dtype=torch.long)[drawn]
    return normalize(data.features[data.views[number].name][chosen], dim=-1)


def _shared(reference: DomainData, current: DomainData) -> list[tuple[int, int]]:
    """Return the numbers, in the one and in the other, of views that both have under one encoder."""
    place = {view: number for number, view in enumerate(reference.views)}
    return [(place[view], number) for number, view in enumerate(current.views) if view in place]


def _lacking(reference: int, recent: int, config: DriftConfig) -> str:
    """Say what is missing for a test; an empty text if nothing is."""
    if recent < config.at_least:
        return f"not enough data: {recent} recent items, {config.at_least} needed"
    if reference < config.at_least:
        return f"not enough data: the model was adapted among {reference} items, {config.at_least} needed"
    return ""


def _alarms(views: dict[str, ViewDrift], rate: float) -> tuple[str, ...]:
    """Say which views differ beyond chance."""
    found = []
    for name, view in views.items():
        if view.share_p_value <= rate:
            shares = f"{100 * view.share_after:.0f} % of recent items have view {name}, {100 * view.share_before:.0f} %"
            found.append(f"{shares} of the reference (p = {view.share_p_value:.2g})")
        if view.p_value is not None and view.p_value <= rate:
            found.append(f"recent items differ from the reference in view {name} (p = {view.p_value:.2g})")
    return tuple(found)
