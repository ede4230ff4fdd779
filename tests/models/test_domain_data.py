import pytest
import torch
from synthetic import class_names, make_domain
from torch.nn.functional import normalize


def test_mean_is_that_of_unit_norm_items_that_have_the_view(toys):
    here = toys.presence[:, [view.name for view in toys.views].index("picture")]
    expected = normalize(toys.features["picture"][here], dim=-1).mean(0)
    torch.testing.assert_close(toys.means["picture"], expected)


def test_mean_of_a_view_that_nobody_has_is_zero():
    domain = make_domain().with_presence(torch.tensor([[True, False, True]]).expand(96, 3))
    again = domain.take(torch.arange(96))
    assert again.means["picture"].tolist() == [0.0] * 16


def test_taking_rows_keeps_their_order_and_the_classes(toys):
    rows = torch.tensor([17, 3, 3])
    taken = toys.take(rows)
    assert taken.item_ids == (toys.item_ids[17], toys.item_ids[3], toys.item_ids[3])
    assert taken.classes == toys.classes
    assert torch.equal(taken.labels, toys.labels[rows])
    assert torch.equal(taken.features["title"], toys.features["title"][rows])


def test_hiding_views_and_naming_classes_copy_no_features_and_keep_the_mean_of_all_items():
    domain = make_domain()
    hidden = domain.with_presence(torch.arange(96)[:, None].expand(96, 3) % 2 == 0)
    for changed in (hidden, hidden.with_classes(domain.classes[:2]), hidden.without_classes(domain.classes[:2])):
        assert changed.features["title"] is domain.features["title"]
        assert torch.equal(changed.means["title"], domain.means["title"])


@pytest.mark.parametrize(("share", "n_hidden"), [(0.0, 0), (0.25, 54), (0.5, 108), (0.9, 216 - 96)])
def test_share_of_views_is_hidden_to_the_view_and_never_the_last_of_an_item(share, n_hidden):
    domain = make_domain().with_presence(torch.arange(96)[:, None] % 4 != torch.arange(3))
    hidden = domain.with_hidden_views(share, torch.Generator().manual_seed(0))
    assert (domain.presence.sum() - hidden.presence.sum()).item() == n_hidden
    assert hidden.presence.any(1).all()
    assert not (hidden.presence & ~domain.presence).any()
    assert torch.equal(hidden.means["title"], domain.means["title"])


def test_every_view_is_hidden_as_often_as_any_other():
    domain = make_domain().take(torch.arange(96).repeat(100))
    hidden = domain.with_hidden_views(0.5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(hidden.presence.float().mean(0), torch.full((3,), 0.5), atol=0.02, rtol=0)


def test_two_views_of_which_half_are_hidden_leave_one_to_every_item_and_some_to_each_view():
    domain = make_domain().with_presence(torch.tensor([[True, True, False]]).expand(96, 3))
    kept = domain.with_hidden_views(0.5, torch.Generator().manual_seed(0)).presence
    assert (kept.sum(1) == 1).all()
    assert 30 < int(kept[:, 0].sum()) < 66


@pytest.mark.parametrize("rate", [0.5, 0.9])
def test_view_dropout_leaves_one_to_every_item(rate):
    domain = make_domain().with_presence(torch.tensor([[True, True, False]]).expand(96, 3))
    domain = domain.take(torch.arange(96).repeat(10))
    hidden = domain.with_view_dropout(rate, torch.Generator().manual_seed(0))
    kept = hidden.presence
    assert kept.sum(1).min() == 1
    assert torch.equal(hidden.means["title"], domain.means["title"])
    assert (kept.sum(1) == 2).float().mean().item() == pytest.approx((1 - rate) ** 2, abs=0.05)


def test_other_classes_become_unlabelled_and_the_rest_are_renumbered():
    domain = make_domain(unlabelled=5)
    renamed = domain.with_classes(("class-03", "unheard-of", "class-01"))
    names = [domain.classes[label] if label >= 0 else None for label in domain.labels.tolist()]
    expected = [{"class-03": 0, "class-01": 2}.get(name or "", -1) for name in names]
    assert renamed.labels.tolist() == expected


def test_items_of_classes_that_are_taken_away_become_unlabelled():
    domain = make_domain(unlabelled=5)
    left = domain.without_classes({"class-00", "class-07", "unheard-of"})
    assert left.classes == class_names(6, start=1)
    assert torch.equal(left.labels, domain.with_classes(class_names(6, start=1)).labels)


def test_same_classes_in_the_same_order_change_no_label():
    domain = make_domain(unlabelled=5)
    assert torch.equal(domain.with_classes(class_names(8)).labels, domain.labels)
