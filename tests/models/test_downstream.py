import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score

from data_contracts.errors import EpisodeTooSmall
from models.downstream import abstention_threshold, cluster, find_anomalies


def blobs(count: int, per_blob: int = 20, dim: int = 5, spread: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    """Clouds around corners far apart, and which cloud each item is of."""
    draw = torch.Generator().manual_seed(0)
    truth = torch.arange(count).repeat_interleave(per_blob)
    return 3 * torch.eye(count, dim)[truth] + spread * torch.randn(len(truth), dim, generator=draw), truth


def answers_of(confidences: list[float]) -> torch.Tensor:
    sure = torch.tensor(confidences, dtype=torch.double)
    return torch.stack([sure, 1 - sure], dim=-1).float()


def test_abstention_answers_as_many_as_reach_the_accuracy_together():
    threshold = abstention_threshold(answers_of([0.6, 1.0, 0.9, 0.7]), 0.85)
    assert threshold == pytest.approx(0.7)


def test_no_item_is_answered_if_even_the_surest_falls_short():
    assert abstention_threshold(answers_of([0.6, 0.8]), 0.9) == float("inf")


def test_every_item_is_answered_if_all_together_reach_the_accuracy():
    assert abstention_threshold(answers_of([0.95, 0.9]), 0.9) == pytest.approx(0.9)


def test_equal_confidences_are_answered_together_or_not_at_all():
    assert abstention_threshold(answers_of([1.0, 0.8, 0.8, 0.8]), 0.9) == 1.0


@given(
    confidences=st.lists(st.integers(50, 100).map(lambda percent: percent / 100), min_size=1, max_size=40),
    accuracy=st.floats(0.5, 0.99),
)
def test_answered_items_are_expected_to_reach_the_accuracy_and_no_more_could_be(confidences, accuracy):
    probabilities = answers_of(confidences)
    confidence = probabilities.amax(-1).double()
    threshold = abstention_threshold(probabilities, accuracy)
    for level in confidence.unique().tolist():
        answered = confidence[confidence >= level].mean().item()
        assert (answered >= accuracy - 1e-6) if level >= threshold else (answered < accuracy + 1e-6)


def test_accuracy_holds_on_calibrated_answers():
    draw = torch.Generator().manual_seed(0)
    probabilities = torch.randn(20_000, 4, generator=draw).mul(2).softmax(-1)
    labels = torch.multinomial(probabilities, 1, generator=draw).squeeze(1)
    answered = probabilities.amax(-1) >= abstention_threshold(probabilities, 0.9)
    right = (probabilities.argmax(-1) == labels)[answered]
    assert right.float().mean().item() == pytest.approx(0.9, abs=0.02)
    assert 0.1 < answered.float().mean() < 0.9


def test_known_blobs_are_found_and_counted():
    items, truth = blobs(4)
    found = cluster(items)
    assert adjusted_rand_score(truth.tolist(), found.numbers.tolist()) == 1.0
    assert found.silhouette == pytest.approx(silhouette_score(items.numpy(), truth.numpy()), abs=1e-5)
    assert found.stability == 1.0


def test_count_given_is_the_count_used_and_fits_worse_if_wrong():
    items, _ = blobs(4)
    found = cluster(items, count=7)
    assert len(found.numbers.unique()) == 7
    assert found.silhouette < cluster(items).silhouette
    assert found.stability < 1.0


def test_items_without_any_view_are_in_no_cluster():
    items, _ = blobs(3)
    items[[4, 40]] = 0.0
    found = cluster(items, count=3)
    assert (found.numbers == -1).nonzero().flatten().tolist() == [4, 40]


def test_clusters_follow_the_seed():
    items = torch.randn(60, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(cluster(items, count=5, seed=2).numbers, cluster(items, count=5, seed=2).numbers)


def test_copies_of_one_item_are_one_cluster():
    found = cluster(torch.ones(10, 3))
    assert found.numbers.tolist() == [0] * 10
    assert (found.silhouette, found.stability) == (0.0, 1.0)


def test_copies_of_two_items_are_two_clusters_however_many_are_asked_for():
    items = torch.eye(2).repeat(6, 1)
    assert adjusted_rand_score(cluster(items, count=5).numbers.tolist(), [0, 1] * 6) == 1.0
    assert cluster(items).silhouette == 1.0


def test_k_means_is_that_of_scikit_learn():
    items, _ = blobs(6, spread=1.0)
    expected = KMeans(6, n_init=4, random_state=3).fit(items.numpy())
    found = cluster(items, count=6, seed=3)
    assert found.numbers.tolist() == expected.labels_.tolist()
    assert found.silhouette == pytest.approx(silhouette_score(items.numpy(), expected.labels_), abs=1e-5)


def test_density_finds_the_blobs_counts_them_and_leaves_strangers_out():
    items, truth = blobs(4)
    strangers = torch.tensor([[9.0, 9.0, 9.0, 9.0, 9.0], [-9.0, 0.0, 9.0, 0.0, -9.0]])
    everything = torch.cat([items, strangers])
    found = cluster(everything, method="hdbscan")
    assert adjusted_rand_score(truth.tolist(), found.numbers[:80].tolist()) == 1.0
    assert found.numbers[80:].tolist() == [-1, -1]
    assert found.numbers.tolist() == HDBSCAN(min_cluster_size=5, copy=True).fit(everything.numpy()).labels_.tolist()
    assert found.silhouette == pytest.approx(silhouette_score(items.numpy(), truth.numpy()), abs=1e-5)
    assert found.stability > 0.9


def test_density_leaves_the_items_it_is_given_as_they_are():
    items, _ = blobs(2)
    before = items.clone()
    cluster(items, method="hdbscan")
    assert torch.equal(items, before)


@pytest.mark.parametrize("method", ["k_means", "hdbscan"])
def test_stability_is_high_where_there_are_groups_and_low_where_there_are_none(method):
    items, _ = blobs(4)
    noise = torch.rand(80, 5, generator=torch.Generator().manual_seed(0))
    assert cluster(items, method=method).stability > 0.9
    assert cluster(noise, method=method, count=6 if method == "k_means" else None).stability < 0.6


@pytest.mark.parametrize("count", [3, 4, 7])
def test_few_items_have_no_dense_place(count):
    items = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    found = cluster(items, method="hdbscan")
    assert found.numbers.shape == (count,)
    assert -1 <= found.stability <= 1


def test_two_items_cannot_be_grouped():
    with pytest.raises(EpisodeTooSmall, match="2 items with any view"):
        cluster(torch.eye(5)[[0, 1]])


@pytest.mark.parametrize("rate", [0.02, 0.05, 0.2])
def test_false_alarms_on_exchangeable_items_stay_within_the_rate(rate):
    draw = torch.Generator().manual_seed(0)
    alarms = 0
    for _ in range(20):
        items = torch.randn(1_000, 6, generator=draw)
        alarms += int(find_anomalies(items[500:], items[:500], false_alarm_rate=rate).flags.sum())
    assert binomtest(alarms, 20 * 500, rate, alternative="greater").pvalue > 1e-3
    assert alarms > 0.5 * rate * 20 * 500


def test_share_of_the_reference_itself_that_raises_alarms_is_the_rate():
    items = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
    flags = find_anomalies(items, items, false_alarm_rate=0.05).flags
    assert flags.sum() in (19, 20)


def test_strange_items_raise_alarms():
    usual = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    found = find_anomalies(torch.cat([usual[:5], torch.full((3, 6), 9.0)]), usual, false_alarm_rate=0.01)
    assert found.flags.tolist() == [False] * 5 + [True] * 3
    assert found.scores[5:].min() > 3 * found.scores[:5].max()


def test_score_is_the_mean_distance_to_the_nearest_reference_items_without_itself():
    draw = torch.Generator().manual_seed(0)
    reference, new = torch.randn(50, 3, generator=draw), torch.randn(4, 3, generator=draw)
    found = find_anomalies(torch.cat([new, reference[:2]]), reference, false_alarm_rate=0.1, neighbours=3)
    distances = torch.cdist(torch.cat([new, reference[:2]]), reference).sort().values
    expected = torch.cat([distances[:4, :3].mean(1), distances[4:, 1:4].mean(1)])
    torch.testing.assert_close(found.scores, expected, atol=1e-4, rtol=0)


def test_threshold_is_the_conformal_quantile():
    reference = torch.randn(99, 3, generator=torch.Generator().manual_seed(0))
    own = torch.cdist(reference, reference).sort().values[:, 1:6].mean(1).numpy()
    found = find_anomalies(reference[:1], reference, false_alarm_rate=0.1)
    assert found.threshold == pytest.approx(np.sort(own)[89], abs=1e-4)


@pytest.mark.parametrize(("rate", "needed"), [(0.05, 19), (0.2, 4)])
def test_reference_too_small_to_bound_the_rate_gives_scores_and_no_alarm(rate, needed):
    usual = torch.randn(needed, 3, generator=torch.Generator().manual_seed(0))
    items = torch.cat([usual, torch.full((1, 3), 99.0)])
    assert find_anomalies(items, usual, false_alarm_rate=rate).flags.nonzero().tolist() == [[needed]]
    found = find_anomalies(items, usual[1:], false_alarm_rate=rate)
    assert not found.flags.any()
    assert found.scores.argmax() == needed


def test_one_reference_item_has_no_neighbours():
    with pytest.raises(EpisodeTooSmall, match="1 reference items have no neighbours"):
        find_anomalies(torch.eye(3), torch.eye(3)[:1], false_alarm_rate=0.05)
