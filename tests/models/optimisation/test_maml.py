import pytest
import torch
from synthetic import departed_learner, draw, gather, make_domain
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.catalogue import CATALOGUE
from models.common_space import projection
from models.grams import EpisodeGrams
from models.nearest import support_as_queries
from models.optimisation.inner_loop import Goal, Layer, adapt_and_score
from models.optimisation.maml import MamlHead

KINDS = ("maml", "fomaml", "anil", "meta_sgd")
N_SHOT, N_WAY = 3, 4
WEIGHTS = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])


def make_episodes(*, n_shot: int = N_SHOT, dtype: torch.dtype = torch.float32) -> tuple[EpisodeGrams, Tensor]:
    """Two episodes, and the labels of their queries."""
    batch = draw(make_domain(), batch=2, n_way=N_WAY, n_shot=n_shot)
    return gather(batch, dtype), batch.query_labels


@pytest.fixture(params=KINDS)
def head(request: pytest.FixtureRequest) -> MamlHead:
    torch.manual_seed(0)
    made = CATALOGUE[request.param].head()
    assert isinstance(made, MamlHead)
    return made


def depart(head: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1 * torch.rand(parameter.shape, generator=generator))
        head.strengths.level.add_(0.5)


def test_correction_is_what_a_network_on_all_dimensions_of_the_views_learns(head):
    grams, _ = make_episodes()
    depart(head)
    items = grams.items
    joined = [
        torch.cat(
            [w.sqrt()[:, None, None] * rows[which] for w, rows in zip(WEIGHTS.T, items.views, strict=True)], dim=-1
        )
        for which in (items.support, items.query)
    ]
    into = [projection(name, rows.shape[1]) for name, rows in zip(items.encoder_ids, items.views, strict=True)]
    layers = [
        Layer(head.first.weight @ torch.cat(into).T, head.first.bias),
        Layer(head.second.weight, head.second.bias),
        Layer(torch.zeros(N_WAY, 64), torch.zeros(N_WAY)),
    ]
    goal = Goal(grams.membership, offset=head.nearest.held_out(grams, WEIGHTS))
    rates = head.rates(grams, head.project(grams, WEIGHTS))
    correction = adapt_and_score(layers, *joined, goal, rates, head.loop)
    assert correction.abs().max() > 0.1
    torch.testing.assert_close(head(grams, WEIGHTS), head.nearest(grams, WEIGHTS) + correction, atol=2e-5, rtol=1e-4)


def test_training_can_leave_the_start(head):
    grams, labels = make_episodes()
    cross_entropy(head(grams, WEIGHTS).flatten(0, 1), labels.flatten()).backward()
    of_last_layer = head.strengths.level.grad.view(head.n_rates)[:, -1]
    assert (of_last_layer != 0).all()


def test_every_parameter_is_trained_once_the_rates_are_not_zero(head):
    grams, labels = make_episodes()
    depart(head)
    cross_entropy(head(grams, WEIGHTS).flatten(0, 1), labels.flatten()).backward()
    untrained = {name for name, parameter in head.named_parameters() if not parameter.grad.any()}
    assert not untrained


def test_rates_of_units_and_steps_start_where_those_of_layers_do():
    grams, _ = make_episodes()
    torch.manual_seed(0)
    maml = CATALOGUE["maml"].head()
    meta_sgd = CATALOGUE["meta_sgd"].head()
    meta_sgd.load_state_dict(
        maml.state_dict()
        | {name: value for name, value in meta_sgd.state_dict().items() if "rate" in name or "strength" in name}
    )
    with torch.no_grad():
        maml.strengths.level.fill_(0.7)
        meta_sgd.strengths.level.fill_(0.7)
    torch.testing.assert_close(meta_sgd(grams, WEIGHTS), maml(grams, WEIGHTS))


def test_inner_loss_falls_at_a_strength_of_one(head):
    grams, _ = make_episodes()
    with torch.no_grad():
        head.strengths.level.fill_(1.0)
    as_queries = support_as_queries(grams)
    before = head.nearest.held_out(grams, WEIGHTS)
    after = before + head(as_queries, WEIGHTS) - head.nearest(as_queries, WEIGHTS)
    labels = grams.membership.argmax(-1)

    def loss(logits: Tensor) -> Tensor:
        return cross_entropy(logits.mT, labels, reduction="none").mean(1)

    assert (loss(after) < loss(before)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_answers_stay_finite_far_from_the_start(kind):
    learner = departed_learner(kind)
    with torch.no_grad():
        for parameter in learner.head.parameters():
            parameter.mul_(20)
    batch = draw(make_domain(), n_shot=5)
    loss = learner.meta_loss(batch)
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in learner.parameters() if parameter.grad is not None)
