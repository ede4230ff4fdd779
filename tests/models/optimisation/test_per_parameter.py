import pytest
import torch
from test_inner_loop import BATCH, WAY, draw_items, each_depth, layers_of, network, relative_error
from torch.func import functional_call, grad
from torch.nn.functional import cross_entropy, one_hot

from models.optimisation.inner_loop import Goal, Layer, adapt_and_score
from models.optimisation.per_parameter import adapt_each_parameter


@each_depth
@pytest.mark.parametrize("n_steps", [1, 3])
def test_meta_gradient_in_parameters_and_rates_equals_that_of_torch_func(hidden, n_steps):
    net, (support, labels, query, truth) = network(hidden), draw_items()
    generator = torch.Generator().manual_seed(2)
    rates = {
        name: (0.3 * torch.rand(value.shape, generator=generator, dtype=torch.float64)).requires_grad_()
        for name, value in net.named_parameters()
    }

    expected = torch.zeros((), dtype=torch.float64)
    for s, q in zip(support, query, strict=True):
        adapted = dict(net.named_parameters())
        for _ in range(n_steps):
            slopes = grad(lambda state, s=s: cross_entropy(functional_call(net, state, (s,)), labels))(adapted)
            adapted = {name: adapted[name] - rates[name] * slopes[name] for name in adapted}
        expected = expected + cross_entropy(functional_call(net, adapted, (q,)), truth)

    shaped = list(rates.values())
    layers_of_rates = [Layer(*pair) for pair in zip(shaped[0::2], shaped[1::2], strict=True)]
    goal = Goal(one_hot(labels, WAY).double().expand(BATCH, -1, -1))
    logits = adapt_each_parameter(layers_of(net), support, query, goal, layers_of_rates, n_steps=n_steps)
    found = BATCH * cross_entropy(logits.flatten(0, 1), truth.repeat(BATCH))

    known = [*net.parameters(), *shaped]
    assert relative_error(torch.autograd.grad(found, known), torch.autograd.grad(expected, known)) < 1e-10


@each_depth
def test_rates_that_are_alike_along_inputs_give_what_the_dual_form_gives(hidden):
    net, (support, labels, query, _) = network(hidden), draw_items()
    goal = Goal(
        one_hot(labels, WAY).double().expand(BATCH, -1, -1),
        weight=torch.rand(BATCH, len(labels), generator=torch.Generator().manual_seed(1), dtype=torch.float64),
        offset=support[..., :WAY],
    )
    units = [torch.linspace(0.1, 0.3, layer.bias.numel(), dtype=torch.float64) for layer in layers_of(net)]
    rates = [
        Layer(rate[:, None].expand_as(layer.weight), rate) for rate, layer in zip(units, layers_of(net), strict=True)
    ]
    found = adapt_each_parameter(layers_of(net), support, query, goal, rates, n_steps=3)
    expected = adapt_and_score(layers_of(net), support, query, goal, [rate.expand(1, 3, -1) for rate in units])
    torch.testing.assert_close(found, expected)


def test_zero_rates_leave_the_base_model():
    net, (support, labels, query, _) = network([9]), draw_items()
    goal = Goal(one_hot(labels, WAY).double().expand(BATCH, -1, -1))
    rates = [Layer(torch.zeros_like(layer.weight), torch.zeros_like(layer.bias)) for layer in layers_of(net)]
    torch.testing.assert_close(adapt_each_parameter(layers_of(net), support, query, goal, rates, n_steps=2), net(query))
