import pytest
import torch
from synthetic import departed_learner, draw, make_domain

from models.fused import FusedLearner
from models.grams import EpisodeGrams
from models.metric.set_attention import MOST_LOG_SHARPNESS, SetAttentionHead, mixture_distances

WEIGHTS = torch.tensor([0.5, 0.3, 0.2])


def episode(n_shot: int = 2) -> tuple[FusedLearner, EpisodeGrams]:
    learner = departed_learner("set_attention")
    return learner, learner._grams(draw(make_domain(), n_shot=n_shot))


def test_distances_to_mixtures_are_those_of_explicit_items():
    generator = torch.Generator().manual_seed(0)
    support, query = torch.randn(1, 6, 9, generator=generator), torch.randn(1, 4, 9, generator=generator)
    mixtures = torch.randn(1, 6, 3, generator=generator)
    found = mixture_distances(support @ support.mT, query @ support.mT, mixtures)
    expected = torch.cdist(query, mixtures.mT @ support).square() - query.square().sum(-1, keepdim=True)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_adapted_prototypes_are_affine_mixtures_of_the_support():
    learner, grams = episode()
    assert isinstance(learner.head, SetAttentionHead)
    gram, _ = grams.fused(WEIGHTS.expand(6, 3))
    means = grams.membership / grams.membership.sum(1, keepdim=True)
    with torch.no_grad():
        adapted = learner.head.adapt(gram, means, grams)
    torch.testing.assert_close(adapted.sum(1), torch.ones(6, 4))
    assert (adapted - means).abs().max() > 0.01


def test_without_strength_prototypes_are_the_means():
    _, grams = episode()
    gram, _ = grams.fused(WEIGHTS.expand(6, 3))
    means = grams.membership / grams.membership.sum(1, keepdim=True)
    assert torch.equal(SetAttentionHead().adapt(gram, means, grams), means)


@pytest.mark.parametrize(
    ("name", "beyond"), [("strengths.level", 1.5), ("strengths.level", -1.5), ("log_sharpness", MOST_LOG_SHARPNESS + 1)]
)
def test_what_is_beyond_its_bounds_comes_back(name, beyond):
    """Of a loss and its opposite, each head is led back by one, since a step goes against the gradient."""
    learner, grams = episode()
    parameter = learner.head.get_parameter(name)
    torch.nn.init.constant_(parameter, beyond)
    logits = learner.head(grams, WEIGHTS.expand(6, 3))[..., 0].sum()
    either = torch.stack([torch.autograd.grad(loss, parameter, retain_graph=True)[0] for loss in (logits, -logits)])
    assert ((either * beyond > 0).sum(0) == 1).all()
    assert ((either == 0).sum(0) == 1).all()
