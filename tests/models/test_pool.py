import pickle

import pytest
import torch
from synthetic import PICTURE, TITLE, VIEWS, departed_learner, draw, make_domain

from models.catalogue import build_learner
from models.features import keep_cosines
from models.pool import POOL_SIZE, pool_rows


def test_pool_is_every_item_or_an_evenly_spaced_part():
    assert torch.equal(pool_rows(96), torch.arange(96))
    rows = pool_rows(5000)
    assert (len(rows), int(rows[0]), int(rows[-1])) == (POOL_SIZE, 0, 4999)
    assert set(rows.diff().tolist()) <= {2, 3}


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
    keep_cosines([hidden])
    build_learner("metric").log_probabilities(draw(hidden))
    assert len(pickle.dumps(hidden)) < before + 10_000  # the cosines alone are ten times that
    sent = pickle.loads(pickle.dumps(hidden))
    assert not sent.pool.keeps_cosines
    torch.testing.assert_close(sent.pool.views, toys.pool.views)
    assert torch.equal(sent.in_pool, hidden.in_pool)


def test_items_of_their_own_have_a_pool_of_their_own(toys):
    some = toys.with_presence(toys.presence).take(torch.arange(20))
    assert len(some.pool) == 20
    torch.testing.assert_close(some.pool.views, some.centred(torch.arange(20)))


@pytest.mark.parametrize("hidden", [0.0, 0.4])
def test_learner_answers_the_same_whether_cosines_are_kept_or_not(hidden):
    plain, keeping = (make_domain(per_class=40, missing=0.1) for _ in range(2))
    keep_cosines([keeping], 2**24)
    learner = departed_learner(domains=[plain])
    assert learner.placement.bases
    losses, gradients = [], []
    for domain in (plain, keeping):
        dropped = domain.with_view_dropout(hidden, torch.Generator().manual_seed(1))
        loss = learner.meta_loss(draw(dropped))
        losses.append(loss)
        gradients.append(torch.autograd.grad(loss, list(learner.placement.parameters())))
    assert (plain.pool.keeps_cosines, keeping.pool.keeps_cosines) == (False, True)
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)


def test_squares_are_of_the_directions_asked_for(toys):
    generator = torch.Generator().manual_seed(0)
    for directions in torch.randn(2, TITLE.dim, 3, generator=generator):
        for _ in range(2):
            expected = (toys.pool.views["title"] @ directions).square()
            torch.testing.assert_close(toys.pool.squares("title", directions), expected)


def test_cosines_are_kept_of_as_many_domains_as_there_is_room_for():
    domains = [make_domain(views=VIEWS), make_domain(views=(TITLE, PICTURE)), make_domain(views=(TITLE,))]
    keep_cosines(domains, 4 * 96**2 * 4)
    assert [domain.pool.keeps_cosines for domain in domains] == [True, False, True]


def test_cosines_of_a_part_of_a_domain_are_not_kept(monkeypatch):
    monkeypatch.setattr("models.pool.POOL_SIZE", 50)
    domain = make_domain()
    keep_cosines([domain], 2**20)
    assert not domain.pool.keeps_cosines
    build_learner("metric").log_probabilities(draw(domain))
