from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import TITLE, make_domain, neighbours_among
from torch.nn.functional import normalize

from models.features import DomainData
from models.geometry import SHRINKAGE, fit_bases
from models.pool import centre


def test_centred_items_have_unit_norm_about_the_mean():
    items, mean = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([0.6, 0.0])
    centred = centre(items, mean, torch.tensor([True, False]))
    torch.testing.assert_close(centred, torch.tensor([[0.0, 1.0], [0.0, 0.0]]))


def test_offset_shared_by_a_domain_goes_away_in_the_mean(toys):
    for number, view in enumerate(toys.views):
        here = toys.presence[:, number]
        unit = normalize(toys.features[view.name][here], dim=-1)
        expected = normalize(unit - unit.mean(0), dim=-1)
        torch.testing.assert_close(toys.centred(torch.arange(len(toys)))[view.name][here], expected)


def within_class_scatter(domain: DomainData) -> np.ndarray:
    """The definition, one class at a time."""
    items = domain.centred(torch.arange(len(domain)))["title"].double().numpy()
    groups = [items[domain.labels.numpy() == number] for number in range(len(domain.classes))]
    return sum((group - group.mean(0)).T @ (group - group.mean(0)) for group in groups)


def test_full_whitening_is_the_inverse_root_of_the_shrunk_within_class_covariance():
    domain = make_domain(per_class=40, views=(TITLE,))
    basis = fit_bases((domain,), domain.classes, rank=TITLE.dim)[TITLE.encoder_id]
    items = domain.centred(torch.arange(len(domain)))["title"]
    covariance = within_class_scatter(domain) / (len(items) - 8)
    shrunk = (1 - SHRINKAGE) * covariance / (np.trace(covariance) / TITLE.dim) + SHRINKAGE * np.eye(TITLE.dim)
    values, vectors = np.linalg.eigh(shrunk)
    expected = torch.from_numpy(items.numpy() @ (vectors / np.sqrt(values)) @ vectors.T)
    torch.testing.assert_close(
        basis.whiten(items, torch.tensor(1.0)), normalize(expected, dim=-1).float(), atol=1e-4, rtol=0
    )


def test_no_whitening_changes_nothing_and_half_is_between():
    domain = make_domain(per_class=40, views=(TITLE,))
    basis = fit_bases((domain,), domain.classes, rank=4)[TITLE.encoder_id]
    items = domain.centred(torch.arange(len(domain)))["title"]
    lead = [
        (basis.whiten(items, torch.tensor(power)) @ basis.directions).square().sum().item() for power in (0.0, 0.5, 1.0)
    ]
    torch.testing.assert_close(basis.whiten(items, torch.tensor(0.0)), items)
    assert lead[0] > lead[1] > lead[2]


def test_directions_are_orthonormal_and_sorted():
    domain = make_domain(per_class=40, views=(TITLE,))
    basis = fit_bases((domain,), domain.classes, rank=4)[TITLE.encoder_id]
    torch.testing.assert_close(basis.directions.T @ basis.directions, torch.eye(4), atol=1e-5, rtol=0)
    assert (basis.ratios.diff() <= 0).all()
    assert (basis.ratios >= 1).all()


def test_scatter_is_pooled_over_domains_that_share_an_encoder():
    domains = tuple(make_domain(per_class=40, views=(TITLE,), seed=seed) for seed in (1, 2))
    pooled = fit_bases(domains, domains[0].classes, rank=1)[TITLE.encoder_id]
    values, vectors = np.linalg.eigh(sum(within_class_scatter(domain) for domain in domains))
    leading = (1 - SHRINKAGE) * values[-1] / values.mean() + SHRINKAGE
    assert pooled.ratios.item() == pytest.approx(leading / SHRINKAGE, rel=1e-4)
    assert abs(pooled.directions[:, 0].numpy() @ vectors[:, -1]) == pytest.approx(1, abs=1e-3)


def test_labels_of_other_classes_play_no_part():
    domain = make_domain(per_class=40, views=(TITLE,))
    some = domain.classes[:5]
    shuffled = domain.labels.clone()
    rest = (domain.labels >= 5).nonzero().flatten()
    shuffled[rest] = shuffled[rest.flip(0)]
    again = fit_bases((replace(domain, labels=shuffled),), some, rank=4)
    torch.testing.assert_close(again["words-1"].ratios, fit_bases((domain,), some, rank=4)["words-1"].ratios)


def test_encoder_with_few_items_has_no_basis():
    assert fit_bases((make_domain(),), make_domain().classes, rank=64) == {}


def test_view_that_never_varies_has_a_basis_that_changes_nothing():
    domain = make_domain(per_class=40, views=(TITLE,))
    constant = replace(domain, features={"title": torch.ones_like(domain.features["title"])})
    basis = fit_bases((constant,), domain.classes, rank=4)[TITLE.encoder_id]
    items = domain.centred(torch.arange(len(domain)))["title"]
    torch.testing.assert_close(basis.whiten(items, torch.tensor(1.0)), items)


def test_neighbours_are_the_nearest_by_weighted_cosine_without_the_item_itself():
    domain = make_domain()
    views = domain.centred(torch.arange(len(domain)))
    weights = [0.5, 0.3, 0.2]
    found = neighbours_among(views, views, weights, torch.eye(len(domain), dtype=torch.bool), count=3)["picture"]
    similarity = sum(weight * items @ items.T for weight, items in zip(weights, views.values(), strict=True))
    similarity = similarity.fill_diagonal_(-9)
    assert torch.equal(found.pool_rows.sort().values, similarity.topk(3).indices.sort().values)
    nearest = similarity.topk(3).values
    torch.testing.assert_close(found.attention, (nearest / 0.1).softmax(-1), atol=1e-4, rtol=0)


def test_average_of_neighbours_is_weighted_by_attention():
    rows = {"title": torch.tensor([[1.0, 0.0]])}
    pool = {"title": torch.tensor([[1.0, 0.0], [0.8, 0.6], [-1.0, 0.0]])}
    found = neighbours_among(rows, pool, [1.0], torch.zeros(1, 3, dtype=torch.bool))["title"]
    first, second = torch.tensor([1.0, 0.8]).div(0.1).softmax(-1).tolist()
    torch.testing.assert_close(
        found.average(pool["title"]), torch.tensor([[first + 0.8 * second, 0.6 * second]]), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("pool", [torch.tensor([[-1.0, 0.0]]), torch.zeros(1, 2)], ids=["opposite", "absent"])
def test_item_without_a_similar_one_has_no_neighbour(pool):
    rows, is_same = {"title": torch.tensor([[1.0, 0.0]])}, torch.zeros(1, 1, dtype=torch.bool)
    found = neighbours_among(rows, {"title": pool}, [1.0], is_same)["title"]
    assert not found.average(pool).any()


def test_neighbours_of_a_view_are_those_that_have_it():
    near, far, absent = [1.0, 0.0], [0.6, 0.8], [0.0, 0.0]
    pool = {"title": torch.tensor([near, far]), "picture": torch.tensor([absent, [0.0, 1.0]])}
    rows = {"title": torch.tensor([near]), "picture": torch.tensor([absent])}
    found = neighbours_among(rows, pool, [0.5, 0.5], torch.zeros(1, 2, dtype=torch.bool), count=1)
    assert found["title"].pool_rows.item() == 0
    torch.testing.assert_close(found["picture"].average(pool["picture"]), torch.tensor([[0.0, 1.0]]))
