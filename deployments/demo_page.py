"""What the demo's report page shows, gathered from the registry and the lake."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_contracts.configs import AdaptConfig
from data_contracts.settings import get_settings
from deployments.report.data import DomainResult, JudgedItem, LearnerScore, LedgerLine, ReportData
from deployments.report.page import write_report
from deployments.samples.credits import EMOJI_CREDITS

if TYPE_CHECKING:
    from tasks.lake import Lake

BASELINES = {
    "best_single": "best view",
    "concat_logreg": "equal weights",
    "tuned_logreg": "tuned weights",
}
"""Each baseline is a logistic regression on the same labels."""

OURS = "metafuse"
LEDGER = ("received", "accepted", "quarantined", "duplicates")


Facts = Mapping[str, Any]


def write_demo_page(
    ledger: Sequence[Mapping[str, Any]],
    prior: Mapping[str, Any],
    adapted: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
) -> Path:
    """Write HOME/docs/demo.html and return where it is."""
    data = ReportData(
        title="metafuse demo",
        summary=(
            f"A prior was meta-trained on {len(prior['domains'])} domains of emoji: drawings of two vendors with names "
            "in five languages. It was then adapted to domains of a third vendor and two other languages, from few "
            f"labels of {len(classes)} classes that were kept out of training. Each time, the learner that promised "
            "most was chosen.",
            "Every model is judged on items whose labels it has not seen; the baselines got the same labels.",
        ),
        made_at=datetime.now(UTC),
        results=[result_of(run, classes) for run in adapted],
        ledger=[LedgerLine(batch["domain"], *(batch[name] for name in LEDGER)) for batch in ledger],
        facts={
            "Prior": f"{prior['model']} version {prior['version']}, {prior['classes']} classes",
            "Home": str(get_settings().home),
        },
        credits=EMOJI_CREDITS,
    )
    return write_report(get_settings().docs / "demo.html", data)


def result_of(run: Facts, classes: Sequence[str]) -> DomainResult:
    """Let one registered model answer its test items again, and gather what the page shows of that."""
    from models.label_split import split_labels
    from tasks import registry
    from tasks.adapt import MAX_TESTED
    from tasks.features import load_domain
    from tasks.lake import open_lake

    lake = open_lake()
    config = AdaptConfig(shots=run["shots"], classes=tuple(classes))
    split = split_labels(load_domain(lake, run["domain"]), config).with_at_most(MAX_TESTED)
    test = split.data.take(split.test)
    model, _ = registry.load_domain_model(run["domain"], run["version"])
    return DomainResult(
        domain=run["domain"],
        shot=run["shots"],
        classes=model.classes,
        items=items_of(lake, run["domain"], test.item_ids),
        labels=test.with_classes(model.classes).labels.numpy(),
        probabilities=model.predict(test).detach().numpy(),
        embeddings=model.embed(test).detach().numpy(),
        view_weights=run["views"],
        scores=[
            *(_score(name, run["baselines"][key]) for key, name in BASELINES.items()),
            _score(f"{OURS}: {run['learner']}", run, ours=True),
        ],
        columns={name: (lost["loss"], lost["ci95"]) for name, lost in run["columns"].items()},
    )


def items_of(lake: "Lake", domain: str, item_ids: Sequence[str]) -> list[JudgedItem]:
    """Return the title and picture of each item, in the given order."""
    from tasks.media import open_media

    media = open_media()
    rows = lake.current_items(domain, columns=["item_id", "title", "picture_sha256"]).to_pylist()
    by_id = {row["item_id"]: row for row in rows}
    return [
        JudgedItem(
            item_id,
            by_id[item_id]["title"] or "",
            media.get(sha256) if (sha256 := by_id[item_id]["picture_sha256"]) else None,
        )
        for item_id in item_ids
    ]


def _score(name: str, found: Facts, *, ours: bool = False) -> LearnerScore:
    numbers = {key: found[key] for key in ("accuracy", "ci95", "nll", "ece")}
    return LearnerScore(learner=name, ours=ours, **numbers)
