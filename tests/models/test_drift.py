from dataclasses import replace
from itertools import permutations

import pytest
import torch
from scipy.stats import binom, fisher_exact
from synthetic import PICTURE, TITLE, VIEWS, make_domain

from data_contracts.configs import DriftConfig
from models.drift import changed_views, discrepancy, find_drift, gaussian_gram, holm, unseen

CONFIG = DriftConfig(at_least=20)


def divided(seed: int, *, missing: float = 0.2, reference: int = 40, recent: int = 30):
    """Two random parts of one domain."""
    domain = make_domain(missing=missing, seed=seed)
    order = torch.randperm(len(domain), generator=torch.Generator().manual_seed(seed))
    return domain.take(order[:reference]), domain.take(order[reference : reference + recent])


def moved(data, view=TITLE, by: float = 1.5):
    shifted = data.features[view.name] + by * torch.eye(view.dim)[0] * data.presence[:, [data.views.index(view)]]
    return replace(data, features={**data.features, view.name: shifted})


def test_false_alarms_are_as_frequent_as_stated():
    config, looks = CONFIG.model_copy(update={"false_alarm_rate": 0.1}), 150
    alarms = sum(bool(find_drift(*divided(seed), config).findings) for seed in range(looks))
    assert alarms <= binom.ppf(0.999, looks, 0.1)


def test_p_values_are_spread_evenly_where_nothing_has_changed():
    draws = [torch.randn(60, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(300)]
    p_values = [discrepancy(items[:35], items[35:], permutations=99)[1] for items in draws]
    for level in (0.1, 0.5):
        low, high = binom.ppf([0.001, 0.999], len(draws), level)
        assert low <= sum(p <= level for p in p_values) <= high


@pytest.mark.parametrize("view", [TITLE, PICTURE], ids=lambda view: view.name)
def test_view_whose_items_moved_is_named(view):
    found = 0
    for seed in range(20):
        reference, recent = divided(seed)
        drift = find_drift(reference, moved(recent, view, by=4.0), CONFIG)
        found += any(
            f"recent items differ from the reference in view {view.name} (p =" in why for why in drift.findings
        )
    assert found >= 18


def test_mixture_of_classes_that_changed_is_found():
    domain = make_domain(per_class=20)
    is_new = domain.labels >= 4
    rows = torch.arange(len(domain))
    drift = find_drift(domain.take(rows[~is_new]), domain.take(rows[is_new]), CONFIG)
    assert any("view title" in why for why in drift.findings)


def test_view_that_becomes_rare_is_named_with_its_shares():
    reference, recent = divided(3, missing=0.0)
    presence = recent.presence.clone()
    presence[3:, 1] = False
    drift = find_drift(reference, recent.with_presence(presence), CONFIG)
    picture = drift.views["picture"]
    assert (picture.share_before, picture.share_after) == (1.0, pytest.approx(0.1))
    assert (picture.statistic, picture.p_value) == (None, None)
    assert picture.share_p_value == pytest.approx(5 * fisher_exact([[40, 0], [3, 27]]).pvalue)
    assert drift.findings[0].startswith("10 % of recent items have view picture, 100 % of the reference (p = ")


def test_order_of_items_and_of_views_changes_nothing():
    reference, recent = divided(1)
    recent = moved(recent)
    expected = find_drift(reference, recent, CONFIG)
    shuffled = recent.take(torch.randperm(len(recent), generator=torch.Generator().manual_seed(5)))
    turned = replace(shuffled, views=shuffled.views[::-1], presence=shuffled.presence.flip(1))
    assert find_drift(reference, shuffled, CONFIG) == expected
    assert find_drift(reference, turned, CONFIG).views == expected.views


def test_many_items_are_drawn_from_without_regard_to_their_order():
    domain = make_domain(per_class=100)
    config = CONFIG.model_copy(update={"window": 100})
    order = torch.randperm(len(domain), generator=torch.Generator().manual_seed(0))
    reference, recent = domain.take(order[:400]), domain.take(order[400:])
    expected = find_drift(reference, recent, config)
    assert expected.findings == ()
    assert find_drift(reference.take(torch.arange(400).flip(0)), recent, config) == expected


@pytest.mark.parametrize(("reference", "recent"), [(40, 19), (19, 40)], ids=["recent", "reference"])
def test_too_few_items_say_so_and_are_not_tested(reference, recent):
    drift = find_drift(*divided(0, reference=reference, recent=recent), CONFIG)
    assert (drift.findings, drift.views) == ((), {})
    assert drift.why.startswith("not enough data: ")
    assert drift.why.endswith(" 20 needed")
    assert "19" in drift.why


def test_view_that_came_went_or_is_encoded_anew_needs_no_test():
    recoded = replace(PICTURE, encoder_id="pixels-2")
    assert changed_views(VIEWS, VIEWS[::-1]) == ()
    assert changed_views((TITLE, PICTURE), (recoded, VIEWS[2])) == (
        "view facts is new",
        "view title is gone",
        "view picture is encoded by pixels-2, no longer by pixels-1",
    )
    reference, recent = divided(0, recent=5)
    drift = find_drift(
        reference, replace(recent, views=(TITLE, recoded, VIEWS[2])), CONFIG, other_changes=("x is new",)
    )
    assert drift.findings == ("view picture is encoded by pixels-2, no longer by pixels-1", "x is new")
    assert drift.why.endswith("; not enough data: 5 recent items, 20 needed")


def test_view_encoded_anew_is_not_compared():
    reference, recent = divided(0)
    other = replace(recent, views=(replace(TITLE, encoder_id="words-2", dim=3), *VIEWS[1:]))
    other.features["title"] = torch.randn(len(recent), 3)
    assert set(find_drift(reference, other, CONFIG).views) == {"picture", "facts"}


def test_item_is_unseen_if_it_is_new_or_its_content_is():
    domain = make_domain(per_class=2)
    reference = domain.take(torch.arange(2, 16))
    assert unseen(reference, domain).nonzero().flatten().tolist() == [0, 1]
    changed = domain.features["title"].clone()
    changed[5] += 1
    presence = domain.presence.clone()
    presence[7, 2] = False
    other = replace(domain, features={**domain.features, "title": changed}).with_presence(presence)
    assert unseen(reference, other).nonzero().flatten().tolist() == [0, 1, 5, 7]
    recoded = replace(domain, views=(TITLE, PICTURE, replace(VIEWS[2], encoder_id="numbers-2")))
    assert unseen(domain, recoded).sum() == 0


def test_statistic_is_the_one_that_sums_over_pairs():
    items = torch.randn(9, 4, generator=torch.Generator().manual_seed(1))
    gram = gaussian_gram(items)
    x, y = range(4), range(4, 9)
    within = [torch.stack([gram[i, j] for i, j in permutations(part, 2)]).mean() for part in (x, y)]
    across = torch.stack([gram[i, j] for i in x for j in y]).mean()
    statistic, _ = discrepancy(items[:4], items[4:], permutations=1)
    assert statistic == pytest.approx((within[0] + within[1] - 2 * across).item(), abs=1e-5)


def test_items_that_are_all_the_same_have_not_drifted():
    items = torch.ones(50, 4)
    assert discrepancy(items[:20], items[20:], permutations=50) == (0.0, 1.0)


def test_corrected_p_values_are_those_one_can_work_out_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
