import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from models.episodes import one_hot
from models.grams import Coverage
from models.temperature import Temperature, Uncalibrated, decision_loss


def problem(n_episodes: int = 40, scale: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits that are `scale` times too sure, and labels drawn from the honest ones."""
    draw = torch.Generator().manual_seed(seed)
    honest = 2 * torch.randn(n_episodes, 50, 5, generator=draw)
    labels = torch.multinomial(honest.softmax(-1).flatten(0, 1), 1, generator=draw).view(n_episodes, 50)
    return scale * honest, labels


def whole(logits: Tensor) -> Coverage:
    """Nothing is missing."""
    return Coverage(torch.ones(len(logits)), torch.ones(logits.shape[:2]))


def test_decisions_are_compared_at_the_best_temperature():
    honest, labels = problem()
    best = cross_entropy(honest.flatten(0, 1), labels.flatten())
    for scale in (0.25, 1.0, 8.0):
        torch.testing.assert_close(decision_loss(scale * honest, labels), best, atol=1e-3, rtol=0)


def test_gradient_is_that_of_the_cross_entropy_at_the_best_temperature():
    honest, labels = problem()
    logits = (4 * honest).requires_grad_()
    (found,) = torch.autograd.grad(decision_loss(logits, labels), logits)
    scaled = honest.clone().requires_grad_()
    (expected,) = torch.autograd.grad(cross_entropy(scaled.flatten(0, 1), labels.flatten()), scaled)
    torch.testing.assert_close(found, expected / 4)


def test_padding_does_not_count():
    honest, labels = problem()
    padded = torch.cat([labels, torch.full((40, 3), -1)], dim=1)
    longer = torch.cat([honest, 100 * torch.randn(40, 3, 5)], dim=1)
    torch.testing.assert_close(decision_loss(longer, padded), decision_loss(honest, labels))


def test_temperature_is_found_for_each_shot():
    (sure, labels), (unsure, others) = problem(scale=3.0), problem(scale=0.5, seed=1)
    shots = [torch.full((40,), shot) for shot in (1.0, 5.0)]
    temperature = Temperature()
    temperature.fit(
        [
            Uncalibrated(sure, labels, shots[0], whole(sure)),
            Uncalibrated(unsure, others, shots[1], whole(unsure)),
        ]
    )
    assert temperature(sure, shots[0], whole(sure)).std() / sure.std() == pytest.approx(1 / 3, rel=0.1)
    assert temperature(unsure, shots[1], whole(unsure)).std() / unsure.std() == pytest.approx(2.0, rel=0.1)


def test_powers_of_the_coverage_are_found_and_where_nothing_is_missing_they_change_nothing():
    honest, labels = problem(n_episodes=80)
    draw = torch.Generator().manual_seed(2)
    coverage = Coverage(*(0.1 + 0.9 * torch.rand(*shape, generator=draw) for shape in ((80,), (80, 50))))
    too_sure = honest / (coverage.query**0.5 * coverage.support[:, None] ** 1.5).unsqueeze(-1)
    shots, temperature = torch.full((80,), 2.0), Temperature()
    temperature.fit(
        [
            Uncalibrated(honest, labels, shots, whole(honest)),
            Uncalibrated(too_sure, labels, shots, coverage, is_hidden=True),
        ]
    )
    torch.testing.assert_close(temperature.exponents, torch.tensor([0.5, 1.5]), atol=0.15, rtol=0)
    torch.testing.assert_close(temperature(honest, shots, whole(honest)), honest, rtol=0.1, atol=0)
    torch.testing.assert_close(temperature(too_sure, shots, coverage), honest, rtol=0.3, atol=0)


def test_scale_of_what_lacks_nothing_is_the_same_with_and_without_items_that_do():
    (logits, labels), shots = problem(scale=3.0), torch.ones(40)
    whole_items = Uncalibrated(logits, labels, shots, whole(logits))
    halves = Coverage(torch.full((40,), 0.5), torch.full((40, 50), 0.5))
    hopeless = Uncalibrated(20 * logits, labels.roll(1, dims=0), shots, halves, is_hidden=True)
    alone, both = Temperature(), Temperature()
    alone.fit([whole_items])
    both.fit([whole_items, hopeless])
    assert both.exponents.min() > 1
    torch.testing.assert_close(
        both(logits, shots, whole(logits)), alone(logits, shots, whole(logits)), rtol=1e-3, atol=0
    )


def test_query_without_any_view_has_a_finite_temperature():
    logits, labels = problem()
    temperature, nothing = Temperature(), Coverage(torch.zeros(40), torch.zeros(40, 50))
    temperature.fit([Uncalibrated(logits, labels, torch.ones(40), nothing, is_hidden=True)])
    assert temperature(logits, torch.ones(40), nothing).isfinite().all()


@pytest.mark.parametrize("sign", [1, -1])
def test_temperature_is_bounded_where_certainty_never_costs_or_never_pays(sign):
    """Without a bound the right temperature of labels that are always, or never, the likeliest is 0 or infinite."""
    labels = torch.arange(50).remainder(2).expand(40, 50)
    logits = sign * one_hot(labels, 2)
    temperature = Temperature()
    temperature.fit([Uncalibrated(logits, labels, torch.ones(40), whole(logits))])
    assert 2 < sign * temperature.log_scales.mean().item() < 5


@pytest.mark.parametrize("sign", [1, -1])
def test_powers_are_bounded_where_certainty_never_costs_or_never_pays(sign):
    labels = torch.arange(50).remainder(2).expand(40, 50)
    logits = sign * one_hot(labels, 2)
    tenth = Coverage(torch.full((40,), 0.1), torch.full((40, 50), 0.1))
    temperature = Temperature()
    temperature.fit([Uncalibrated(logits, labels, torch.ones(40), tenth, is_hidden=True)])
    of_scale = temperature.exponents.sum().item() * math.log(0.1)
    assert 2 < sign * of_scale < 5


def test_padded_queries_have_no_part_in_a_fit():
    logits, labels = problem(scale=3.0)
    shots, coverage = torch.ones(40), Coverage(torch.full((40,), 0.5), torch.full((40, 50), 0.5))
    padding = Coverage(coverage.support, torch.full((40, 150), 0.05))
    plain, padded = Temperature(), Temperature()
    plain.fit([Uncalibrated(logits, labels, shots, coverage, is_hidden=True)])
    padded.fit(
        [
            Uncalibrated(
                torch.cat([logits, torch.randn(40, 150, 5)], dim=1),
                torch.cat([labels, torch.full((40, 150), -1)], dim=1),
                shots,
                Coverage(coverage.support, torch.cat([coverage.query, padding.query], dim=1)),
                is_hidden=True,
            )
        ]
    )
    torch.testing.assert_close(padded.exponents, plain.exponents, atol=1e-4, rtol=0)


def test_scale_is_of_the_type_of_the_numbers_it_was_fitted_to():
    (logits, labels), shots, temperature = problem(), torch.ones(40, dtype=torch.float64), Temperature()
    temperature.fit([Uncalibrated(logits, labels, shots, whole(logits))])
    assert temperature(logits, shots, whole(logits)).dtype == torch.float32


def test_nothing_is_scaled_at_the_start_and_fitting_again_starts_anew():
    logits, labels = problem(scale=3.0)
    shots, temperature = torch.ones(40), Temperature()
    assert torch.equal(temperature(logits, shots, whole(logits)), logits)
    temperature.fit([Uncalibrated(logits, labels, shots, whole(logits))])
    once = temperature.log_scales.clone()
    temperature.fit([Uncalibrated(logits, labels, shots, whole(logits))])
    assert torch.equal(temperature.log_scales, once)
    torch.testing.assert_close(once, once[:1].expand(4), atol=1e-3, rtol=0)


def test_temperature_between_two_shots_lies_between_theirs_and_is_kept_beyond_all():
    temperature = Temperature()
    temperature.log_scales.copy_(torch.tensor([0.0, 1.0, -1.0, 0.5]))
    asked = torch.tensor([0.5, 1.0, 2**0.5, 2.0, 10**0.5, 5.0, 10.0, 20.0])
    ones = torch.ones(8, 1, 1)
    found = temperature(ones, asked, whole(ones)).log().flatten()
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, 0.5, 1.0, 0.0, -1.0, 0.5, 0.5]), atol=1e-6, rtol=0)


def test_every_batch_counts_the_same_whatever_its_size_and_ways():
    (sure, labels), (unsure, others) = problem(n_episodes=60, scale=3.0), problem(n_episodes=20, scale=0.5, seed=1)
    shots = [torch.full((len(logits),), 1.0) for logits in (sure, unsure)]
    fitted = []
    for ways, times in ((5, 1), (7, 1), (5, 3)):
        padded = torch.cat([unsure, torch.full((20, 50, ways - 5), -50.0)], dim=-1).repeat(times, 1, 1)
        few = Uncalibrated(padded, others.repeat(times, 1), shots[1].repeat(times), whole(padded))
        temperature = Temperature()
        temperature.fit([Uncalibrated(sure, labels, shots[0], whole(sure)), few])
        fitted.append(temperature.log_scales.clone())
    torch.testing.assert_close(fitted[1], fitted[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(fitted[2], fitted[0], atol=1e-4, rtol=0)
