"""The meta-gradient against the same inner loop written plainly with torch.func, in double precision."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn.functional import cross_entropy, mse_loss, normalize, one_hot

from models.optimisation.inner_loop import (
    Goal,
    InnerLoop,
    Layer,
    StoredEpisodes,
    adapt_and_score,
    meta_gradient,
    per_layer,
)
from models.optimisation.inner_losses import CROSS_ENTROPY, SQUARED_ERROR

WAY, SHOT, QUERY, DIM, STEPS, BATCH = 4, 3, 5, 12, 5, 3
SIZES = {"linear head": [], "one hidden layer": [9], "two hidden layers": [9, 6]}
LOOPS = {
    "second order": InnerLoop(),
    "first order": InnerLoop(is_first_order=True),
    "head only": InnerLoop(is_head_only=True),
    "head only, first order": InnerLoop(is_first_order=True, is_head_only=True),
}

each_depth = pytest.mark.parametrize("hidden", SIZES.values(), ids=SIZES)
each_loop = pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)


def network(hidden: Sequence[int], *, dim: int = DIM, out: int = WAY) -> nn.Sequential:
    torch.manual_seed(0)
    sizes = [dim, *hidden, out]
    parts: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        parts += [nn.Linear(inputs, outputs).double(), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def layers_of(net: nn.Sequential) -> list[Layer]:
    return [Layer(part.weight, part.bias) for part in net if isinstance(part, nn.Linear)]


def draw_items() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    support = torch.randn(BATCH, WAY * SHOT, DIM, generator=generator, dtype=torch.float64)
    query = torch.randn(BATCH, WAY * QUERY, DIM, generator=generator, dtype=torch.float64)
    return support, torch.arange(WAY).repeat_interleave(SHOT), query, torch.arange(WAY).repeat_interleave(QUERY)


def table_of_rates(n_layers: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return (0.05 + 0.3 * torch.rand(STEPS, n_layers, generator=generator, dtype=torch.float64)).requires_grad_()


def plainly(
    net: nn.Sequential,
    rates: Tensor,
    inner: Callable[[Tensor], Tensor],
    support: Tensor,
    query: Tensor,
    loop: InnerLoop,
) -> Tensor:
    """Outputs for the queries of one episode; `inner` is the loss of the support's outputs."""
    names = list(dict(net.named_parameters()))
    adapted = dict(net.named_parameters())
    for step in range(len(rates)):
        slopes = grad(lambda state: inner(functional_call(net, state, (support,))))(adapted)
        for number, name in enumerate(names):
            slope = slopes[name].detach() if loop.is_first_order else slopes[name]
            if number // 2 == len(names) // 2 - 1 or not loop.is_head_only:
                adapted[name] = adapted[name] - rates[step, number // 2] * slope
    outputs = functional_call(net, adapted, (query,))
    assert isinstance(outputs, Tensor)
    return outputs


def relative_error(found: Sequence[Tensor | None], expected: Sequence[Tensor | None]) -> float:
    pairs = [(f, e) for f, e in zip(found, expected, strict=True) if e is not None]
    a = torch.cat([f.double().flatten() for f, _ in pairs if f is not None])
    b = torch.cat([e.double().flatten() for _, e in pairs])
    return float((a - b).norm() / b.norm())


@each_depth
@each_loop
def test_meta_gradient_equals_that_of_torch_func(hidden, loop):
    net, (support, labels, query, truth) = network(hidden), draw_items()
    rates = table_of_rates(len(hidden) + 1)
    known = [*net.parameters(), rates]

    expected = sum(
        cross_entropy(plainly(net, rates, lambda z: cross_entropy(z, labels), s, q, loop), truth)
        for s, q in zip(support, query, strict=True)
    )
    targets = one_hot(labels, WAY).double().expand(BATCH, -1, -1)
    logits = adapt_and_score(layers_of(net), support, query, Goal(targets), per_layer(rates), loop)
    found = BATCH * cross_entropy(logits.flatten(0, 1), truth.repeat(BATCH))

    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    expected = torch.autograd.grad(expected, known, allow_unused=True)
    assert relative_error(torch.autograd.grad(found, known, allow_unused=True), expected) < 1e-10


@each_depth
def test_meta_gradient_of_regression_equals_that_of_torch_func(hidden):
    net, (support, _, query, _) = network(hidden, out=2), draw_items()
    rates, loop = table_of_rates(len(hidden) + 1), InnerLoop(SQUARED_ERROR)
    targets, truth = support[..., :2].sin(), query[..., :2].sin()

    expected = sum(
        mse_loss(plainly(net, rates, lambda z, y=y: mse_loss(z, y), s, q, loop), t)
        for s, y, q, t in zip(support, targets, query, truth, strict=True)
    )
    found = BATCH * mse_loss(
        adapt_and_score(layers_of(net), support, query, Goal(targets), per_layer(rates), loop), truth
    )

    known = [*net.parameters(), rates]
    expected = torch.autograd.grad(expected, known)
    assert relative_error(torch.autograd.grad(found, known), expected) < 1e-10


@each_depth
@pytest.mark.parametrize("loop", [LOOPS["second order"], LOOPS["head only"]], ids=["all layers", "head only"])
def test_offsets_weights_and_rates_per_unit_and_episode_have_the_gradient_of_finite_differences(hidden, loop):
    net, (support, labels, query, _) = network(hidden), draw_items()
    targets = one_hot(labels, WAY).double().expand(BATCH, -1, -1)
    weight = 0.1 + torch.rand(BATCH, WAY * SHOT, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    offset = support[..., :WAY].clone().requires_grad_()
    sizes = [*hidden, WAY]
    rates = [(0.2 + 0.1 * torch.rand(BATCH, STEPS, size, dtype=torch.float64)).requires_grad_() for size in sizes]

    def answer(offset: Tensor, support: Tensor, *rates: Tensor) -> Tensor:
        return adapt_and_score(layers_of(net), support, query, Goal(targets, weight, offset), rates, loop)

    used = rates[-1:] if loop.is_head_only else rates
    unused = rates[: len(rates) - len(used)]
    support = support.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda o, s, *r: answer(o, s, *unused, *r), (offset, support, *used), fast_mode=True, atol=1e-6
    )


@each_loop
def test_no_inner_step_leaves_the_base_model(loop):
    net, (support, labels, query, _) = network([9, 6]), draw_items()
    targets = one_hot(labels, WAY).double().expand(BATCH, -1, -1)
    rates = per_layer(torch.zeros(0, 3, dtype=torch.float64))
    torch.testing.assert_close(adapt_and_score(layers_of(net), support, query, Goal(targets), rates, loop), net(query))


@each_depth
def test_order_of_the_support_changes_nothing(hidden):
    net, (support, labels, query, _) = network(hidden), draw_items()
    targets = one_hot(labels, WAY).double().expand(BATCH, -1, -1)
    order = torch.randperm(WAY * SHOT, generator=torch.Generator().manual_seed(0))
    rates = per_layer(table_of_rates(len(hidden) + 1))
    expected = adapt_and_score(layers_of(net), support, query, Goal(targets), rates)
    torch.testing.assert_close(
        adapt_and_score(layers_of(net), support[:, order], query, Goal(targets[:, order]), rates), expected
    )


def stored(n_episodes: int, *, dtype: torch.dtype = torch.float64) -> StoredEpisodes:
    """Episodes that share rows, the first of which has fewer support and query items than the others."""
    generator = torch.Generator().manual_seed(3)
    items = torch.randn(40, DIM, generator=generator, dtype=torch.float64).to(dtype)
    rows = torch.stack([torch.randperm(40, generator=generator)[: WAY * (SHOT + QUERY)] for _ in range(n_episodes)])
    labels = torch.arange(WAY).repeat_interleave(SHOT).repeat(n_episodes, 1)
    truth = torch.arange(WAY).repeat_interleave(QUERY).repeat(n_episodes, 1)
    labels[0, 1::SHOT] = -1
    truth[0, 2::QUERY] = -1
    return StoredEpisodes(items, rows[:, : WAY * SHOT], labels, rows[:, WAY * SHOT :], truth)


def gradients(hidden: Sequence[int], episodes: StoredEpisodes, loop: InnerLoop, **options: int) -> list[Tensor]:
    net, rates = network(hidden), table_of_rates(len(hidden) + 1)
    loss = meta_gradient(layers_of(net), episodes, rates, loop, **options)
    given = [parameter.grad for parameter in (*net.parameters(), rates)]
    return [loss, *(torch.zeros(()) if gradient is None else gradient for gradient in given)]


@each_depth
@each_loop
def test_chunks_change_nothing(hidden, loop):
    episodes = stored(7)
    whole = gradients(hidden, episodes, loop, chunk=7)
    assert relative_error(gradients(hidden, episodes, loop, chunk=3), whole) < 1e-12
    assert relative_error(gradients(hidden, episodes, loop, chunk=1), whole) < 1e-12


@each_depth
@each_loop
def test_padding_changes_nothing(hidden, loop):
    episodes = stored(1)
    is_support, is_query = episodes.support_labels[0] >= 0, episodes.query_labels[0] >= 0
    without = StoredEpisodes(
        episodes.items,
        episodes.support[:, is_support],
        episodes.support_labels[:, is_support],
        episodes.query[:, is_query],
        episodes.query_labels[:, is_query],
    )
    assert relative_error(gradients(hidden, episodes, loop), gradients(hidden, without, loop)) < 1e-12


def test_items_may_be_stored_in_half_precision():
    half = stored(3, dtype=torch.bfloat16)
    double = StoredEpisodes(half.items.double(), half.support, half.support_labels, half.query, half.query_labels)
    assert relative_error(gradients([9], half, InnerLoop()), gradients([9], double, InnerLoop())) == 0


def in_precision(episodes: StoredEpisodes, net: nn.Module, rates: Tensor, dtype: torch.dtype) -> list[Tensor | None]:
    """The meta-gradient with a copy of the network, and with rates and items in the given precision."""
    net, rates = deepcopy(net).to(dtype), rates.detach().to(dtype).requires_grad_()
    meta_gradient(layers_of(net), replace(episodes, items=episodes.items.to(dtype)), rates)
    return [parameter.grad for parameter in (*net.parameters(), rates)]


@each_depth
def test_single_precision_keeps_five_digits_of_the_meta_gradient(hidden):
    state = stored(4), network(hidden), table_of_rates(len(hidden) + 1)
    assert relative_error(in_precision(*state, torch.float32), in_precision(*state, torch.float64)) < 1e-5


def episodes_at_full_size() -> StoredEpisodes:
    """Three 5-way episodes of 5 support and 15 query items a class, of length 1 with 512 numbers of one sign."""
    generator = torch.Generator().manual_seed(3)
    centres = 0.35 * torch.randn(3, 5, 1, 512, generator=generator)
    items = normalize((centres + torch.randn(3, 5, 20, 512, generator=generator)).relu(), dim=-1)
    rows = torch.arange(300).view(3, 5, 20)
    labels = torch.arange(5)[:, None].expand(3, 5, 20)
    support, support_labels = rows[..., :5].flatten(1), labels[..., :5].flatten(1)
    return StoredEpisodes(
        items.view(300, 512), support, support_labels, rows[..., 5:].flatten(1), labels[..., 5:].flatten(1)
    )


@pytest.mark.parametrize(("hidden", "of_half"), [([], 1e-3), ([256, 64], 0.1)], ids=["linear head", "512-256-64-5"])
def test_meta_gradient_at_full_size_is_as_exact_as_stored_episodes_say_of_either_precision(hidden, of_half):
    episodes, net = episodes_at_full_size(), network(hidden, dim=512, out=5)
    rates = torch.full((STEPS, len(hidden) + 1), 0.5)
    expected = in_precision(episodes, net, rates, torch.float64)
    single = in_precision(episodes, net, rates, torch.float32)
    assert all(relative_error([found], [one]) < 1e-5 for found, one in zip(single, expected, strict=True))
    rounded = replace(episodes, items=episodes.items.bfloat16())
    assert relative_error(in_precision(rounded, net, rates, torch.float32), expected) == pytest.approx(of_half, rel=0.5)


def test_loop_descends_cross_entropy_unless_told_otherwise():
    assert InnerLoop().loss is CROSS_ENTROPY
