"""The learning core away from the CPU: on a GPU if there is one, and on a device that is nowhere if not."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass

import pytest
import torch
from other_device import other_device
from synthetic import TITLE, departed_learner, draw, make_domain, support_of
from torch import Tensor, nn

from data_contracts.configs import TrainConfig
from models.catalogue import LEARNERS, build_learner
from models.fused import FusedLearner
from models.optimisation.inner_loop import Layer, StoredEpisodes, meta_gradient
from models.training import train


@dataclass(frozen=True)
class Device:
    """Where to compute, and how far a result may be from the CPU's: by a part of its length, and what rounding does."""

    name: str
    tolerance: float
    rounding: float

    def check(self, found: Tensor, expected: Tensor, *, times: float = 1.0) -> None:
        assert found.device.type == self.name
        found, expected = found.detach().cpu().double(), expected.double()
        assert (found - expected).norm() <= times * self.tolerance * expected.norm() + self.rounding


without_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")


@pytest.fixture(params=["nowhere", pytest.param("cuda", marks=[pytest.mark.gpu, without_cuda])])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    if request.param == "cuda":
        yield Device("cuda", tolerance=1e-3, rounding=1e-6)
    else:
        monkeypatch.setattr("models.temperature.FITTING_STEPS", 5)  # far from its end, where any rounding shows
        with other_device() as name:
            yield Device(name, tolerance=0.0, rounding=0.0)


@pytest.fixture(autouse=True)
def _few_rounds(short_fits: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds are all alike, and on the device that is nowhere a hundred take seconds."""
    monkeypatch.setattr("models.metric.transductive.MOST_ITERATIONS", 10)
    monkeypatch.setattr("models.metric.fine_tuning.STEPS", 5)
    monkeypatch.setattr("models.settling.SHARES", (1.0, 0.5, 0.0))


@pytest.fixture(scope="module")
def fitted(kind: str) -> FusedLearner:
    """A learner with every strength on and a basis for the encoder of the title; tests must not change it."""
    return departed_learner(kind, [make_domain("many", per_class=40, views=(TITLE,), seed=9)])


def gradients(learner: FusedLearner) -> list[tuple[str, Tensor]]:
    return [(name, p.grad) for name, p in learner.named_parameters() if p.grad is not None]


def test_loss_and_gradients_are_those_of_the_cpu(fitted, toys, device):
    here, there = deepcopy(fitted), deepcopy(fitted).to(device.name)
    expected, found = here.meta_loss(draw(toys, 2)), there.meta_loss(draw(toys.to(device.name), 2))
    expected.backward()
    found.backward()
    device.check(found, expected.detach())
    for (name, wanted), (same_name, gradient) in zip(gradients(here), gradients(there), strict=True):
        assert name == same_name
        device.check(gradient, wanted)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "metric" else pytest.mark.slow) for kind in LEARNERS]
)
def test_statistics_temperature_and_answers_are_those_of_the_cpu(kind, toys, device):
    here = build_learner(kind)
    there = deepcopy(here).to(device.name)
    answers = []
    for learner, data in ((here, toys), (there, toys.to(device.name))):
        learner.fit_statistics([data], data.classes[:4])
        learner.settle([draw(data, 2, n_way=2, n_query=2)])
        learner.calibrate([(draw(data, 2, n_way=2, n_query=2), is_hidden) for is_hidden in (False, True)])
        with torch.no_grad():
            answers.append(learner.log_probabilities(draw(data, 2, n_way=2, n_query=2)))
    device.check(answers[1], answers[0], times=10)  # the loss is flat where the temperature ends
    assert there.weights().keys() == here.weights().keys()
    assert {value.device.type for value in there.weights().values()} == {device.name}


def test_domain_model_answers_as_on_the_cpu(fitted, toys, device):
    data = toys.with_classes(toys.classes[:2]).take(torch.arange(30))
    support, far = support_of(data, 2), data.to(device.name)
    here, there = fitted.adapt(data, support), deepcopy(fitted).to(device.name).adapt(far, support.to(device.name))
    for answer in (here.predict, here.embed, here.uncertainty):
        if (expected := answer(data)) is not None:
            device.check(getattr(there, answer.__name__)(far), expected)
    assert there.view_weights == pytest.approx(here.view_weights, rel=device.tolerance or 1e-12)
    assert all(value.device.type == "cpu" for value in there.learner.to("cpu").weights().values())


def test_meta_gradient_is_that_of_the_cpu(device):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4))
    toys, far = make_domain(), deepcopy(network).to(device.name)
    found = [meta_step(network, toys, "cpu"), meta_step(far, toys.to(device.name), device.name)]
    for expected, ours in zip(*found, strict=True):
        device.check(ours, expected)


def meta_step(network, data, device) -> list[Tensor]:
    layers = [Layer(layer.weight, layer.bias) for layer in network if isinstance(layer, nn.Linear)]
    rates = torch.full((3, 2), 0.2, device=device, requires_grad=True)
    drawn = draw(data)
    loss = meta_gradient(
        layers,
        StoredEpisodes(data.features["title"], drawn.support, drawn.support_labels, drawn.query, drawn.query_labels),
        rates,
        chunk=4,
    )
    return [loss, rates.grad, *(parameter.grad for parameter in network.parameters())]


@pytest.mark.slow
def test_training_ends_where_it_does_on_the_cpu(device):
    config = TrainConfig(n_way=2, shots=(2,), meta_batch=3, steps=2, validate_every=1, n_query=3, view_dropout=0.3)
    toys = make_domain(missing=0.1, unlabelled=5)
    here = build_learner("metric")
    there = deepcopy(here).to(device.name)
    for learner, data in ((here, toys), (there, toys.to(device.name))):
        *_, last = train(learner, [data], config)
        assert last.step == 2
    for name, expected in here.weights().items():
        device.check(there.weights()[name], expected)


def test_domain_keeps_its_means_wherever_it_goes(toys, device):
    hidden = toys.with_hidden_views(0.5, torch.Generator().manual_seed(0))
    again = hidden.to(device.name).to("cpu")
    assert all(torch.equal(again.means[name], mean) for name, mean in toys.means.items())
    assert torch.equal(again.presence, hidden.presence)
    assert torch.equal(again.labels, hidden.labels)


@pytest.mark.parametrize(
    "mix",
    [
        lambda far: far + torch.ones(3),
        lambda far: far @ torch.ones(3),
        lambda far: torch.cat([far, torch.ones(3)]),
        lambda far: torch.ones(3)[far.long()],
        lambda far: torch.stack([far.sum(), torch.tensor(1.0)]),
    ],
    ids=["sum", "product", "concatenation", "rows from there", "single number"],
)
def test_tensors_of_two_devices_do_not_mix(device, mix: Callable[[Tensor], Tensor]):
    far = torch.zeros(3, device=device.name)
    with pytest.raises(RuntimeError, match=r"device|CPU|cpu"):
        mix(far)


def test_single_numbers_and_row_numbers_may_come_from_the_cpu(device):
    far = torch.tensor([1.0, 2.0, 3.0], device=device.name, requires_grad=True)
    (far[torch.tensor([2, 2])] * torch.tensor(2.0)).sum().backward()
    assert far.grad.tolist() == [0.0, 0.0, 4.0]
