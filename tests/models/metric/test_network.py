from dataclasses import replace

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from synthetic import draw, gather, make_domain
from torch import Tensor

from models.common_space import COMMON_DIM
from models.grams import EpisodeGrams
from models.metric.losses import euclidean, pairwise_squared
from models.metric.network import LearnedMetricHead, MetricNetwork, contrastive_head, triplet_head
from models.metric.prototypical_episodes import protonet_head
from models.nearest import nearness

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


def test_scikit_learns_classifier_in_the_space_of_both_distances_is_what_fine_tuning_adds(head, episode):
    fused = torch.cat([w**0.5 * items for w, items in zip(WEIGHTS, episode.items.views, strict=True)], dim=-1)
    with torch.no_grad():
        head.gate.level.fill_(0.5)
        start = head(episode, WEIGHTS[None])[0]
        head.fine_tuning.strength.level.fill_(0.6)
        found = head(episode, WEIGHTS[None])[0] - start
        learned = [head.network(items)[0] for items in episode.items.common(WEIGHTS[None])]
    unit = (learned[0] - learned[0].mean(0)).square().sum(-1).mean()
    numbers = (episode.items.support[0], episode.items.query[0])
    support, query = (
        torch.cat([(0.5 / unit) ** 0.5 * items, fused[rows]], dim=-1) / 1.5**0.5
        for items, rows in zip(learned, numbers, strict=True)
    )
    model = LogisticRegression(C=10.0, tol=1e-6).fit(support.numpy(), episode.membership[0].argmax(-1).numpy())
    expected = 0.6 * torch.from_numpy(model.decision_function(query.numpy())).float()
    expected, found = (logits - logits.mean(-1, keepdim=True) for logits in (expected, found))
    torch.testing.assert_close(found, expected, atol=3e-2, rtol=0)


def test_network_that_sees_no_view_takes_nothing_from_the_classifier(head, episode):
    blind = replace(episode, items=replace(episode.items, encoder_ids=(None, None, None)))
    with torch.no_grad():
        head.network.hidden.bias.uniform_(0, 1, generator=torch.Generator().manual_seed(0))
        head.fine_tuning.strength.level.fill_(1.0)
        alone = head(blind, WEIGHTS[None])
        head.gate.level.fill_(1e-3)
        torch.testing.assert_close(head(blind, WEIGHTS[None]), alone, atol=0.05, rtol=0)


def test_held_out_logits_are_those_of_means_that_the_item_has_no_part_in(head, episode):
    given = []
    head.fine_tuning.register_forward_pre_hook(lambda _, inputs: given.append(inputs))
    with torch.no_grad():
        head.gate.level.fill_(0.5)
        head(episode, WEIGHTS[None])
        learned = head.network(episode.items.common(WEIGHTS[None])[0])[0]
    views = zip(WEIGHTS, episode.items.views, strict=True)
    fused = torch.cat([w**0.5 * items for w, items in views], dim=-1)[episode.items.support[0]]
    unit = (learned - learned.mean(0)).square().sum(-1).mean()
    labels = episode.membership[0].argmax(-1)
    for item in range(12):
        others = torch.arange(12) != item
        own, near = (
            torch.stack([(items[item] - items[others & (labels == way)].mean(0)).square().sum() for way in range(4)])
            for items in (learned, fused)
        )
        expected = -torch.tensor(2.0).exp() * (0.5 * own / unit + near) / 1.5
        torch.testing.assert_close(given[0][1][0, item], expected, atol=1e-4, rtol=1e-4)
