import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import normalize

from models.episodes import one_hot
from models.logistic import fit_logistic


def problem(n_way: int, n_shot: int, seed: int = 0, dim: int = 20) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Unit-norm support items, their labels, and queries."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(n_way, dim, generator=draw)
    labels = torch.arange(n_way).repeat_interleave(n_shot)
    items = normalize(centres[labels] + torch.randn(len(labels), dim, generator=draw), dim=-1)
    return items, labels, normalize(torch.randn(30, dim, generator=draw), dim=-1)


def probabilities(items: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor, c: float) -> np.ndarray:
    fitted = fit_logistic((items @ items.T)[None], one_hot(labels, int(labels.max()) + 1)[None], c)
    return fitted.logits((queries @ items.T)[None])[0].softmax(-1).numpy()


def reference(items: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor, c: float) -> np.ndarray:
    model = LogisticRegression(C=c, tol=1e-6, max_iter=2_000).fit(items.double().numpy(), labels.numpy())
    return model.predict_proba(queries.double().numpy())


@settings(deadline=None, max_examples=15)
@given(
    n_way=st.integers(3, 7), n_shot=st.integers(1, 6), c=st.sampled_from([0.1, 1.0, 10.0]), seed=st.integers(0, 1000)
)
def test_probabilities_are_those_of_scikit_learn(n_way, n_shot, c, seed):
    items, labels, queries = problem(n_way, n_shot, seed)
    np.testing.assert_allclose(
        probabilities(items, labels, queries, c), reference(items, labels, queries, c), atol=5e-3
    )


def test_classes_of_different_size_move_the_intercept():
    items, labels, queries = problem(3, 5)
    kept = torch.tensor([0, 1, 2, 3, 4, 5, 6, 10])
    ours = probabilities(items[kept], labels[kept], queries, 1.0)
    np.testing.assert_allclose(ours, reference(items[kept], labels[kept], queries, 1.0), atol=1e-3)
    assert ours.mean(0).argmax() == 0


def test_two_ways_are_scikit_learns_with_twice_the_c():
    """It fits one weight vector where softmax has two opposite ones of half its length: half the penalty."""
    items, labels, queries = problem(2, 5)
    np.testing.assert_allclose(
        probabilities(items, labels, queries, 1.0), reference(items, labels, queries, 2.0), atol=1e-3
    )


def test_problems_of_one_batch_do_not_touch_each_other():
    (a, labels, queries), (b, _, _) = problem(4, 3, seed=1), problem(4, 3, seed=2)
    both = fit_logistic(torch.stack([a @ a.T, b @ b.T]), one_hot(labels, 4).expand(2, -1, -1), 1.0)
    alone = fit_logistic((b @ b.T)[None], one_hot(labels, 4)[None], 1.0)
    torch.testing.assert_close(
        both.logits((queries @ b.T).expand(2, -1, -1))[1], alone.logits((queries @ b.T)[None])[0]
    )


def test_padding_has_no_influence():
    items, labels, queries = problem(3, 4)
    padded = torch.cat([items, items[:2]])
    targets = one_hot(torch.cat([labels, torch.tensor([-1, -1])]), 3)
    fitted = fit_logistic((padded @ padded.T)[None], targets[None], 1.0)
    answer = fitted.logits((queries @ padded.T)[None])[0].softmax(-1)
    np.testing.assert_allclose(answer.numpy(), probabilities(items, labels, queries, 1.0), atol=1e-3)
    assert not fitted.dual[0, -2:].any()


@pytest.mark.parametrize("c", [0.1, 1.0, 10.0])
def test_gradient_at_the_solution_vanishes(c):
    items, labels, _ = problem(5, 5)
    gram, targets = (items @ items.T)[None].double(), one_hot(labels, 5)[None].double()
    fitted = fit_logistic(gram, targets, c, steps=2_000)
    residual = fitted.logits(gram).softmax(-1) - targets
    assert (fitted.dual + c * residual).abs().max() < 1e-6
    assert residual.sum(1).abs().max() < 1e-6


def test_each_problem_has_a_penalty_of_its_own():
    items, labels, _ = problem(3, 4)
    gram, targets = (items @ items.T)[None], one_hot(labels, 3)[None]
    both = fit_logistic(gram.expand(2, -1, -1), targets.expand(2, -1, -1), torch.tensor([0.1, 10.0]))
    for number, c in enumerate((0.1, 10.0)):
        torch.testing.assert_close(both.dual[number], fit_logistic(gram, targets, c).dual[0])


def test_sets_of_targets_of_one_gram_matrix_are_problems_of_their_own():
    items, labels, queries = problem(3, 4)
    padded = torch.stack([one_hot(labels.where(torch.arange(12) % 4 != left_out, -1), 3) for left_out in range(4)])
    gram, cross = (items @ items.T).expand(2, -1, -1), (queries @ items.T).expand(2, -1, -1)
    penalties = torch.tensor([1.0, 10.0])
    together = fit_logistic(gram, padded.expand(2, -1, -1, -1), penalties).logits(cross)
    each = [fit_logistic(gram, targets.expand(2, -1, -1), penalties).logits(cross) for targets in padded]
    torch.testing.assert_close(together, torch.stack(each, dim=1))
