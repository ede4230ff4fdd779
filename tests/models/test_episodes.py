import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from synthetic import class_names, draw, make_domain

from data_contracts.errors import EpisodeTooSmall
from models.episodes import EpisodeBatch, EpisodeSampler, draw_without_replacement, one_hot


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(sizes=st.lists(st.integers(0, 400), min_size=1, max_size=6), count=st.integers(1, 12), seed=st.integers(0, 99))
def test_draws_differ_lie_below_their_size_and_end_in_padding(sizes, count, seed):
    drawn = draw_without_replacement(torch.tensor(sizes), count, generator(seed))
    for size, row in zip(sizes, drawn.tolist(), strict=True):
        real = row[: min(size, count)]
        assert len(set(real)) == len(real)
        assert all(0 <= number < size for number in real)
        assert row[len(real) :] == [-1] * (count - len(real))


@pytest.mark.parametrize(("size", "count"), [(3, 2), (6, 3), (40, 3), (5, 5)], ids=["two", "small", "large", "whole"])
def test_every_ordered_draw_is_equally_likely(size, count):
    drawn = draw_without_replacement(torch.full((30_000,), size), count, generator())
    for place in range(count):
        assert chisquare(torch.bincount(drawn[:, place], minlength=size)).pvalue > 1e-4
    pairs = torch.bincount(drawn[:, 0] * size + drawn[:, 1], minlength=size * size).view(size, size)
    assert pairs.diagonal().sum() == 0
    assert chisquare(pairs[~torch.eye(size, dtype=torch.bool)]).pvalue > 1e-4


def test_draw_costs_the_same_whatever_the_size():
    def seconds(size: int) -> float:
        sizes = torch.full((2_000,), size)
        best = []
        for _ in range(5):
            started = time.perf_counter()
            draw_without_replacement(sizes, 6, generator())
            best.append(time.perf_counter() - started)
        return min(best)

    seconds(100)
    assert seconds(10_000_000) < 3 * seconds(100)


def test_episode_has_way_shot_and_query_items_of_each_class():
    batch = draw(make_domain(), batch=7, n_way=4, n_shot=2, n_query=5)
    assert len(batch) == 7
    assert batch.support.shape == (7, 8)
    assert batch.query.shape == (7, 20)
    for labels, count in ((batch.support_labels, 2), (batch.query_labels, 5)):
        assert (one_hot(labels, 4).sum(1) == count).all()


def test_one_way_of_an_episode_is_one_class_of_the_domain_and_no_item_is_on_both_sides():
    domain = make_domain(unlabelled=10)
    batch = draw(domain, batch=20)
    for number in range(len(batch)):
        rows = torch.cat([batch.support[number], batch.query[number]])
        ways = torch.cat([batch.support_labels[number], batch.query_labels[number]])
        assert len(rows.unique()) == len(rows)
        assert all(len(domain.labels[rows[ways == way]].unique()) == 1 for way in range(4))
        assert len(domain.labels[rows].unique()) == 4
        assert (domain.labels[rows] >= 0).all()


def test_classes_and_items_are_drawn_equally_often():
    domain = make_domain(classes=6, per_class=5)
    batch = EpisodeSampler(domain).sample(4_000, 2, 1, 1, generator())
    for rows in (batch.support, batch.query):
        assert chisquare(torch.bincount(rows.flatten(), minlength=30)).pvalue > 1e-4


def test_class_too_small_for_all_queries_is_padded():
    domain = make_domain(classes=2, per_class=4)
    batch = draw(domain, n_way=2, n_shot=1, n_query=6)
    assert ((batch.query_labels == -1).sum(1) == 6).all()
    assert (one_hot(batch.query_labels, 2).sum(1) == 3).all()


def test_padded_support_belongs_to_no_way():
    domain = make_domain(classes=2, per_class=4)
    padded = EpisodeBatch(
        domain, torch.tensor([[0, 4, 0]]), torch.tensor([[0, 1, -1]]), torch.tensor([[1]]), torch.tensor([[0]]), 2
    )
    assert padded.membership.tolist() == [[[1, 0], [0, 1], [0, 0]]]


