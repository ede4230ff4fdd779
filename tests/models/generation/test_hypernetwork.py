import math
from dataclasses import replace

import pytest
import torch
from synthetic import draw, gather, make_domain, support_of
from test_grams import by_hand
from torch import Tensor

from models.catalogue import build_learner
from models.fused import FusedLearner
from models.generation.classes import about_prototypes
from models.generation.hypernetwork import LARGEST_STRENGTH, FusionFilm, HeadGenerator, HypernetworkHead, pool
from models.grams import EpisodeGrams
from models.nearest import NearestCentroid

WEIGHTS = torch.tensor([[0.5, 0.3, 0.2]])


def silence(network: torch.nn.Sequential, *bias: float) -> None:
    """Let a network that ends in tanh give the tangents of these numbers, whatever it is shown."""
    last = network[-2]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor(bias))


def follow_separation(film: FusionFilm) -> None:
    """Let FiLM shift the weight of a view by how well the view separates the support."""
    first, last = film.network[0], film.network[-2]
    assert isinstance(first, torch.nn.Linear)
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        for layer in (first, last):
            layer.weight.zero_()
            layer.bias.zero_()
        first.weight[0, 0] = 5.0
        last.weight[1, 0] = 1.0
        film.strength.level.fill_(2.0)


@pytest.fixture
def episode() -> tuple[EpisodeGrams, Tensor, Tensor, Tensor]:
    """One episode as similarities, and as explicit items: support, its labels and queries, weighted views joined."""
    batch = draw(make_domain(), batch=1, n_way=4, n_shot=3)
    grams = gather(batch)
    joined = torch.cat([w**0.5 * items for w, items in zip(WEIGHTS[0], grams.items.views, strict=True)], dim=-1)
    return grams, joined[grams.items.support[0]], batch.support_labels[0], joined[grams.items.query[0]]


def test_without_strength_of_film_the_view_weights_stay(episode):
    torch.testing.assert_close(FusionFilm()(episode[0], WEIGHTS), WEIGHTS)


def test_film_scales_and_shifts_the_logarithms_of_the_view_weights(episode):
    film = FusionFilm()
    silence(film.network, 0.4, -0.7)
    with torch.no_grad():
        film.strength.level.fill_(1.5)
    power = (1.5 * torch.tensor(0.4).tanh()).exp()
    expected = WEIGHTS**power / (WEIGHTS**power).sum()
    torch.testing.assert_close(film(episode[0], WEIGHTS), expected)


def test_film_gives_no_weight_to_a_view_that_had_none(episode):
    film = FusionFilm()
    with torch.no_grad():
        film.strength.level.fill_(3.0)
    generated = film(episode[0], torch.tensor([[0.6, 0.0, 0.4]]))
    assert generated[0, 1] == 0.0
    assert generated.sum().item() == pytest.approx(1.0)
    assert generated[0, 0].item() != pytest.approx(0.6, abs=1e-3)


def test_film_follows_what_the_support_says_of_each_view():
    film, clean = FusionFilm(), make_domain()
    shuffled = clean.features["picture"][torch.randperm(len(clean), generator=torch.Generator().manual_seed(0))]
    noisy = replace(clean, features={**clean.features, "picture": shuffled})
    follow_separation(film)
    before, after = (film(gather(draw(domain, batch=1, n_shot=5)), WEIGHTS)[0] for domain in (clean, noisy))
    assert after[1] < 0.7 * before[1]
    assert after[0] > before[0]


def test_head_decides_by_the_weights_of_film(episode):
    grams, head = episode[0], HypernetworkHead()
    follow_separation(head.film)
    with torch.no_grad():
        generated = head.film(grams, WEIGHTS)
        torch.testing.assert_close(head(grams, WEIGHTS), NearestCentroid()(grams, generated))
    assert (generated - WEIGHTS).abs().max() > 0.05


