from dataclasses import replace

import torch
from synthetic import PICTURE, TITLE, make_domain, neighbours_among
from torch import Tensor
from torch.nn.functional import normalize

from models.features import DomainData
from models.placement import Placement
from models.pool import has_view

EQUAL = torch.full((3,), 1 / 3)
ONE_SHOT = torch.tensor(1.0)


def place_domain(placement: Placement, domain: DomainData, rows: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Place rows of a domain, with the domain's own items as the pool."""
    return placement.place(domain.views, domain.centred(rows), rows, domain.pool, domain.in_pool, weights, ONE_SHOT)


def test_untrained_placement_is_centring_alone(toys):
    rows = torch.tensor([5, 40, 2])
    placed = place_domain(Placement(), toys, rows, EQUAL)
    for name, items in toys.centred(rows).items():
        torch.testing.assert_close(placed[name], items)


def test_smoothing_adds_the_mean_of_the_neighbours():
    domain, rows = make_domain(), torch.tensor([5, 40, 2])
    placement = Placement()
    with torch.no_grad():
        placement.smoothing.level.fill_(0.7)
    own, pool = domain.centred(rows), domain.centred(torch.arange(96))
    neighbours = neighbours_among(own, pool, [1 / 3] * 3, rows[:, None] == torch.arange(96))
    placed = place_domain(placement, domain, rows, EQUAL)
    for name, items in own.items():
        expected = normalize(items + 0.7 * neighbours[name].average(pool[name]), dim=-1)
        torch.testing.assert_close(placed[name], expected)


def test_missing_view_is_filled_from_neighbours_once_there_is_smoothing():
    domain = make_domain()
    presence = domain.presence.clone()
    presence[3, 1] = False
    placement = Placement()
    assert not has_view(place_domain(placement, domain.with_presence(presence), torch.tensor([3]), EQUAL))[0, 1]
    with torch.no_grad():
        placement.smoothing.level.fill_(0.7)
    filled = place_domain(placement, domain.with_presence(presence), torch.tensor([3]), EQUAL)
    assert has_view(filled).all()
    own_class = domain.centred(torch.arange(12))["picture"].mean(0)
    assert filled["picture"][0] @ own_class > 0.3


def test_only_encoders_with_a_basis_are_whitened():
    domain = make_domain(per_class=40, views=(TITLE, PICTURE))
    placement = Placement()
    placement.fit([make_domain(per_class=40, views=(TITLE,), seed=7)], domain.classes)
    with torch.no_grad():
        placement.whitening.level.fill_(1.0)
    rows = torch.arange(20)
    placed, own = place_domain(placement, domain, rows, EQUAL[:2]), domain.centred(rows)
    torch.testing.assert_close(placed["picture"], own["picture"])
    torch.testing.assert_close(placed["title"], placement.bases["words-1"].whiten(own["title"], ONE_SHOT))


def test_encoder_ids_with_slashes_come_back():
    specs = (replace(TITLE, encoder_id="family/words/1"), PICTURE)
    first, second = Placement(), Placement()
    first.fit([make_domain(per_class=40, views=specs)], make_domain().classes)
    second.restore_bases(first.stored_bases())
    assert set(second.bases) == {"family/words/1", "pixels-1"}
    for name, basis in first.bases.items():
        assert torch.equal(second.bases[name].directions, basis.directions)
        assert torch.equal(second.bases[name].ratios, basis.ratios)


def test_present_views_stay_where_they_are_and_absent_ones_are_filled_where_neighbours_mislead():
    domain = make_domain(missing=0.3)
    rows, placement = torch.arange(len(domain)), Placement()
    stays = place_domain(placement, domain, rows, EQUAL)
    with torch.no_grad():
        placement.smoothing.level.fill_(0.7)
        smoothed = place_domain(placement, domain, rows, EQUAL)
        placement.smoothing.level.fill_(-0.7)
        found = place_domain(placement, domain, rows, EQUAL)
    for number, name in enumerate(found):
        absent = ~domain.presence[:, number]
        assert smoothed[name][absent].any()
        torch.testing.assert_close(found[name][absent], smoothed[name][absent])
        torch.testing.assert_close(found[name][~absent], stays[name][~absent])
