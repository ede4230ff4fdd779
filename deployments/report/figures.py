"""The geometry of the report's figures: numbers in, coordinates out. The page's template draws them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from deployments.report.data import DomainResult
from deployments.report.thumbnails import thumbnail_uri

MAP_WIDTH, MAP_HEIGHT, MARK = 960, 620, 28
MAX_MARKS = 400
MIN_MAPPED = 8
MAX_CONFUSED = 30
BINS = 10


@dataclass(frozen=True)
class Mark:
    """One item on the embedding map; `x` and `y` are its centre."""

    x: float
    y: float
    label: str
    predicted: str
    confidence: float
    title: str
    picture: str | None

    @property
    def is_right(self) -> bool:
        """Whether the model says what the label says."""
        return self.label == self.predicted


@dataclass(frozen=True)
class Cell:
    """How often items of one class were taken for another."""

    row: int
    column: int
    count: int
    share: float


@dataclass(frozen=True)
class Confusion:
    """Rows are true classes, columns predicted ones; empty cells are left out."""

    classes: tuple[str, ...]
    totals: tuple[int, ...]
    cells: tuple[Cell, ...]
    left_out: int
    """Classes not shown, because a larger matrix cannot be read."""


@dataclass(frozen=True)
class Bin:
    """Predictions of about the same confidence, and how many of them are right."""

    confidence: float
    accuracy: float
    count: int
    share: float
    """Of all predictions."""


def embedding_map(result: DomainResult) -> list[Mark]:
    """Place items that the model's fused space holds close beside each other; at most 400, drawn by chance."""
    if result.embeddings is None or len(result.items) == 0:
        return []
    rows = _sample(len(result.items))
    places = _spread(_layout(result.embeddings[rows]) * (MAP_WIDTH - 2 * MARK, MAP_HEIGHT - 2 * MARK) + MARK)
    return [_mark(result, int(row), float(x), float(y)) for row, (x, y) in zip(rows, places, strict=True)]


def confusion(result: DomainResult) -> Confusion:
    """Count true against predicted classes; of more than thirty, those with the most mistakes are kept."""
    counts = np.zeros((len(result.classes), len(result.classes)), dtype=int)
    np.add.at(counts, (result.labels, result.probabilities.argmax(1)), 1)
    kept = _most_mistaken(counts)
    totals = counts.sum(1)
    shown = counts[np.ix_(kept, kept)]
    cells = [
        Cell(int(row), int(column), int(shown[row, column]), float(shown[row, column] / totals[kept[row]]))
        for row, column in np.argwhere(shown)
    ]
    return Confusion(
        classes=tuple(result.classes[number] for number in kept),
        totals=tuple(int(totals[number]) for number in kept),
        cells=tuple(cells),
        left_out=len(result.classes) - len(kept),
    )


def reliability(result: DomainResult) -> list[Bin]:
    """Group predictions into ten bins of equal width by confidence; empty bins are left out."""
    confidence = result.probabilities.max(1)
    is_right = result.probabilities.argmax(1) == result.labels
    number = np.minimum((confidence * BINS).astype(int), BINS - 1)
    groups = [number == one for one in range(BINS) if (number == one).any()]
    return [
        Bin(float(confidence[group].mean()), float(is_right[group].mean()), int(group.sum()), float(group.mean()))
        for group in groups
    ]


def _sample(items: int) -> Int[np.ndarray, " mark"]:
    if items <= MAX_MARKS:
        return np.arange(items)
    return np.sort(np.random.default_rng(0).choice(items, MAX_MARKS, replace=False))


def _layout(embeddings: Float[np.ndarray, "item dim"]) -> Float[np.ndarray, "item 2"]:
    """Return coordinates from 0 to 1: t-SNE (van der Maaten & Hinton, 2008), which starts at principal components."""
    from sklearn.manifold import TSNE

    varied = embeddings[:, np.ptp(embeddings, axis=0) > 0]
    places = np.zeros((len(embeddings), 2))
    if len(embeddings) < MIN_MAPPED or varied.shape[1] < 2:  # too little for t-SNE
        places[:, : min(2, varied.shape[1])] = varied[:, :2]
    else:
        perplexity = min(20.0, len(embeddings) / 4)
        places = TSNE(perplexity=perplexity, metric="cosine", init="pca", random_state=0).fit_transform(varied)
    low, high = places.min(0), places.max(0)
    within: Float[np.ndarray, "item 2"] = (places - low) / np.maximum(high - low, 1e-9)
    return within


def _spread(places: Float[np.ndarray, "item 2"], *, rounds: int = 60) -> Float[np.ndarray, "item 2"]:
    """Push marks apart until few overlap, within the map."""
    lowest, highest = np.full(2, MARK / 2), np.array([MAP_WIDTH, MAP_HEIGHT]) - MARK / 2
    nudge = np.random.default_rng(0).normal(scale=0.5, size=places.shape)  # parts marks at the same place
    places = places + nudge
    for _ in range(rounds):
        apart = places[:, None] - places[None]  # [item, item, 2]
        distance = np.maximum(np.abs(apart).max(-1, keepdims=True), 1e-6)  # between squares
        push = apart / distance * np.maximum(MARK - distance, 0)
        places = np.clip(places + push.sum(1) / 4, lowest, highest)
    return places


def _mark(result: DomainResult, row: int, x: float, y: float) -> Mark:
    item, probabilities = result.items[row], result.probabilities[row]
    return Mark(
        x=x,
        y=y,
        label=result.classes[result.labels[row]],
        predicted=result.classes[probabilities.argmax()],
        confidence=float(probabilities.max()),
        title=item.title or item.item_id,
        picture=thumbnail_uri(item.picture) if item.picture else None,
    )


def _most_mistaken(counts: Int[np.ndarray, "class class"]) -> Int[np.ndarray, " kept"]:
    """Classes that were tested, in their own order."""
    tested = np.flatnonzero(counts.sum(1) + counts.sum(0))
    mistakes = counts.sum(1) + counts.sum(0) - 2 * counts.diagonal()
    by_mistakes = tested[np.argsort(-mistakes[tested], kind="stable")]
    return np.sort(by_mistakes[:MAX_CONFUSED])
