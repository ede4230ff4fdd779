import pytest
import torch
from synthetic import PICTURE, TITLE, draw, make_domain, support_of
from torch import Tensor

from data_contracts.configs import TrainConfig
from models.catalogue import build_learner
from models.episodes import EpisodeBatch
from models.features import DomainData, ViewSpec
from models.fused import FusedLearner
from models.fusion import modality_numbers
from models.metrics import accuracy_per_episode
from models.similarity import STATISTICS, SimilarityHead, classes_with_view, describe
from models.training import train

SPOKEN = ViewSpec("spoken", "audio", "waves-1", 20)
CONFIG = TrainConfig(steps=60, n_way=5, n_query=5, shots=(1, 3), meta_batch=8, validate_every=20)


def read(seed: int) -> DomainData:
    """A domain of titles and pictures to train on."""
    return make_domain(f"read-{seed}", classes=20, per_class=12, views=(TITLE, PICTURE), seed=seed)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trained(domains: list[DomainData]) -> FusedLearner:
    learner = build_learner("similarity")
    list(train(learner, domains, CONFIG))
    return learner


def accuracy(learner: FusedLearner, episodes: EpisodeBatch) -> Tensor:
    with torch.no_grad():
        return accuracy_per_episode(learner.log_probabilities(episodes), episodes.query_labels).mean()


def test_description_is_bounded_and_blank_where_the_class_lacks_the_view():
    batch = draw(make_domain(missing=0.4), n_shot=1, batch=20)
    learner = build_learner("similarity")
    with torch.no_grad():
        grams = learner._grams(batch)
        shares = learner.view_weights(grams, modality_numbers(batch.domain.views)).unsqueeze(-1)
        found = describe(grams, shares * grams.query_presence)
    assert found.shape == (20, 3, 20, 4, STATISTICS)
    assert found.abs().max() < 10
    unknown = ~classes_with_view(grams).expand(found.shape[:-1])
    assert unknown.any()
    assert (found[unknown] == 0).all()


@pytest.mark.slow
def test_view_never_met_in_training_is_put_to_use():
    learner = trained([read(seed) for seed in (1, 2)])
    heard = make_domain("heard", classes=12, per_class=12, views=(TITLE, PICTURE, SPOKEN), missing=0.1, seed=3)
    silent = heard.with_presence(heard.presence & torch.tensor([True, True, False]))
    with_sound, without = (
        accuracy(learner, draw(domain, batch=60, n_way=5, n_shot=1, seed=4)) for domain in (heard, silent)
    )
    assert with_sound > without + 0.02


@pytest.mark.slow
def test_encoder_never_met_in_training_serves_as_well_as_the_one_that_was():
    domains = [
        make_domain(f"one-{seed}", classes=20, per_class=12, views=(TITLE, PICTURE), seed=seed) for seed in (1, 2)
    ]
    learner = trained(domains)
    known = make_domain("known", classes=12, per_class=12, views=(TITLE, PICTURE), seed=5)
    turn = torch.linalg.qr(torch.randn(40, 16, generator=torch.Generator().manual_seed(0))).Q
    other = ViewSpec("picture", "image", "pixels-2", 40)
    turned = DomainData(
        "turned",
        (TITLE, other),
        {"title": known.features["title"], "picture": known.features["picture"] @ turn.T},
        known.presence,
        known.labels,
        known.classes,
        known.item_ids,
    )
    before, after = (accuracy(learner, draw(domain, batch=60, n_way=5, n_shot=2, seed=6)) for domain in (known, turned))
    assert abs(before - after) < 0.01


def trusting() -> tuple[FusedLearner, SimilarityHead]:
    """A learner that weighs the views of each query anew, and gives no evidence."""
    learner = build_learner("similarity")
    assert isinstance(learner, FusedLearner)
    assert isinstance(learner.head, SimilarityHead)
    with torch.no_grad():
        learner.head.trust_strength.level.fill_(3.0)
        learner.view_weights.bias.copy_(0.3 * torch.arange(5))
    return learner, learner.head


def test_domain_model_reports_the_mean_weights_of_its_items():
    domain = make_domain(missing=0.3)
    learner, head = trusting()
    model = learner.adapt(domain, support_of(domain, 3))
    with torch.no_grad():
        grams = model._grams_of(domain)
        given = learner.view_weights(grams, modality_numbers(domain.views))
        each = head.reweigh(grams, given)[0]
    found = torch.tensor(list(model.view_weights.values()))
    torch.testing.assert_close(found, each[:, each.sum(0) > 0].mean(1), atol=1e-3, rtol=0)
    assert (found - given[0]).abs().max() > 0.02


def test_head_decides_by_the_weights_it_reports():
    batch = draw(make_domain(missing=0.3), batch=1)
    learner, head = trusting()
    with torch.no_grad():
        grams = learner._grams(batch)
        given = learner.view_weights(grams, modality_numbers(batch.domain.views))
        each, decided = head.reweigh(grams, given), head(grams, given)
        for query in range(20):
            near = head.nearest(grams, each[:, :, query])[:, query]
            torch.testing.assert_close(decided[:, query], near, atol=1e-4, rtol=0)
        by_given = head.nearest(grams, given)
    assert (decided - by_given).abs().max() > 0.1
