import pytest
import torch
from synthetic import draw, gather, make_domain
from torch import Tensor, nn
from torch.nn.functional import one_hot

from models.grams import EpisodeGrams
from models.nearest import nearness
from models.settling import SHARES, Asked, largest_as_good, settle_strengths
from models.strength import ByShot

WAY = 4


class Whisperer(nn.Module):
    """Nearest centroid that is told of some class for each query, by shot, and believes it very much."""

    def __init__(self, told: dict[float, Tensor]) -> None:
        super().__init__()
        self.told = told
        self.parts = nn.ModuleList([ByShot(), ByShot()])
        self.believe(1_000.0)

    def believe(self, strength: float) -> None:
        with torch.no_grad():
            for part in self.parts:
                part.level.fill_(strength / 2)

    def strength(self, shots: Tensor) -> Tensor:
        return self.parts[0](shots) + self.parts[1](shots)

    def forward(self, grams: EpisodeGrams, weights: Tensor) -> Tensor:
        rumour = one_hot(self.told[grams.shots[0].item()], WAY)
        return nearness(grams, weights) + self.strength(grams.shots).unsqueeze(-1) * rumour


class Moderate(Whisperer):
    """Has to be about a third as strong to be right."""

    def strength(self, shots: Tensor) -> Tensor:
        strength = super().strength(shots)
        return torch.where((strength - 350).abs() < 50, strength, -strength)


@pytest.fixture
def asked() -> list[Asked]:
    """Episodes with one label a class and with five."""
    batches = [draw(make_domain(), n_way=WAY, n_shot=shot) for shot in (1, 5)]
    return [Asked(gather(batch), torch.full((len(batch), 3), 1 / 3), batch.query_labels) for batch in batches]


def test_strength_is_kept_at_the_shots_where_it_pays(asked):
    few, many = (episodes.labels for episodes in asked)
    head = Whisperer({1.0: (few + 1) % WAY, 5.0: many})
    assert settle_strengths(head, asked) == {1.0: 0.0, 5.0: 1.0}
    assert head.strength(torch.tensor([1.0, 5.0])).flatten().tolist() == pytest.approx([0.0, 1_000.0], abs=1e-3)


def test_strength_may_be_kept_in_part(asked):
    head = Moderate({1.0: asked[0].labels, 5.0: asked[1].labels})
    assert settle_strengths(head, asked) == {1.0: 0.35, 5.0: 0.35}


def test_all_episodes_of_a_shot_count(asked):
    few = asked[0]
    misled = few._replace(labels=(few.labels + 1) % WAY)
    head = Whisperer({1.0: misled.labels})
    assert settle_strengths(head, [few, few, misled]) == {1.0: 0.0}
    assert settle_strengths(head, [misled, misled, few]) == {1.0: 1.0}


def test_strength_that_makes_no_difference_is_kept(asked):
    head = Whisperer({1.0: torch.zeros_like(asked[0].labels), 5.0: torch.zeros_like(asked[1].labels)})
    head.believe(1e-9)
    assert set(settle_strengths(head, asked).values()) == {1.0}


def test_largest_share_within_a_standard_error_of_the_best_is_kept():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(400, generator=generator)
    noise = (noise - noise.mean()) / noise.std()  # one standard error of its mean is 0.05
    best = {share: [torch.zeros(400)] for share in SHARES}
    for lost, expected in ((0.04, 1.0), (0.06, 0.7)):
        assert largest_as_good({**best, 1.0: [noise - lost]}) == expected
