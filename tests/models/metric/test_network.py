from dataclasses import replace

import pytest
import torch
from synthetic import draw, gather, make_domain
from torch import Tensor

from models.common_space import COMMON_DIM
from models.grams import EpisodeGrams
from models.metric.losses import euclidean, pairwise_squared
from models.metric.network import LearnedMetricHead, MetricNetwork, contrastive_head, triplet_head
from models.metric.prototypical_episodes import protonet_head
from models.nearest import nearness, support_as_queries

WEIGHTS = torch.tensor([0.5, 0.3, 0.2])


@pytest.fixture
def episode() -> EpisodeGrams:
    return gather(draw(make_domain(), batch=1, n_way=4, n_shot=3))


@pytest.fixture(params=[triplet_head, contrastive_head, protonet_head], ids=["triplet", "contrastive", "protonet"])
def head(request: pytest.FixtureRequest) -> LearnedMetricHead:
    return request.param()


def clouds(classes: range) -> tuple[Tensor, Tensor]:
    """Classes that differ along a few directions of the common space, in noise along all."""
    generator = torch.Generator().manual_seed(1)
    centres = torch.zeros(20, COMMON_DIM)
    centres[:, :8] = torch.randn(20, 8, generator=generator)
    labels = torch.tensor(list(classes)).repeat_interleave(30)
    noise = torch.randn(len(labels), COMMON_DIM, generator=torch.Generator().manual_seed(2 + classes.start))
    return torch.nn.functional.normalize(centres[labels] + 0.4 * noise, dim=-1), labels


def contrast(items: Tensor, labels: Tensor) -> float:
    """Mean distance between classes as a multiple of that within them."""
    distances = euclidean(pairwise_squared(items, items))
    same = labels[:, None] == labels
    return float(distances[~same].mean() / distances[same & (distances > 0)].mean())


def test_untrained_network_is_a_projection_that_keeps_lengths():
    network = MetricNetwork()
    items, _ = clouds(range(10))
    with torch.no_grad():
        torch.testing.assert_close(network(2 * items - 1), 2 * network(items) + network(-torch.ones_like(items)))
        assert network(items).square().sum(-1).mean().item() == pytest.approx(1.0, abs=0.1)


def test_network_starts_anew_the_same(head):
    start = {name: value.clone() for name, value in head.network.state_dict().items()}
    items, labels = clouds(range(10))
    head.fit([items], [labels])
    once = {name: value.clone() for name, value in head.network.state_dict().items()}
    assert not torch.equal(once["hidden.weight"], start["hidden.weight"])
    head.fit([items], [labels])
    assert all(torch.equal(value, once[name]) for name, value in head.network.state_dict().items())
    head.network.reset_parameters()
    assert all(torch.equal(value, start[name]) for name, value in head.network.state_dict().items())


def test_fitted_network_sets_apart_classes_it_has_not_seen(head):
    items, labels = clouds(range(10, 20))
    with torch.no_grad():
        before = contrast(head.network(items), labels)
        head.fit(*([part] for part in clouds(range(10))))
        after = contrast(head.network(items), labels)
    assert after > 1.1 * before


def test_fitting_survives_domains_without_labelled_items(head):
    items, labels = clouds(range(2))
    head.fit([items[:0], items[:1], items], [labels[:0], labels[:1], labels])
    assert all(value.isfinite().all() for value in head.network.state_dict().values())


def test_outer_loop_has_no_hold_on_the_network(head, episode):
    head(episode, WEIGHTS[None])[0, :, 0].sum().backward()
    assert all(not parameter.requires_grad for parameter in head.network.parameters())
    assert head.gate.level.grad.any()


def test_closed_gate_opens_again_where_the_network_helps(head, episode):
    """Of a loss of one episode and its opposite one falls as the gate opens: that opens it, the other lets it be."""
    torch.nn.init.constant_(head.gate.level, -0.3)
    logits = head(episode, WEIGHTS[None])[..., 0].sum()
    either = [torch.autograd.grad(loss, head.gate.level, retain_graph=True)[0].item() for loss in (logits, -logits)]
    assert min(either) < 0
    assert max(either) == 0


def test_logits_are_a_mean_of_both_distances_by_the_gate(head, episode):
    with torch.no_grad():
        head.gate.level.fill_(0.5)
        support, query = (head.network(items)[0] for items in episode.items.common(WEIGHTS[None]))
        found = head(episode, WEIGHTS[None])[0]
    labels = episode.membership[0].argmax(-1)
    prototypes = torch.stack([support[labels == way].mean(0) for way in range(4)])
    spread = (support - support.mean(0)).square().sum(-1).mean()
    learned = torch.cdist(query, prototypes).square() / spread
    expected = -torch.tensor(2.0).exp() * (0.5 * learned - nearness(episode, WEIGHTS[None])[0]) / 1.5
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_fine_tuning_is_in_the_space_of_both_distances_and_is_held_against_means_without_the_item(head, episode):
    given = []
    head.fine_tuning.register_forward_pre_hook(lambda _, inputs: given.append(inputs))
    with torch.no_grad():
        head.gate.level.fill_(0.5)
        before = head(episode, WEIGHTS[None])[0]
        learned = [head.network(items)[0] for items in episode.items.common(WEIGHTS[None])]
    logits, nearest, gram, cross, *_ = given[0]
    torch.testing.assert_close(logits[0], before)
    fused = torch.cat([w**0.5 * items for w, items in zip(WEIGHTS, episode.items.views, strict=True)], dim=-1)
    unit = (learned[0] - learned[0].mean(0)).square().sum(-1).mean()
    numbers = (episode.items.support[0], episode.items.query[0])
    support, query = (
        torch.cat([(0.5 / unit) ** 0.5 * (items - learned[0].mean(0)), fused[rows]], dim=-1) / 1.5**0.5
        for items, rows in zip(learned, numbers, strict=True)
    )
    torch.testing.assert_close(gram[0], support @ support.T, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(cross[0], query @ support.T, atol=1e-5, rtol=1e-4)
    is_in = torch.arange(12).remainder(3) > 0
    rest = replace(support_as_queries(episode), membership=episode.membership * is_in[:, None])
    labels = episode.membership[0].argmax(-1)
    prototypes = torch.stack([support[is_in & (labels == way)].mean(0) for way in range(4)])
    with torch.no_grad():
        expected = -torch.tensor(2.0).exp() * torch.cdist(support, prototypes).square()
        torch.testing.assert_close(nearest(rest)[0], expected, atol=1e-3, rtol=1e-4)


def test_network_that_sees_no_view_takes_nothing_from_the_classifier(head, episode):
    blind = replace(episode, items=replace(episode.items, encoder_ids=(None, None, None)))
    with torch.no_grad():
        head.network.hidden.bias.uniform_(0, 1, generator=torch.Generator().manual_seed(0))
        head.fine_tuning.strength.level.fill_(1.0)
        alone = head(blind, WEIGHTS[None])
        head.gate.level.fill_(1e-3)
        torch.testing.assert_close(head(blind, WEIGHTS[None]), alone, atol=0.05, rtol=0)
