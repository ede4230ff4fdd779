"""Results small enough to check by hand."""

import io
from datetime import UTC, datetime

import numpy as np
from PIL import Image

from deployments.report.data import DomainResult, JudgedItem, LearnerScore, LedgerLine, ReportData
from deployments.samples.credits import EMOJI_CREDITS


def picture(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (80, 40), colour).save(file, "PNG")
    return file.getvalue()


def result(**changes: object) -> DomainResult:
    """Four items of two classes: a cat and a dog are recognised, the second dog and the last cat are taken wrongly."""
    values = {
        "domain": "pets",
        "shot": 1,
        "classes": ("cat", "dog"),
        "items": [
            JudgedItem("1", "Tom", picture("black")),
            JudgedItem("2", "Rex", picture("brown")),
            JudgedItem("3", "<b>Ada</b>"),
            JudgedItem("4"),
        ],
        "labels": np.array([0, 1, 1, 0]),
        "probabilities": np.array([[0.9, 0.1], [0.25, 0.75], [0.95, 0.05], [0.45, 0.55]]),
        "embeddings": np.array([[0.0, 0.0], [1.0, 1.0], [0.5, 0.2], [0.1, 0.9]]),
        "view_weights": {"title": 0.25, "picture": 0.75},
        "scores": [LearnerScore("tuned", 0.4, 0.1, 1.0, 0.1), LearnerScore("metafuse", 0.5, 0.4, 0.9, 0.2, ours=True)],
        "columns": {"picture": (0.5, 0.125), "facts/weight_g": (-0.02, 0.0625)},
    }
    return DomainResult(**(values | changes))


def many_results(items: int, classes: int) -> DomainResult:
    """As many items as asked for, with vectors that lie near their class."""
    rng = np.random.default_rng(0)
    labels = np.arange(items) % classes
    probabilities = rng.dirichlet(np.ones(classes), items)
    centres = rng.normal(size=(classes, 16))
    return result(
        classes=tuple(f"class-{number:02}" for number in range(classes)),
        items=[JudgedItem(str(number)) for number in range(items)],
        labels=labels,
        probabilities=probabilities,
        embeddings=centres[labels] + 0.1 * rng.normal(size=(items, 16)),
    )


def report(*results: DomainResult) -> ReportData:
    return ReportData(
        title="Pets & others",
        summary=["Two <classes> were told apart."],
        made_at=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        results=results or (result(),),
        ledger=[LedgerLine("pets", 10, 7, 2, 1)],
        facts={"Prior": "metafuse.prior 3"},
        credits=EMOJI_CREDITS,
    )
