"""How a learner learned, step by step."""

from dataclasses import dataclass, field

from models.training import TrainProgress

Points = list[tuple[int, float]]
"""Step and value."""


@dataclass(frozen=True)
class LearningCurve:
    """Loss and validation accuracy over the steps of the outer loop."""

    losses: Points = field(default_factory=list)
    validation: Points = field(default_factory=list)

    def note(self, progress: TrainProgress) -> None:
        """Add what the loop reports after a step."""
        if progress.loss is not None:
            self.losses.append((progress.step, progress.loss))
        if progress.validation_accuracy is not None:
            self.validation.append((progress.step, progress.validation_accuracy))
