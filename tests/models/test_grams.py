import math
from dataclasses import replace

import pytest
import torch
from synthetic import draw, gather, make_domain
from torch.nn.functional import normalize

from models.common_space import COMMON_DIM
from models.grams import LIKENESS, EpisodeGrams, PlacedItems, distinct_rows, squared_distances


def by_hand(support: list[list[float]], queries: list[list[float]], labels: list[int], n_way: int) -> EpisodeGrams:
    """One episode with one view; a row of zeros is an item without it."""
    own, others = torch.tensor(support), torch.tensor(queries)
    return EpisodeGrams(
        support=(own @ own.T)[None, None],
        cross=(others @ own.T)[None, None],
        support_presence=own.any(1)[None, None],
        query_presence=others.any(1)[None, None],
        membership=torch.nn.functional.one_hot(torch.tensor(labels), n_way).float()[None],
        items=PlacedItems(
            (torch.cat([own, others]),),
            ("words-1",),
            torch.arange(len(own))[None],
            torch.arange(len(own), len(own) + len(others))[None],
            torch.cat([own, others]).any(1, keepdim=True),
        ),
    )


def test_coverage_is_the_weight_of_the_views_that_items_came_with_whatever_was_filled_and_padding_apart():
    grams = by_hand([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]], [0, 1, 0], 2)
    two_views = torch.tensor([[1, 1], [0, 1], [0, 0], [1, 0], [0, 0]], dtype=torch.bool)
    padded = grams.membership * torch.tensor([1.0, 1.0, 0.0])[None, :, None]
    found = replace(grams, items=replace(grams.items, came_with=two_views), membership=padded).coverage(
        torch.tensor([[0.7, 0.3]])
    )
    torch.testing.assert_close(found.support, torch.tensor([(1.0 + 0.3) / 2]))
    torch.testing.assert_close(found.query, torch.tensor([[0.7, 0.0]]))


def test_distinct_rows_name_every_row_once_and_lead_back():
    batch = draw(make_domain())
    rows, support, query = distinct_rows(batch)
    assert len(rows.unique()) == len(rows)
    assert torch.equal(rows[support], batch.support)
    assert torch.equal(rows[query], batch.query)


def test_similarities_are_inner_products_of_the_episodes_own_items(toys):
    batch = draw(toys)
    grams = gather(batch)
    for number, view in enumerate(toys.views):
        everything = toys.centred(torch.arange(len(toys)))[view.name]
        support, query = everything[batch.support], everything[batch.query]
        torch.testing.assert_close(grams.support[:, number], support @ support.mT, atol=1e-5, rtol=0)
        torch.testing.assert_close(grams.cross[:, number], query @ support.mT, atol=1e-5, rtol=0)
        assert torch.equal(grams.query_presence[:, number], toys.presence[batch.query, number])


def test_fused_similarities_are_those_of_weighted_views_side_by_side():
    batch = draw(make_domain())
    weights = torch.tensor([0.2, 0.5, 0.3])
    everything = batch.domain.centred(torch.arange(len(batch.domain)))
    joined = torch.cat([w**0.5 * items for w, items in zip(weights, everything.values(), strict=True)], dim=-1)
    support, query = joined[batch.support], joined[batch.query]
    own, cross = gather(batch).fused(weights.expand(len(batch), -1))
    torch.testing.assert_close(own, support @ support.mT, atol=1e-5, rtol=0)
    torch.testing.assert_close(cross, query @ support.mT, atol=1e-5, rtol=0)


def test_similarities_between_queries_are_those_of_weighted_views_side_by_side():
    batch = draw(make_domain())
    weights = torch.tensor([0.2, 0.5, 0.3])
    everything = batch.domain.centred(torch.arange(len(batch.domain)))
    query = torch.cat([w**0.5 * items for w, items in zip(weights, everything.values(), strict=True)], dim=-1)[
        batch.query
    ]
    found = gather(batch).items.between_queries(weights.expand(len(batch), -1))
    torch.testing.assert_close(found, query @ query.mT, atol=1e-5, rtol=0)


def test_common_space_keeps_similarities_nearly():
    batch = draw(make_domain())
    grams, weights = gather(batch), torch.tensor([0.2, 0.5, 0.3]).expand(len(batch), -1)
    support, query = grams.items.common(weights)
    assert support.shape == (6, 8, COMMON_DIM)
    exact_own, exact_cross = grams.fused(weights)
    assert (support @ support.mT - exact_own).abs().mean() < 1.5 * COMMON_DIM**-0.5
    assert (query @ support.mT - exact_cross).abs().mean() < 1.5 * COMMON_DIM**-0.5


