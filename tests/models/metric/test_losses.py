import pytest
import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor

from models.metric.losses import contrastive_loss, euclidean, pairs, pairwise_squared, triplet_loss


def drawn(n_items: int, n_classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    items = torch.randn(n_items, 5, generator=generator, dtype=torch.float64).requires_grad_()
    return items, torch.randint(n_classes, (n_items,), generator=generator)


def distances_of(items: Tensor) -> Tensor:
    return euclidean(pairwise_squared(items.float(), items.float()))


def triplets_one_by_one(distances: Tensor, labels: list[int], margin: float) -> float:
    losses = [
        max(float(distances[a, p] - distances[a, n]) + margin, 0.0)
        for a, own in enumerate(labels)
        for p, same in enumerate(labels)
        for n, other in enumerate(labels)
        if p != a and own == same and own != other and min(own, other) >= 0
    ]
    return sum(losses) / max(len(losses), 1)


def pairs_one_by_one(distances: Tensor, labels: list[int], margin: float) -> float:
    losses = []
    for i, own in enumerate(labels):
        for j, other in enumerate(labels[:i]):
            d, y = float(distances[i, j]), float(own == other)
            if min(own, other) >= 0:
                losses.append(0.5 * (y * d**2 + (1 - y) * max(margin - d, 0.0) ** 2))
    return sum(losses) / max(len(losses), 1)


@pytest.mark.parametrize("margin", [0.05, 0.5, 2.0])
@pytest.mark.parametrize(("n_items", "n_classes"), [(12, 3), (40, 5), (7, 7)])
def test_triplet_loss_and_gradient_equal_those_of_pytorch_metric_learning(n_items, n_classes, margin):
    items, labels = drawn(n_items, n_classes)
    theirs = TripletMarginLoss(margin, distance=LpDistance(normalize_embeddings=False), reducer=MeanReducer())
    expected = theirs(items, labels)
    found = triplet_loss(distances_of(items), labels, margin)
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)
    (gradient,) = torch.autograd.grad(found, items)
    (expected_gradient,) = torch.autograd.grad(expected, items)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("labels", [[0, 1, 0, 1, 2, 0], [0, -1, 0, 1, -1, 1], [0, 0, 0, 0, 0, 0], [0, 1, 2, 3, 4, 5]])
@pytest.mark.parametrize("margin", [0.3, 3.0])
def test_losses_are_the_formulas_written_out(labels, margin):
    distances = distances_of(drawn(6, 1)[0].detach())
    found = triplet_loss(distances, torch.tensor(labels), margin).item()
    assert found == pytest.approx(triplets_one_by_one(distances, labels, margin), abs=1e-6)
    found = contrastive_loss(distances, torch.tensor(labels), margin).item()
    assert found == pytest.approx(pairs_one_by_one(distances, labels, margin), abs=1e-6)


def test_numbers_one_can_check_by_hand():
    items = torch.tensor([[0.0], [1.0], [1.5]])
    distances, labels = distances_of(items), torch.tensor([0, 0, 1])
    # anchors 0 and 1: 1 - 1.5 + 0.2 < 0 and 1 - 0.5 + 0.2 = 0.7
    assert triplet_loss(distances, labels, 0.2).item() == pytest.approx(0.7 / 2)
    # same: 1²; different: nothing beyond the margin of 1, and (1 - 0.5)²
    assert contrastive_loss(distances, labels, 1.0).item() == pytest.approx(0.5 * (1 + 0.25) / 3)


@pytest.mark.parametrize("loss", [triplet_loss, contrastive_loss])
def test_loss_of_a_batch_is_the_mean_over_everything_in_it(loss):
    labels = torch.tensor([[0, 0, 1, 1, 2], [0, 1, 0, -1, -1]])
    distances = torch.stack([distances_of(drawn(5, 1, seed)[0].detach()) for seed in (0, 1)])
    same, different = pairs(labels)
    sizes = (same.sum(-1) * different.sum(-1)).sum(-1) if loss is triplet_loss else (same | different).sum((-1, -2))
    each = torch.stack([loss(distances[number], labels[number], 0.7) for number in (0, 1)])
    assert loss(distances, labels, 0.7).item() == pytest.approx(float((each * sizes).sum() / sizes.sum()), abs=1e-6)


@pytest.mark.parametrize("loss", [triplet_loss, contrastive_loss])
def test_gradient_is_finite_where_items_coincide(loss):
    items = torch.zeros(6, 3).requires_grad_()
    loss(distances_of(items), torch.tensor([0, 0, 1, 1, 2, 2]), 0.5).backward()
    assert items.grad.isfinite().all()


def test_square_root_is_exact_above_rounding_and_flat_below():
    squared = torch.tensor([0.0, -1e-9, 4.0, 0.25], requires_grad=True)
    roots = euclidean(squared)
    roots.sum().backward()
    assert roots.tolist() == [0.0, 0.0, 2.0, 0.5]
    assert squared.grad.tolist() == [0.0, 0.0, 0.25, 1.0]


def test_triplets_of_many_items_need_no_cube_of_them():
    items, labels = drawn(1500, 10)  # a cube of them would be 13 GB
    assert triplet_loss(distances_of(items), labels, 0.5).isfinite()
