import math

import pytest
import torch

from models.strength import MOST_SHOTS, ByShot, bounded, within


def test_strength_starts_the_same_at_every_shot():
    assert ByShot(2, start=0.5)(torch.tensor([1.0, 5.0])).tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_strength_is_linear_in_the_logarithm_of_the_shot_up_to_the_most_met_in_training():
    strength = ByShot()
    with torch.no_grad():
        strength.level.fill_(1.0)
        strength.slope.fill_(2.0)
        found = strength(torch.tensor([1.0, 5.0, MOST_SHOTS, 500.0])).squeeze(-1)
    most = 1 + 2 * math.log(MOST_SHOTS)
    torch.testing.assert_close(found, torch.tensor([1.0, 1 + 2 * math.log(5), most, most]))


def test_beyond_bounds_only_gradients_that_lead_back_pass():
    """A step against a gradient below zero raises the strength, and one against a gradient above zero lowers it."""
    strengths = torch.tensor([2.0, 2.0, 0.0, 0.0, -1.0, -1.0, 3.0, 3.0, 4.0, 4.0], requires_grad=True)
    gradient = torch.tensor([0.5, -0.5] * 5)
    found = within(strengths, 0.0, 3.0)
    found.backward(gradient)
    assert found.tolist() == [2.0, 2.0, 0.0, 0.0, 0.0, 0.0, 3.0, 3.0, 3.0, 3.0]
    assert strengths.grad is not None
    assert strengths.grad.tolist() == [0.5, -0.5, 0.5, -0.5, 0.0, -0.5, 0.5, -0.5, 0.5, 0.0]


def test_bounded_strength_is_itself_near_zero_and_ends_at_the_bound():
    found = bounded(torch.tensor([-9.0, -0.01, 0.0, 0.01, 9.0]), 0.5)
    torch.testing.assert_close(found, torch.tensor([-0.5, -0.01, 0.0, 0.01, 0.5]), atol=1e-5, rtol=0)


@pytest.fixture
def learned() -> ByShot:
    """A strength that began at 2, is 4 at one label and falls by 1 with every factor of e."""
    strength = ByShot(start=2.0)
    with torch.no_grad():
        strength.level.fill_(4.0)
        strength.slope.fill_(-1.0)
    return strength


def values(strength: ByShot, *shots: float) -> list[float]:
    return strength(torch.tensor(shots)).flatten().tolist()


def test_share_of_the_way_is_that_of_the_shot_between_two_and_of_the_nearer_beyond(learned):
    shots = (1.0, 2.0, 4.0, 8.0, 10.0)
    before = values(learned, *shots)
    learned.keep({2.0: 0.2, 3.0: 0.9, 8.0: 0.6})
    shares = (0.2, 0.2, 0.4, 0.6, 0.6)
    assert values(learned, *shots) == pytest.approx([2 + s * (b - 2) for s, b in zip(shares, before, strict=True)])


def test_share_is_stored_beside_what_was_learned(learned):
    learned.keep({1.0: 0.25, 5.0: 0.5})
    again = ByShot(start=2.0)
    again.load_state_dict(learned.state_dict())
    assert values(again, 1.0, 3.0, 20.0) == values(learned, 1.0, 3.0, 20.0)
    assert again.level.item() == 4.0


@pytest.mark.parametrize("shares", [{3.0: 0.5}, {1.0: 0.5, 5.0: 0.5}, {MOST_SHOTS: 0.5, 2 * MOST_SHOTS: 0.5}])
def test_strength_of_one_share_goes_back_alike_at_all_shots(learned, shares):
    before = values(learned, 1.0, 3.0, 20.0)
    learned.keep(shares)
    assert values(learned, 1.0, 3.0, 20.0) == pytest.approx([1 + 0.5 * value for value in before])


def test_strength_stays_where_all_of_the_way_is_kept(learned):
    before = values(learned, 1.0, 3.0, 20.0)
    learned.keep({1.0: 1.0, 5.0: 1.0})
    assert values(learned, 1.0, 3.0, 20.0) == before
