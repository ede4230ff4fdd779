import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from synthetic import FACTS, PICTURE, TITLE, draw, make_domain, with_other_hidden_features, without_view
from torch import Tensor
from torch.nn.functional import normalize

from data_contracts.configs import TrainConfig
from models.baselines import BestSingle, ConcatLogreg, TunedLogreg, Tuning, one_view, raw_grams, tune_logreg
from models.episodes import EpisodeBatch
from models.features import DomainData
from models.metrics import accuracy_per_episode

CONFIG = TrainConfig(n_way=4, shots=(1, 3), n_query=5)


def joined(domain: DomainData, weights: dict[str, float]) -> Tensor:
    """Unit-norm views side by side, each times the root of its weight; a missing one is its domain's mean."""
    parts = []
    for number, view in enumerate(domain.views):
        here = domain.presence[:, number, None]
        unit = torch.where(here, normalize(domain.features[view.name], dim=-1), domain.means[view.name])
        parts.append(weights[view.name] ** 0.5 * unit)
    return torch.cat(parts, dim=-1)


def reference(batch: EpisodeBatch, items: Tensor, c: float = 1.0) -> np.ndarray:
    """Scikit-learn's probabilities, one episode at a time."""
    return np.stack(
        [
            LogisticRegression(C=c, tol=1e-6, max_iter=2_000)
            .fit(items[batch.support[number]].double().numpy(), batch.support_labels[number].numpy())
            .predict_proba(items[batch.query[number]].double().numpy())
            for number in range(len(batch))
        ]
    )


def test_concatenation_is_scikit_learn_on_the_views_side_by_side(toys):
    batch = draw(toys, batch=3, n_shot=3)
    expected = reference(batch, joined(toys, dict.fromkeys(("title", "picture", "facts"), 1.0)))
    np.testing.assert_allclose(ConcatLogreg().log_probabilities(batch).exp().numpy(), expected, atol=2e-3)


def test_tuned_weights_and_penalty_are_scikit_learns_with_the_views_scaled(toys):
    batch = draw(toys, n_shot=3)
    tuned = TunedLogreg({3: Tuning({"text": 0.6, "image": 0.3, "tabular": 0.1}, 10.0)})
    expected = reference(batch, joined(toys, {"title": 1.8, "picture": 0.9, "facts": 0.3}), 10.0)
    np.testing.assert_allclose(tuned.log_probabilities(batch).exp().numpy(), expected, atol=2e-2)


def test_best_single_is_the_best_of_the_views(toys):
    batch = draw(toys, batch=8, n_shot=3)
    accuracies = {}
    for view in (TITLE, PICTURE, FACTS):
        weights = {name: float(name == view.name) for name in ("title", "picture", "facts")}
        answer = torch.from_numpy(reference(batch, joined(toys, weights)))
        accuracies[view.name] = accuracy_per_episode(answer.float(), batch.query_labels).mean().item()
    found = accuracy_per_episode(BestSingle().log_probabilities(batch), batch.query_labels).mean().item()
    assert found == pytest.approx(max(accuracies.values()), abs=0.01)


def test_what_the_features_of_hidden_views_are_plays_no_part(toys):
    hidden = toys.with_hidden_views(0.4, torch.Generator().manual_seed(0))
    found, expected = (raw_grams(draw(domain)) for domain in (with_other_hidden_features(hidden), hidden))
    assert torch.equal(found.support, expected.support)
    assert torch.equal(found.cross, expected.cross)


def test_raw_similarities_are_of_uncentred_features_with_means_for_missing_views(toys):
    batch = draw(toys)
    grams = raw_grams(batch)
    own, _ = grams.fused(torch.ones(len(batch), 3))
    items = joined(toys, dict.fromkeys(("title", "picture", "facts"), 1.0))[batch.support]
    torch.testing.assert_close(own, items @ items.mT, atol=1e-4, rtol=0)
    assert grams.support_presence.all()


def test_one_view_takes_the_others_away(toys):
    assert one_view(1, raw_grams(draw(toys))).tolist() == [0.0, 1.0, 0.0]


def test_tuning_prefers_the_view_that_tells_classes_apart():
    domains = [without_view(make_domain(seed=seed), "picture") for seed in (1, 2)]
    for domain in domains:
        domain.features["facts"].copy_(torch.randn(96, 6, generator=torch.Generator().manual_seed(0)))
    tuned = tune_logreg(domains, domains[0].classes, CONFIG)
    assert set(tuned.by_shot) == {1, 3}
    for tuning in tuned.by_shot.values():
        assert sum(tuning.weights.values()) == pytest.approx(1.0)
        assert tuning.weights["text"] > tuning.weights["tabular"]


def test_tuning_is_at_least_as_good_as_equal_weights_where_it_was_tuned():
    domains = [make_domain(seed=seed, missing=0.1) for seed in (1, 2)]
    tuned = tune_logreg(domains, domains[0].classes, CONFIG)
    batches = [draw(domain, batch=40, n_shot=3, seed=5) for domain in domains]

    def accuracy(learner: TunedLogreg | ConcatLogreg) -> float:
        right = [accuracy_per_episode(learner.log_probabilities(batch), batch.query_labels) for batch in batches]
        return torch.cat(right).mean().item()

    assert accuracy(tuned) >= accuracy(ConcatLogreg()) - 0.02


def test_shot_without_large_enough_classes_is_not_tuned():
    tuned = tune_logreg([make_domain(per_class=3)], make_domain().classes, CONFIG)
    assert set(tuned.by_shot) == {1}


def test_untuned_is_the_concatenation(toys):
    batch = draw(toys)
    assert torch.equal(TunedLogreg().log_probabilities(batch), ConcatLogreg().log_probabilities(batch))


def test_modality_that_was_not_tuned_gets_the_mean_weight(toys):
    batch = draw(toys)
    partly = TunedLogreg({2: Tuning({"text": 0.4, "image": 0.6})})
    whole = TunedLogreg({2: Tuning({"text": 0.4, "image": 0.6, "tabular": 0.5})})
    torch.testing.assert_close(partly.log_probabilities(batch), whole.log_probabilities(batch))


def test_nearest_tuned_shot_answers(toys):
    tunings = {1: Tuning({"text": 1.0, "image": 0.0, "tabular": 0.0}), 5: Tuning({"text": 0.0, "image": 1.0})}
    batch = draw(toys, n_shot=4)
    both, five = TunedLogreg(tunings), TunedLogreg({5: tunings[5]})
    assert torch.equal(both.log_probabilities(batch), five.log_probabilities(batch))


def test_tuned_baseline_comes_back_from_its_config():
    tuned = TunedLogreg({1: Tuning({"text": 0.7, "image": 0.3}, 10.0), 5: Tuning({"text": 1.0}, 0.1)})
    assert TunedLogreg.load(tuned.config()) == tuned
