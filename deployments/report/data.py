"""What the report shows, as plain values: whoever writes a report gathers these, the page only draws them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class LearnerScore:
    """How good one learner is on the test items of one result; `ours` is drawn with emphasis."""

    learner: str
    accuracy: float
    ci95: float
    nll: float
    ece: float
    ours: bool = False


@dataclass(frozen=True)
class JudgedItem:
    """One item a model was judged on, as a person knows it."""

    item_id: str
    title: str = ""
    picture: bytes | None = None
    """An image file; None where the item has no picture."""


@dataclass(frozen=True)
class DomainResult:
    """One adapted model on labelled items of its domain that it had not seen.

    Rows of all arrays and `items` correspond. `labels` indexes `classes`. `embeddings`, the model's fused space, may be
    left out: then no map is drawn.
    """

    domain: str
    shot: int
    classes: tuple[str, ...]
    items: Sequence[JudgedItem]
    labels: Int[np.ndarray, " item"]
    probabilities: Float[np.ndarray, "item way"]
    embeddings: Float[np.ndarray, "item dim"] | None
    view_weights: Mapping[str, float]
    """View to its share of the decision; shares add up to one."""
    scores: Sequence[LearnerScore]
    """In the order they are shown."""
    columns: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Column to the log-probability lost without it and the half-width of its interval, in the order they are shown."""

    @property
    def name(self) -> str:
        """What headings call it."""
        return f"{self.domain}, {self.shot} {'label' if self.shot == 1 else 'labels'} a class"


@dataclass(frozen=True)
class LedgerLine:
    """What one ingest did: received = accepted + quarantined + duplicates."""

    domain: str
    received: int
    accepted: int
    quarantined: int
    duplicates: int


@dataclass(frozen=True)
class WorkCredit:
    """One work shown on the page, who made it and the licence it is used under."""

    work: str
    authors: str
    licence: str
    licence_url: str
    used_for: str


@dataclass(frozen=True)
class ReportData:
    """The whole page."""

    title: str
    summary: Sequence[str]
    """Paragraphs of plain text: what was done and what came of it."""
    made_at: datetime
    results: Sequence[DomainResult]
    ledger: Sequence[LedgerLine] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    """Versions, seconds and the like, shown as a list."""
    credits: Sequence[WorkCredit] = ()
