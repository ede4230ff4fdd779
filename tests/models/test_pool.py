import gc
import pickle
import weakref
from contextlib import nullcontext

import pytest
import torch
from synthetic import PICTURE, TITLE, VIEWS, departed_learner, draw, make_domain

from data_contracts.configs import TrainConfig
from models.catalogue import build_learner
from models.geometry import fit_bases, remembered
from models.pool import POOL_SIZE, pool_rows
from models.training import train


def test_pool_is_every_item_or_an_evenly_spaced_part():
    assert torch.equal(pool_rows(96), torch.arange(96))
    rows = pool_rows(5000)
    assert (len(rows), int(rows[0]), int(rows[-1])) == (POOL_SIZE, 0, 4999)
    assert set(rows.diff().tolist()) <= {2, 3}


@pytest.mark.parametrize("size", [40, 96])
def test_rows_are_found_in_the_pool(size, monkeypatch):
    monkeypatch.setattr("models.pool.POOL_SIZE", size)
    domain, rows = make_domain(), torch.tensor([95, 0, 41, 42, 0])
    pool = domain.pool_rows.tolist()
    expected = [pool.index(row) if row in pool else -1 for row in rows.tolist()]
    assert domain.positions_in_pool(rows).tolist() == expected
    assert (-1 in expected) == (size < 96)


def test_pool_is_centred_once_for_all_that_is_hidden_of_a_domain(toys):
    presence = toys.presence & (torch.arange(96)[:, None] % 4 != torch.arange(3))
    hidden = toys.with_presence(presence)
    assert hidden.pool is toys.pool
    assert hidden.with_classes(toys.classes[:3]).pool is toys.pool
    assert torch.equal(toys.in_pool, toys.presence)
    assert torch.equal(hidden.in_pool, presence)
    for name, items in hidden.pool.masked(hidden.in_pool).items():
        torch.testing.assert_close(items, hidden.centred(torch.arange(96))[name])


def test_pool_is_not_sent_along_with_a_domain(toys):
    hidden = toys.with_view_dropout(0.3, torch.Generator().manual_seed(0))
    before = len(pickle.dumps(hidden))
    with remembered([hidden]):
        build_learner("metric").log_probabilities(draw(hidden))
        assert len(pickle.dumps(hidden)) < before + 10_000  # the cosines alone are ten times that
        sent = pickle.loads(pickle.dumps(hidden))
    assert not sent.pool.keeps_cosines
    torch.testing.assert_close(sent.pool.views, toys.pool.views)
    assert torch.equal(sent.in_pool, hidden.in_pool)


def test_views_that_items_came_without_are_refused(toys):
    hidden = toys.with_hidden_views(0.3, torch.Generator().manual_seed(0))
    shown = hidden.with_presence(toys.presence)
    assert torch.equal(shown.in_pool, toys.presence)
    with pytest.raises(ValueError, match="came without"):
        hidden.take(torch.arange(96)).with_presence(toys.presence)


def test_what_was_kept_while_nothing_had_gradients_serves_where_something_has(toys):
    learner = departed_learner(domains=[make_domain(per_class=40)])
    with torch.inference_mode():
        learner.log_probabilities(draw(toys))
    learner.meta_loss(draw(toys)).backward()
    assert learner.placement.whitening.level.grad.any()


def test_items_of_their_own_have_a_pool_of_their_own(toys):
    some = toys.with_presence(toys.presence).take(torch.arange(20))
    assert len(some.pool) == 20
    torch.testing.assert_close(some.pool.views, some.centred(torch.arange(20)))


@pytest.mark.parametrize("hidden", [0.0, 0.4])
def test_learner_answers_the_same_whether_cosines_are_kept_or_not(hidden):
    domain = make_domain(per_class=40, missing=0.1)
    learner = departed_learner(domains=[domain])
    assert learner.placement.bases
    episodes = draw(domain.with_view_dropout(hidden, torch.Generator().manual_seed(1)))
    losses, gradients = [], []
    for keeping in (nullcontext(), remembered([domain])):
        with keeping:
            loss = learner.meta_loss(episodes)
        losses.append(loss)
        gradients.append(torch.autograd.grad(loss, list(learner.placement.parameters())))
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)


def test_squares_are_of_the_directions_asked_for(toys):
    generator = torch.Generator().manual_seed(0)
    for directions in torch.randn(2, TITLE.dim, 3, generator=generator):
        for _ in range(2):
            expected = (toys.pool.views["title"] @ directions).square()
            torch.testing.assert_close(toys.pool.squares("title", directions), expected)


def test_cosines_are_kept_of_as_many_domains_as_there_is_room_for_and_no_longer(monkeypatch):
    monkeypatch.setattr("models.geometry.MOST_KEPT", 4 * 96**2 * 4)
    domains = [make_domain(views=VIEWS), make_domain(views=(TITLE, PICTURE)), make_domain(views=(TITLE,))]
    for some in (domains, domains[1:]):
        with remembered(some):
            kept = [domain.pool.keeps_cosines for domain in domains]
        assert kept == [some is domains, some is not domains, True]
        assert not any(domain.pool.keeps_cosines for domain in domains)


def test_cosines_of_a_part_of_a_domain_are_not_kept(monkeypatch):
    monkeypatch.setattr("models.pool.POOL_SIZE", 50)
    domain = make_domain()
    with remembered([domain]):
        assert not domain.pool.keeps_cosines
        answers = build_learner("metric").log_probabilities(draw(domain))
    assert answers.isfinite().all()


def test_bases_are_fitted_once_for_each_set_of_classes_while_domains_are_remembered():
    domain = make_domain(per_class=40)
    with remembered([domain]):
        first, second, again = (fit_bases((domain,), domain.classes[:count], rank=4) for count in (3, 5, 3))
        assert again is first is not second
    assert fit_bases((domain,), domain.classes[:3], rank=4) is not first


@pytest.mark.usefixtures("short_fits")
def test_domains_go_once_a_learner_is_trained_on_them():
    domains = [make_domain(classes=12, per_class=8, seed=seed) for seed in (1, 2)]
    gone = [weakref.ref(domain.features["title"]) for domain in domains]
    config = TrainConfig(steps=2, n_way=3, n_query=4, shots=(1,), meta_batch=2, validate_every=1)
    learner = build_learner("metric")
    assert [now.step for now in train(learner, domains, config)] == [0, 1, 2]
    del domains
    gc.collect()
    assert [feature() for feature in gone] == [None, None]