def test_domain_model_reports_the_weights_of_film():
    """Twice the logarithms of the weights are the weights of twice the bias, and what these decide."""
    domain = make_domain(missing=0.1)
    film, bias = build_learner("hypernetwork"), build_learner("hypernetwork")
    assert isinstance(film, FusedLearner)
    assert isinstance(bias, FusedLearner)
    assert isinstance(film.head, HypernetworkHead)
    silence(film.head.film.network, 9.0, 0.0)
    with torch.no_grad():
        film.head.film.strength.level.fill_(math.log(2))
        film.view_weights.bias.copy_(0.3 * torch.arange(5))
        bias.view_weights.bias.copy_(0.6 * torch.arange(5))
    found, expected = (learner.adapt(domain, support_of(domain, 3)) for learner in (film, bias))
    assert found.view_weights == pytest.approx(expected.view_weights, abs=1e-5)
    torch.testing.assert_close(found.predict(domain), expected.predict(domain), atol=1e-4, rtol=0)
    assert max(found.view_weights.values()) > 0.4


def test_weight_vector_is_the_class_less_its_rivals_if_the_networks_say_nothing(episode):
    grams, support, labels, query = episode
    generator = HeadGenerator()
    silence(generator.attention, 0.0, 0.0)
    silence(generator.shares, 0.0, 0.5, -0.3)
    gram, cross = about_prototypes(grams, WEIGHTS)
    head, bias = generator(gram, grams, gram[..., :0])

    prototypes = torch.stack([support[labels == way].mean(0) for way in range(4)])
    origin = prototypes.mean(0)
    others = torch.stack([support[labels != way].mean(0) for way in range(4)])
    expected = (prototypes - origin) - (1 + torch.tensor(0.5).tanh()) * (others - origin)
    torch.testing.assert_close(cross[0] @ head[0], (query - origin) @ expected.T, atol=1e-5, rtol=0)
    torch.testing.assert_close(bias[0], torch.tensor(-0.3).tanh().expand(4))


def test_generated_head_is_added_to_nearest_centroid_by_its_strength_which_is_bounded(episode):
    grams, head = episode[0], HypernetworkHead()
    with torch.no_grad():
        nearest = NearestCentroid()(grams, WEIGHTS)
        torch.testing.assert_close(head(grams, WEIGHTS), nearest)
        found = {}
        for strength in (0.5, 1.0, 100.0, -100.0):
            head.strength.level.fill_(strength)
            found[strength] = head(grams, WEIGHTS) - nearest
    assert found[0.5].abs().max() > 0.1
    for strength, difference in found.items():
        ratio = math.tanh(strength / LARGEST_STRENGTH) / math.tanh(0.5 / LARGEST_STRENGTH)
        torch.testing.assert_close(difference, ratio * found[0.5], atol=1e-4, rtol=0)


def test_attention_is_over_the_items_that_take_part():
    scores = torch.tensor([[[0.0, 9.0], [1.0, 9.0], [2.0, 9.0]]])
    pooled = pool(scores, torch.tensor([[[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]]))
    first = torch.tensor([0.0, 2.0]).softmax(0)
    torch.testing.assert_close(pooled[0], torch.tensor([[first[0], 0.0], [0.0, 0.0], [first[1], 0.0]]))


def test_class_without_support_scores_like_the_mean_of_the_others():
    head = HypernetworkHead()
    with torch.no_grad():
        head.strength.level.fill_(1.0)
        grams = by_hand([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], [[1.0, 0.0], [0.8, 0.6]], [0, 2, 2], 3)
        logits = head(grams, torch.ones(1, 1))[0]
    torch.testing.assert_close(logits[:, 1], logits[:, [0, 2]].mean(-1))


def test_support_of_a_single_class_is_no_trouble():
    head = HypernetworkHead()
    with torch.no_grad():
        head.strength.level.fill_(1.0)
        logits = head(by_hand([[1.0, 0.0]], [[0.0, 1.0]], [0], 2), torch.ones(1, 1))
    assert logits[0, 0, 0] == logits[0, 0, 1]
