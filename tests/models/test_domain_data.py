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


def test_hidden_view_has_zero_features_and_the_mean_of_all_items():
    domain = make_domain()
    hidden = domain.with_presence(torch.arange(96)[:, None].expand(96, 3) % 2 == 0)
    assert not hidden.features["title"][1::2].any()
    assert torch.equal(hidden.features["title"][::2], domain.features["title"][::2])
    assert torch.equal(hidden.means["title"], domain.means["title"])


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
