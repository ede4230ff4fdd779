from dataclasses import replace

import pytest
import torch
from synthetic import draw, gather, make_domain
from test_grams import by_hand
from torch import Tensor

from models.generation.in_context import Attention, Context, InContextHead, label_vectors

WEIGHTS = torch.tensor([[0.5, 0.3, 0.2]])


def token_by_token(head: InContextHead, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
    """The labels that queries read, one sequence of explicit tokens for each query: support first, query last."""
    n_way, n_support = labels.shape[1], len(support)
    origin = (labels.T @ support / labels.sum(0)[:, None]).mean(0)
    unused = torch.zeros(1, n_support, n_support)
    is_there, shot = torch.ones(1, n_support, dtype=torch.bool), labels.sum()[None] / n_way
    context = Context(unused, unused, labels[None], is_there, shot)
    read = []
    for item in query:
        content = torch.cat([support, item[None]]) - origin
        carried = torch.cat([labels - 1 / n_way, torch.zeros(1, n_way)])
        for layer in head.layers:
            offered, told = content[:n_support], carried[:n_support]
            attention = layer((content @ offered.T)[None], (carried @ told.T)[None], context)[0]
            content = (content + attention @ offered) / 2
            carried = carried + attention @ told
            carried[:n_support] /= 2
        read.append(carried[-1])
    return torch.stack(read)


def test_reading_by_inner_products_is_reading_token_by_token():
    batch = draw(make_domain(), batch=1, n_way=4, n_shot=3)
    grams, head = gather(batch), InContextHead()
    joined = torch.cat([w**0.5 * items for w, items in zip(WEIGHTS[0], grams.items.views, strict=True)], dim=-1)
    support, query = joined[grams.items.support[0]], joined[grams.items.query[0]]
    with torch.no_grad():
        expected = token_by_token(head, support, batch.membership[0], query)
        found = head.read(grams, WEIGHTS)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert expected.abs().max() > 0.01


@pytest.mark.parametrize("n_way", [2, 5, 100])
def test_label_vectors_are_equiangular_whatever_the_number_of_ways(n_way):
    labels = label_vectors(by_hand(torch.eye(n_way).tolist(), [[1.0] * n_way], list(range(n_way)), n_way))[0]
    products = labels @ labels.T
    torch.testing.assert_close(products, torch.eye(n_way) - 1 / n_way)
    torch.testing.assert_close(labels.sum(0), torch.zeros(n_way), atol=1e-5, rtol=0)


def test_label_vectors_span_the_classes_that_have_support_alone():
    grams = by_hand([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]], [[1.0, 0.0]], [0, 1, 2], 3)
    assert label_vectors(grams)[0].tolist() == [[0.5, 0.0, -0.5], [0.0, 0.0, 0.0], [-0.5, 0.0, 0.5]]


def test_attention_sums_to_one_over_the_support_that_is_there():
    similarity = torch.rand(1, 2, 4, generator=torch.Generator().manual_seed(0))
    is_there, unused = torch.tensor([[True, False, True, True]]), torch.zeros(1, 4, 4)
    context = Context(unused, unused, unused, is_there, torch.ones(1))
    attention = Attention()(similarity, torch.zeros(1, 2, 4), context)
    torch.testing.assert_close(attention.sum(-1), torch.ones(1, 2))
    assert not attention[..., 1].any()


def test_query_reads_the_class_that_it_lies_in():
    batch = draw(make_domain(), batch=20, n_way=5, n_shot=5)
    with torch.no_grad():
        read = InContextHead().read(gather(batch), WEIGHTS.expand(20, -1))
    assert (read.argmax(-1) == batch.query_labels).float().mean() > 0.8


def test_seventy_ways_are_answered_and_relabelling_them_permutes_the_answers():
    domain = make_domain(classes=70, per_class=4)
    batch = draw(domain, batch=1, n_way=70, n_shot=2, n_query=2)
    grams, head = gather(batch), InContextHead()
    order = torch.randperm(70, generator=torch.Generator().manual_seed(0))
    renamed = replace(grams, membership=grams.membership[..., order])
    with torch.no_grad():
        head.strength.level.fill_(1.0)
        expected = head(grams, WEIGHTS)[..., order]
        torch.testing.assert_close(head(renamed, WEIGHTS), expected, atol=1e-4, rtol=0)


def test_no_query_is_no_trouble():
    grams = gather(draw(make_domain(), batch=1))
    none = replace(grams, cross=grams.cross[:, :, :0], query_presence=grams.query_presence[:, :, :0])
    with torch.no_grad():
        assert InContextHead()(none, WEIGHTS).shape == (1, 0, 4)


def test_queries_read_the_same_in_blocks_as_all_at_once(monkeypatch):
    batch = draw(make_domain(), batch=2)
    grams, head = gather(batch), InContextHead()
    with torch.no_grad():
        at_once = head.read(grams, WEIGHTS.expand(2, -1))
        monkeypatch.setattr("models.generation.in_context.PAIRS_AT_ONCE", 7 * batch.support.numel())
        torch.testing.assert_close(head.read(grams, WEIGHTS.expand(2, -1)), at_once, atol=1e-6, rtol=0)
