import itertools
import math

import pytest
import torch
from scipy.stats import betabinom

from models.conformal import covered, prediction_sets, threshold


def answers(count: int, way: int, draw: torch.Generator, *, sharpness: float = 2.0) -> tuple[torch.Tensor, ...]:
    """Probabilities that are over-confident by `sharpness`, and labels drawn from the right ones."""
    logits = torch.randn(count, way, generator=draw) * 1.5
    labels = torch.multinomial(logits.softmax(-1), 1, generator=draw).squeeze(1)
    return (sharpness * logits).softmax(-1), labels


@pytest.mark.parametrize("coverage", [0.5, 0.9, 0.95])
@pytest.mark.parametrize("calibration", [19, 50, 200])
def test_coverage_over_many_draws_is_what_theory_says_of_it(coverage, calibration):
    """Coverage of m new items given n calibration items is beta-binomial (Vovk, 2012): its mean is the guarantee."""
    draw, draws, new = torch.Generator().manual_seed(0), 400, 20
    hits = 0
    for _ in range(draws):
        limit = threshold(*answers(calibration, 5, draw), coverage)
        probabilities, labels = answers(new, 5, draw)
        hits += int(covered(prediction_sets(probabilities, limit), labels).sum())
    rank = math.ceil((calibration + 1) * coverage)
    one_draw = betabinom(new, rank, calibration + 1 - rank)
    deviation = math.sqrt(draws * one_draw.var())
    assert abs(hits - draws * one_draw.mean()) < 4 * deviation
    assert one_draw.mean() >= coverage * new


def test_threshold_is_the_quantile_with_one_item_more():
    probabilities = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.8, 0.2]])
    labels = torch.tensor([0, 0, 0, 1])
    assert threshold(probabilities, labels, 0.4) == pytest.approx(0.4)
    assert threshold(probabilities, labels, 0.6) == pytest.approx(0.7)
    assert threshold(probabilities, labels, 0.8) == pytest.approx(0.8)


@pytest.mark.parametrize(("coverage", "needed"), [(0.9, 9), (0.5, 1), (0.95, 19)])
def test_too_few_calibration_items_leave_every_class_in(coverage, needed):
    probabilities, labels = answers(needed, 4, torch.Generator().manual_seed(1))
    assert threshold(probabilities, labels, coverage) < 1
    limit = threshold(probabilities[1:], labels[1:], coverage)
    assert limit == math.inf
    assert prediction_sets(probabilities, limit).all()


def test_no_calibration_item_leaves_every_class_in():
    assert threshold(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), 0.1) == math.inf


def test_class_as_strange_as_the_threshold_is_in_the_set():
    probabilities = torch.tensor([[0.7, 0.2, 0.1]])
    limit = threshold(probabilities.repeat(3, 1), torch.tensor([1, 1, 1]), 0.5)
    assert prediction_sets(probabilities, limit).tolist() == [[True, True, False]]


def test_item_without_a_likely_class_gets_an_empty_set():
    assert not prediction_sets(torch.tensor([[0.4, 0.3, 0.3]]), 0.5).any()


def test_equal_probabilities_are_in_the_set_together():
    probabilities = torch.full((30, 4), 0.25)
    limit = threshold(probabilities, torch.arange(30) % 4, 0.5)
    assert prediction_sets(probabilities, limit).all()


def test_sets_grow_with_the_coverage():
    probabilities, labels = answers(200, 5, torch.Generator().manual_seed(2))
    sets = [prediction_sets(probabilities, threshold(probabilities, labels, share)) for share in (0.6, 0.8, 0.95)]
    assert all((small <= large).all() for small, large in itertools.pairwise(sets))
