"""What a run shows in Prefect beside its logs: who did how well, as a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from tasks.artifacts import as_code


@task(name="publish-adaptation", cache_policy=NO_CACHE)
def publish_adaptation(outcome: Mapping[str, Any]) -> None:
    """Show the model of one domain beside its baselines."""
    create_markdown_artifact(
        key=f"adapted-{outcome['domain']}",
        markdown=adaptation_table(outcome),
        description=f"{outcome['model']} version {outcome['version']}: {outcome['why']}",
    )


@task(name="publish-prior", cache_policy=NO_CACHE)
def publish_prior(report: Mapping[str, Any]) -> None:
    """Show how a new prior compares."""
    create_markdown_artifact(
        key="prior",
        markdown=prior_table(report),
        description=f"{report['model']} version {report['version']}: {report['why']}",
    )


@task(name="publish-benchmark", cache_policy=NO_CACHE)
def publish_benchmark(report: Mapping[str, Any]) -> None:
    """Show how learners compare on unseen domains and classes."""
    tested = ", ".join(report["protocol"]["test"])
    create_markdown_artifact(
        key="benchmark",
        markdown="\n\n".join([f"# Benchmark on {tested}", leaderboard_table(report["leaderboard"])]),
        description=f"{len(report['protocol']['learners'])} learners on {tested}, classes never trained on",
    )


@task(name="publish-scores", cache_policy=NO_CACHE)
def publish_scores(report: Mapping[str, Any]) -> None:
    """Show what scoring a domain gave."""
    create_markdown_artifact(
        key=f"scored-{report['domain']}",
        markdown=scores_table(report),
        description=f"{report['items']} items scored by {report['model']} version {report['version']}",
    )


@task(name="publish-transfer", cache_policy=NO_CACHE)
def publish_transfer(report: Mapping[str, Any]) -> None:
    """Show what the other domains are worth to each domain, and which they harm."""
    create_markdown_artifact(key="transfer", markdown=transfer_table(report), description=_alarm(report))


@task(name="publish-drift", cache_policy=NO_CACHE)
def publish_drift(report: Mapping[str, Any]) -> None:
    """Show for each domain that was looked at how its recent items compare."""
    for row in report["rows"]:
        create_markdown_artifact(key=f"drift-{row['domain']}", markdown=drift_table(row), description=row["why"])


def adaptation_table(outcome: Mapping[str, Any]) -> str:
    """Return a leaderboard in Markdown: the model and its baselines, best first, then what carries its decisions."""
    models = {f"**{outcome['model']}** v{outcome['version']}": outcome, **outcome["baselines"]}
    ranked = sorted(models.items(), key=lambda entry: -entry[1]["accuracy"])
    rows = [
        (name, f"{_pct(found['accuracy'])} ± {_pct(found['ci95'])}", f"{found['nll']:.3f}", f"{found['ece']:.3f}")
        for name, found in ranked
    ]
    views, learners = (
        [(name, _pct(share)) for name, share in outcome[shares].items()] for shares in ("views", "preference")
    )
    columns = [(name, f"{found['loss']:.3f} ± {found['ci95']:.3f}") for name, found in outcome["columns"].items()]
    return "\n\n".join(
        [
            f"# {outcome['domain']}",
            f"{outcome['labels']} labels to adapt from, {outcome['tested']} to judge on. {outcome['why']}.",
            _table(("model", "accuracy, %", "NLL", "ECE"), rows),
            f"Learner: `{outcome['learner']}`, " + ("which `auto` chose." if learners else "asked for by name."),
            *([_table(("learner", "share in the choice, %"), learners)] if learners else []),
            _table(("view", "share of the decision, %"), views),
            *([_table(("column", "log-probability lost when it is shuffled, nats"), columns)] if columns else []),
        ]
    )


def prior_table(report: Mapping[str, Any]) -> str:
    """Return in Markdown how a prior does on classes it was not trained on."""
    champion = report["champion_accuracy"]
    rows = [
        (f"**{report['model']}** v{report['version']}", _pct(report["validation_accuracy"])),
        ("the same learner, untrained", _pct(report["untrained_accuracy"])),
        *([] if champion is None else [("champion before", _pct(champion))]),
    ]
    head = f"A `{report['learner']}` learner over {len(report['domains'])} domains and {report['classes']} classes."
    compared = _table(("prior", "accuracy on validation classes, %"), rows)
    return "\n\n".join(["# Prior", head, compared, "## Learners", leaderboard_table(report["leaderboard"])])


def leaderboard_table(board: Sequence[Mapping[str, Any]]) -> str:
    """Return a leaderboard in Markdown, a line for each shot and learner."""
    head = (
        "shot",
        "learner",
        "family",
        "accuracy, %",
        "over untrained",
        "over tuned_logreg",
        "NLL",
        "ECE",
        "training, s",
    )
    rows = [
        (
            str(row["shot"]),
            row["learner"],
            row["family"],
            f"{_pct(row['accuracy'])} ± {_pct(row['ci95'])}",
            *(f"{100 * row[over]:+.1f} ± {_pct(row[f'{over}_ci95'])}" for over in ("over_untrained", "over_tuned")),
            "-" if row["nll"] is None else f"{row['nll']:.3f}",
            f"{row['ece']:.3f}",
            "-" if row["seconds"] is None else f"{row['seconds']:.0f}",
        )
        for row in board
    ]
    return _table(head, rows)


def scores_table(report: Mapping[str, Any]) -> str:
    """Return in Markdown who answered, how many items got which label, and which to label next."""
    head = (
        f"{report['items']} items: {report['abstained']} without an answer, {report['anomalies']} anomalies, "
        f"{report['clusters']} clusters of stability {report['cluster_stability']:.2f}. Answered by {report['rung']}."
    )
    rows = [
        (as_code(label), str(count)) for label, count in sorted(report["labels"].items(), key=lambda entry: -entry[1])
    ]
    asked = ", ".join(map(as_code, report["ask"]))
    ask = [f"Label these next: {asked}"] if asked else []
    return "\n\n".join([f"# {report['domain']}", head, *silent_rungs(report), *ask, _table(("label", "items"), rows)])


def silent_rungs(report: Mapping[str, Any]) -> list[str]:
    """Say of each rung that was passed over why it did not answer."""
    return [f"The {rung} did not answer: {why}" for rung, why in report["passed_over"].items()]


def drift_table(row: Mapping[str, Any]) -> str:
    """Return in Markdown how recent items of a domain compare, view by view, with those its model was adapted among."""
    alarm = "**Drift**: " if row["is_drifted"] else ""
    head = ("view", "has it before, %", "now, %", "p", "discrepancy", "p")
    views = [
        (
            name,
            _pct(view["share_before"]),
            _pct(view["share_after"]),
            f"{view['share_p_value']:.2g}",
            *("-" if view[test] is None else f"{view[test]:.2g}" for test in ("statistic", "p_value")),
        )
        for name, view in row["views"].items()
    ]
    return "\n\n".join(
        [
            f"# {row['domain']}",
            f"{alarm}{row['why']}.",
            f"{row['recent_items']} recent items beside the {row['reference_items']} that {row['model']} version "
            f"{row['version']} was adapted among.",
            *([_table(head, views), "p-values are corrected for all tests of the domain."] if views else []),
        ]
    )


def transfer_table(report: Mapping[str, Any]) -> str:
    """Return in Markdown, for each domain, what is gained over starting from scratch, and what sets of classes hold."""
    rows = [
        (
            f"{row['domain']}, {row['shot']} shot",
            row["learner"],
            row["unseen"],
            _pct(row["transferred"]["accuracy"]),
            f"{_pct(row['from_scratch'][row['reference']]['accuracy'])} ({row['reference']})",
            f"{100 * row['gain']:+.1f} ± {_pct(row['gain_ci95'])}" + (" **negative**" if row["is_negative"] else ""),
            *(_before_and_after(row, metric) for metric in ("nll", "ece")),
            f"{_pct(row['coverage'])} with {row['set_size']:.2f} classes",
        )
        for row in report["rows"]
    ]
    stated = _pct(report["protocol"]["coverage"])
    head = ("domain", "learner", "unseen", "accuracy, %", "from scratch, %", "gain", "NLL", "ECE")
    skipped = [f"- {name} was not tested: {why}" for name, why in report["skipped"].items()]
    return "\n\n".join(
        [
            "# What the other domains are worth",
            _alarm(report),
            _table((*head, f"sets of {stated} % cover, %"), rows),
            "Each domain is left out of training in turn. The gain is over nearest centroid or logistic regression on "
            "the support alone, whichever is more accurate on the same episodes. NLL and ECE: of nearest centroid, "
            "which is the learner untrained, and of the trained learner.",
            *(["\n".join(skipped)] if skipped else []),
        ]
    )


def _before_and_after(row: Mapping[str, Any], metric: str) -> str:
    return f"{row['from_scratch']['nearest_centroid'][metric]:.3f} → {row['transferred'][metric]:.3f}"


def _alarm(report: Mapping[str, Any]) -> str:
    harmed = dict.fromkeys(row["domain"] for row in report["rows"] if row["is_negative"])
    if not harmed:
        return "No domain is harmed by what was learned from the others."
    return (
        f"**Negative transfer**: what was learned from the others harms {', '.join(harmed)}. Adapt from scratch there."
    )


def _table(head: tuple[str, ...], rows: list[Any]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _pct(share: float) -> str:
    return f"{100 * share:.1f}"