def test_shot_is_the_mean_over_classes_that_have_support(toys):
    labels = torch.tensor([[0, 0, 0, 2, 2, 2], [0, 0, 0, 2, -1, -1], [1, -1, -1, -1, -1, -1]])
    rows = torch.zeros_like(labels)
    batch = EpisodeBatch(toys, rows, labels, rows, labels, n_way=4)
    assert batch.shots.tolist() == [3, 2, 1]


def test_class_numbers_are_those_of_the_domain_and_a_way_without_support_has_none():
    batch = EpisodeBatch(
        make_domain(classes=3, per_class=4),
        torch.tensor([[8, 0, 9], [4, 0, 8]]),
        torch.tensor([[0, 1, 0], [1, -1, -1]]),
        torch.tensor([[1], [5]]),
        torch.tensor([[1], [1]]),
        2,
    )
    assert batch.class_numbers.tolist() == [[2, 0], [-1, 1]]


def test_same_generator_state_gives_the_same_episodes():
    first, second = draw(make_domain(), seed=3), draw(make_domain(), seed=3)
    assert torch.equal(first.support, second.support)
    assert torch.equal(first.query, second.query)


def test_ids_and_presence_follow_the_rows(toys):
    batch = draw(toys)
    assert batch.item_ids(batch.query[0]) == tuple(toys.item_ids[row] for row in batch.query[0].tolist())
    assert torch.equal(batch.presence(batch.query)[1, 2], toys.presence[batch.query[1, 2]])


def test_slice_of_a_batch_holds_its_episodes(toys):
    batch = draw(toys, batch=6)
    assert torch.equal(batch[2:5].support, batch.support[2:5])
    assert torch.equal(batch[2:5].query_labels, batch.query_labels[2:5])
    assert len(batch[2:5]) == 3


def test_only_the_given_classes_are_drawn():
    domain = make_domain()
    wanted = class_names(3, start=4)
    batch = EpisodeSampler(domain, (*wanted, "of no domain")).sample(50, 3, 1, 2, generator())
    assert set(domain.labels[batch.query].flatten().tolist()) == {4, 5, 6}


def test_classes_without_enough_labels_are_reported_by_name():
    domain = make_domain(classes=("common", "rare"), per_class=3)
    domain.labels[4:] = -1
    with pytest.raises(EpisodeTooSmall, match="'rare' has 1 labelled items") as caught:
        draw(domain, n_way=2, n_shot=1, n_query=1)
    assert caught.value.facts == {"domain": "toys", "n_way": 2, "needed": 2}


def test_min_query_decides_which_classes_are_large_enough():
    sampler = EpisodeSampler(make_domain(classes=3, per_class=6))
    assert len(sampler.sample(1, 3, 1, 10, generator(), min_query=5)) == 1
    with pytest.raises(EpisodeTooSmall, match="at least 7"):
        sampler.sample(1, 3, 2, 10, generator(), min_query=5)


def test_too_few_classes_is_an_error_even_if_all_are_large():
    with pytest.raises(EpisodeTooSmall, match="no other class is there"):
        draw(make_domain(classes=3), n_way=4)


def test_one_hot_of_padding_is_zero():
    assert one_hot(torch.tensor([1, -1, 0]), 2).tolist() == [[0, 1], [0, 0], [1, 0]]


def test_item_without_any_view_is_never_drawn():
    domain = make_domain(classes=2, per_class=6)
    empty = torch.arange(12) % 3 == 0
    batch = draw(domain.with_presence(domain.presence & ~empty[:, None]), batch=20, n_way=2, n_shot=2, n_query=2)
    assert not empty[batch.support].any()
    assert not empty[batch.query].any()
    with pytest.raises(EpisodeTooSmall, match="0 classes with at least 5 labelled items"):
        draw(batch.domain, n_way=2, n_shot=4, n_query=1)
