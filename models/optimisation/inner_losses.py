"""What the inner loop descends: a loss per support item, by its first and second derivative in the outputs."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class InnerLoss(Protocol):
    """A loss per item that the inner loop can be unrolled through without autograd."""

    def slope(
        self, outputs: Float[Tensor, "batch item out"], targets: Float[Tensor, "batch item out"]
    ) -> Float[Tensor, "batch item out"]:
        """Return the gradient of each item's loss in its outputs."""
        ...

    def curvature(
        self,
        slope: Float[Tensor, "batch item out"],
        targets: Float[Tensor, "batch item out"],
        direction: Float[Tensor, "batch item out"],
    ) -> Float[Tensor, "batch item out"]:
        """Return each item's Hessian times a direction, where the loss has the given slope."""
        ...


class CrossEntropy:
    """Of the softmax of the outputs, with one-hot targets."""

    def slope(
        self, outputs: Float[Tensor, "batch item out"], targets: Float[Tensor, "batch item out"]
    ) -> Float[Tensor, "batch item out"]:
        """Return probabilities less targets."""
        return outputs.mT.softmax(-2).mT - targets  # over a few classes, softmax is faster along columns

    def curvature(
        self,
        slope: Float[Tensor, "batch item out"],
        targets: Float[Tensor, "batch item out"],
        direction: Float[Tensor, "batch item out"],
    ) -> Float[Tensor, "batch item out"]:
        """Return `(diag(p) - p pᵀ) direction`."""
        probabilities = slope + targets
        weighed = probabilities * direction
        return weighed - probabilities * weighed.sum(-1, keepdim=True)


class SquaredError:
    """The mean over outputs of the squared error."""

    def slope(
        self, outputs: Float[Tensor, "batch item out"], targets: Float[Tensor, "batch item out"]
    ) -> Float[Tensor, "batch item out"]:
        """Return twice the error, over the number of outputs."""
        return (outputs - targets) * (2 / outputs.shape[-1])

    def curvature(
        self,
        slope: Float[Tensor, "batch item out"],
        targets: Float[Tensor, "batch item out"],
        direction: Float[Tensor, "batch item out"],
    ) -> Float[Tensor, "batch item out"]:
        """Return twice the direction, over the number of outputs."""
        return direction * (2 / slope.shape[-1])


CROSS_ENTROPY = CrossEntropy()
SQUARED_ERROR = SquaredError()
