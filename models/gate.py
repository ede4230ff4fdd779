"""May a challenger replace the champion? A paired comparison on the same labelled items, with three possible answers.

The interval is Agresti and Min's for the difference of matched proportions (2005, https://doi.org/10.1002/sim.1781):
Wald's after adding one half to each cell of the 2x2 table, which keeps its coverage when labels are few.
"""

import math
from dataclasses import asdict, dataclass
from typing import Literal

from jaxtyping import Bool
from torch import Tensor

from models.metrics import STANDARD_ERRORS

MAX_ASK = 100_000

Decision = Literal["promote", "hold", "ask"]


@dataclass(frozen=True)
class Verdict:
    """What to do, and the numbers it rests on."""

    decision: Decision
    items: int
    gain: float
    gain_low: float
    gain_high: float
    labels_needed: int = 0
    """More labelled items that would likely decide, if the decision is `ask`."""
    unopposed: str = ""
    """Why there was nobody to compare with, if there was not."""

    def numbers(self) -> dict[str, float]:
        """Return the numbers alone."""
        return {name: value for name, value in asdict(self).items() if name not in ("decision", "unopposed")}

    def why(self) -> str:
        """Say it in one sentence."""
        if self.unopposed:
            return f"{self.decision}: {self.unopposed}, judged on {self.items} items"
        measured = (
            f"gain {100 * self.gain:+.1f} points [{100 * self.gain_low:+.1f}, {100 * self.gain_high:+.1f}] "
            f"on {self.items} items"
        )
        tail = f"; about {self.labels_needed} more labels would decide" if self.decision == "ask" else ""
        return f"{self.decision}: {measured}{tail}"


def promote_unopposed(items: int, why: str = "the first model of its kind") -> Verdict:
    """Promote a model that has nobody to beat."""
    return Verdict("promote", items, 0.0, 0.0, 0.0, unopposed=why)


def judge(
    challenger_is_right: Bool[Tensor, " item"], champion_is_right: Bool[Tensor, " item"], *, min_gain: float = 0.0
) -> Verdict:
    """Compare two models on the same items, which neither was fitted on.

    Promote if the whole 95 % interval of the accuracy gained lies above `min_gain`; ask for labels if the gain seen
    lies above it but the interval does not; otherwise hold.
    """
    items = len(challenger_is_right)
    if items == 0:
        return Verdict("ask", 0, 0.0, -1.0, 1.0, labels_needed=2)
    won = int((challenger_is_right & ~champion_is_right).sum())
    lost = int((champion_is_right & ~challenger_is_right).sum())
    seen = (won - lost) / items
    middle, half = _interval(won, lost, items)
    verdict = Verdict("hold", items, seen, middle - half, middle + half)
    if middle - half > min_gain:
        return _decided(verdict, "promote")
    if seen > min_gain:
        return _decided(verdict, "ask", _labels_needed(won, lost, items, min_gain))
    return verdict


def _interval(won: float, lost: float, items: float) -> tuple[float, float]:
    won, lost, items = won + 0.5, lost + 0.5, items + 2
    spread = max(won + lost - (won - lost) ** 2 / items, 0.0)
    return (won - lost) / items, STANDARD_ERRORS * math.sqrt(spread) / items


def _labels_needed(won: int, lost: int, items: int, min_gain: float) -> int:
    """Items to add until the interval would clear `min_gain`, if both models go on as they did."""

    def decides(total: int) -> bool:
        middle, half = _interval(won * total / items, lost * total / items, total)
        return middle - half > min_gain

    high = items
    while not decides(high):
        high *= 2
        if high > MAX_ASK:
            return MAX_ASK
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return max(high - items, 1)


def _decided(verdict: Verdict, decision: Decision, labels_needed: int = 0) -> Verdict:
    return Verdict(decision, verdict.items, verdict.gain, verdict.gain_low, verdict.gain_high, labels_needed)
