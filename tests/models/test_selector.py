import pytest
import torch
from torch import Tensor

from models.selector import STATISTICS, Outcomes, Selector


def outcomes(accuracy: Tensor, statistics: Tensor | None = None, validated: Tensor | None = None) -> Outcomes:
    """What eight domains told of two learners at three shots, if nothing but what is given ever varied."""
    count = len(accuracy)
    return Outcomes(
        torch.zeros(count, STATISTICS) if statistics is None else statistics,
        torch.zeros(count, 2, 2) if validated is None else validated,
        torch.full((count,), 3.0),
        accuracy,
        torch.arange(count) % 8,
    )


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("statistic", range(STATISTICS))
def test_small_difference_that_a_statistic_tells_is_learned_beside_a_lead_and_noise(statistic):
    statistics = 5 + noise(800, STATISTICS, seed=statistic)
    gain = 0.005 + 0.02 * (statistics[:, statistic] - 5)
    accuracy = 0.7 + 0.05 * noise(800, 2, seed=99) + torch.stack([-gain / 2, gain / 2], dim=1)
    selector = Selector(2)
    selector.fit(outcomes(accuracy, statistics))
    with torch.no_grad():
        chosen = selector(statistics, torch.zeros(800, 2, 2), torch.ones(800)).argmax(-1)
    assert (chosen == (gain > 0)).float().mean() > 0.75
    assert (gain > 0).float().mean() < 0.65  # what the lead alone would get right


def test_statistic_that_tells_other_things_of_each_domain_is_hardly_used():
    statistics, domain = noise(800, STATISTICS, seed=1), torch.arange(800) % 8
    statistics[:, 3:] = noise(8, STATISTICS - 3, seed=2)[domain]
    accuracy = 0.7 + 0.05 * noise(8, 2, seed=3)[domain] + 0.05 * noise(800, 2, seed=4)
    selector = Selector(2)
    selector.fit(outcomes(accuracy, statistics))
    spread = (accuracy - accuracy.mean(1, keepdim=True))[:, 0].std() * 100
    assert (statistics @ selector.slope)[:, 0].std() < 0.25 * spread


def test_scores_are_points_of_accuracy_by_which_a_learner_is_above_the_mean():
    accuracy = torch.tensor([0.6, 0.5, 0.4]).expand(80, 3) + 0.001 * noise(80, 3)
    selector = Selector(3)
    selector.fit(outcomes(accuracy, validated=torch.zeros(80, 3, 2)))
    with torch.no_grad():
        scores = selector(torch.zeros(1, STATISTICS), torch.zeros(1, 3, 2), torch.ones(1))[0]
    torch.testing.assert_close(scores, torch.tensor([10.0, 0.0, -10.0]), atol=0.1, rtol=0)


def test_better_cross_validation_counts_against_no_learner_whatever_the_training_domains_say():
    draw_from = torch.Generator().manual_seed(0)
    statistics, validated = torch.zeros(200, STATISTICS), torch.rand(200, 2, 2, generator=draw_from)
    shots = torch.randint(1, 10, (200,), generator=draw_from).float()
    selector = Selector(2)
    selector.fit(outcomes(-validated.sum(-1), statistics, validated)._replace(shots=shots))
    better = validated + torch.tensor([[0.5], [0.0]])
    with torch.no_grad():
        gain = selector(statistics, better, shots) - selector(statistics, validated, shots)
    assert (gain[:, 0] >= gain[:, 1] - 1e-6).all()


def test_cross_validation_that_told_the_truth_decides_and_is_not_taken_at_its_word():
    truth = 0.05 * noise(800, 2)
    validated = torch.stack([truth + 0.05 * noise(800, 2, seed=1), torch.zeros(800, 2)], dim=-1)
    selector = Selector(2)
    selector.fit(outcomes(0.7 + truth, validated=validated))
    with torch.no_grad():
        scores = selector(torch.zeros(800, STATISTICS), validated, torch.full((800,), 3.0))
    lead = validated[..., 0] - validated[..., 0].mean(1, keepdim=True)
    trust = (scores * lead).sum() / lead.square().sum() / 100
    assert 0.01 < trust < 0.55  # half of what it says is noise
    assert (scores.argmax(1) == validated[..., 0].argmax(1)).float().mean() > 0.8
