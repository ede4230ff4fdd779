import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from models.episodes import mean_shares, one_hot
from models.metric.network import MetricNetwork
from models.metric.prototypical_episodes import (
    class_means,
    fit_episodes,
    prototype_logits,
    prototypical_loss,
    storage_type,
)

WAY, SHOT, QUERY, DIM = 3, 2, 4, 10


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(batch: int = 5, dim: int = DIM, seed: int = 0):
    generator = seeded(seed)
    items = torch.randn(batch, WAY * (SHOT + QUERY), dim, generator=generator)
    membership = torch.eye(WAY).repeat_interleave(SHOT, 0).expand(batch, -1, -1).clone()
    labels = torch.arange(WAY).repeat_interleave(QUERY).expand(batch, -1).clone()
    return items, membership, labels


def test_prototype_is_the_mean_of_its_class():
    items = torch.tensor([[[0.0, 0.0], [2.0, 0.0], [5.0, 5.0], [9.0, 9.0]]])
    for padding in (-1, -2, 3, 4):
        assert class_means(items, torch.tensor([[0, 0, 1, padding]]), 3).tolist() == [[[1, 0], [5, 5], [0, 0]]]


def test_logits_are_minus_squared_distances_but_for_a_number_per_query():
    items, membership, _ = drawn()
    support, query = items[:, : WAY * SHOT], items[:, WAY * SHOT :]
    expected = -torch.cdist(query, mean_shares(membership).mT @ support).square()
    logits = prototype_logits(support, query, membership.argmax(-1), WAY)
    torch.testing.assert_close(logits.log_softmax(-1), expected.log_softmax(-1), atol=1e-4, rtol=1e-4)


def test_logits_can_be_differentiated():
    items, membership, _ = drawn(batch=2)
    support, query = (part.double().requires_grad_() for part in items.split([WAY * SHOT, WAY * QUERY], dim=1))
    labels = membership.argmax(-1)
    assert torch.autograd.gradcheck(lambda *given: prototype_logits(*given, labels, WAY), (support, query))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("has_padding", [False, True], ids=["full", "padded"])
def test_loss_and_its_gradient_are_those_of_distances_in_the_space_of_the_network(has_padding, dtype):
    items, membership, labels = drawn()
    items, membership = items.to(dtype), membership.to(dtype)
    if has_padding:
        membership[0, 1], labels[1, 2:5] = 0, -1
    network = MetricNetwork(DIM, 16, 8).to(dtype)
    torch.nn.init.normal_(network.out.bias)
    support, query = network(items[:, : WAY * SHOT]), network(items[:, WAY * SHOT :])
    logits = -(query.unsqueeze(2) - (mean_shares(membership).mT @ support).unsqueeze(1)).square().sum(-1)
    expected = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-1)
    loss = prototypical_loss(network, items, mean_shares(membership), one_hot(labels, WAY).to(dtype))
    torch.testing.assert_close(loss, expected)
    weights = (network.hidden.weight, network.hidden.bias, network.out.weight)
    torch.testing.assert_close(torch.autograd.grad(loss, weights), torch.autograd.grad(expected, weights))


def test_items_stored_in_half_precision_give_nearly_the_same_gradient():
    items, membership, labels = drawn(batch=32, dim=512)
    centres = torch.cat([torch.eye(WAY, 512).repeat_interleave(count, 0) for count in (SHOT, QUERY)])
    items = normalize(items + 10 * centres, dim=-1)
    network = MetricNetwork()
    shares, targets = mean_shares(membership), one_hot(labels, WAY)
    weights = (network.hidden.weight, network.hidden.bias, network.out.weight)
    single, half = (
        torch.autograd.grad(prototypical_loss(network, stored, shares, targets), weights)
        for stored in (items, items.bfloat16())
    )
    for expected, found in zip(single, half, strict=True):
        assert found.dtype == torch.float32
        assert 0 < (found - expected).norm() < 3e-2 * expected.norm()


def test_items_are_stored_in_half_precision_where_the_processor_multiplies_it(monkeypatch):
    items = torch.zeros(1, 2)
    for has_instructions, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda found=has_instructions: {"avx512_bf16": found})
        assert storage_type(items) == expected
        assert storage_type(items.to("meta")) == torch.float32


def test_network_is_fitted_to_items_as_they_are_stored(monkeypatch):
    monkeypatch.setattr("models.metric.network.STEPS", 3)
    labels = torch.arange(6).repeat_interleave(6)
    items = normalize(torch.eye(6, 512)[labels] + 0.1 * torch.randn(36, 512, generator=seeded(1)), dim=-1)
    fitted = []
    for has_instructions in (False, True):
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda found=has_instructions: {"avx512_bf16": found})
        network = MetricNetwork()
        fit_episodes(network, [items], [labels])
        fitted.append(network.hidden.weight - MetricNetwork().hidden.weight)
    single, half = fitted
    assert 0 < (half - single).norm() < 0.2 * single.norm()