def test_matrix_applied_to_rows_gives_what_it_gives_applied_to_items():
    batch = draw(make_domain())
    items, weights = gather(batch).items, torch.tensor([0.2, 0.5, 0.3]).expand(len(batch), -1)
    matrix = torch.randn(7, COMMON_DIM, generator=torch.Generator().manual_seed(0))
    for through, plain in zip(items.common(weights, matrix), items.common(weights), strict=True):
        torch.testing.assert_close(through, plain @ matrix.T, atol=1e-5, rtol=1e-4)


def test_view_without_an_encoder_id_is_no_part_of_the_common_space():
    batch = draw(make_domain())
    items, weights = gather(batch).items, torch.tensor([0.2, 0.5, 0.3]).expand(len(batch), -1)
    without = replace(items, views=items.views[:2], encoder_ids=items.encoder_ids[:2])
    unnamed = replace(items, encoder_ids=(*items.encoder_ids[:2], None))
    assert torch.equal(unnamed.common(weights)[0], without.common(weights[:, :2])[0])


def test_distances_are_those_to_the_mean_of_each_class():
    batch = draw(make_domain(), n_shot=3)
    distances = squared_distances(gather(batch))
    for number, view in enumerate(batch.domain.views):
        items = batch.domain.centred(torch.arange(len(batch.domain)))[view.name]
        prototypes = batch.membership.mT @ items[batch.support] / 3
        torch.testing.assert_close(
            distances[:, number], torch.cdist(items[batch.query], prototypes).square(), atol=1e-4, rtol=0
        )


def test_item_without_the_view_is_left_out_of_its_prototype():
    grams = by_hand([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]], [[1.0, 0.0]], [0, 0, 1], 2)
    torch.testing.assert_close(squared_distances(grams)[0, 0], torch.tensor([[0.0, 2.0]]))


def test_class_without_any_support_is_as_far_as_the_others_on_average():
    grams = by_hand([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], [[1.0, 0.0]], [0, 1, 2], 3)
    torch.testing.assert_close(squared_distances(grams)[0, 0], torch.tensor([[0.0, 2.0, 1.0]]))


def two_views(support: list[list[float]], query: list[float], labels: list[int]) -> EpisodeGrams:
    """Episode of one query that has the first view only; support items without the first view have the second."""
    first = by_hand(support, [query], labels, max(labels) + 1)
    other = (~first.support_presence).float()
    return replace(
        first,
        support=torch.cat([first.support, other.unsqueeze(-1) * other.unsqueeze(-2)], dim=1),
        cross=torch.cat([first.cross, torch.zeros_like(first.cross)], dim=1),
        support_presence=torch.cat([first.support_presence, ~first.support_presence], dim=1),
        query_presence=torch.cat([first.query_presence, ~first.query_presence], dim=1),
    )


@pytest.mark.parametrize("angle", [0.0, 0.3, 1.0, 2.0])
def test_class_known_by_another_view_is_nearer_where_a_prototype_predicts_no_better_than_the_mean(angle):
    query = torch.tensor([math.cos(angle), math.sin(angle)])
    grams = two_views([[1.0, 0.0], [0.8, 0.6], [0.0, 0.0]], query.tolist(), [0, 0, 1])
    known, unsure = squared_distances(grams)[0, 0, 0].tolist()
    prototype = torch.tensor([0.9, 0.3])
    predicted = prototype * LIKENESS / prototype.square().sum()
    assert known == pytest.approx((query - prototype).square().sum().item(), abs=1e-6)
    assert (known < unsure) == bool((query - predicted).square().sum() < query.square().sum())


def test_query_without_the_view_is_equally_near_to_all():
    grams = by_hand([[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0]], [0, 1], 2)
    assert squared_distances(grams)[0, 0].tolist() == [[0.0, 0.0]]


def test_view_that_no_support_item_has_is_equally_near_to_all():
    grams = by_hand([[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.0]], [0, 1], 2)
    assert squared_distances(grams)[0, 0].tolist() == [[0.0, 0.0]]


def test_shot_is_the_mean_over_classes_with_labels():
    support = normalize(torch.ones(4, 2), dim=-1).tolist()
    assert by_hand(support, [[1.0, 0.0]], [0, 0, 0, 2], 3).shots.tolist() == [2.0]
