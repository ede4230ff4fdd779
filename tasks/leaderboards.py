"""What a run shows in Prefect beside its logs: who did how well, as a table."""

from collections.abc import Mapping
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE


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


@task(name="publish-scores", cache_policy=NO_CACHE)
def publish_scores(report: Mapping[str, Any]) -> None:
    """Show what scoring a domain gave."""
    create_markdown_artifact(
        key=f"scored-{report['domain']}",
        markdown=scores_table(report),
        description=f"{report['items']} items scored by {report['model']} version {report['version']}",
    )


def adaptation_table(outcome: Mapping[str, Any]) -> str:
    """Return a leaderboard in Markdown: the model and its baselines, best first, then the shares of the views."""
    models = {f"**{outcome['model']}** v{outcome['version']}": outcome, **outcome["baselines"]}
    ranked = sorted(models.items(), key=lambda entry: -entry[1]["accuracy"])
    rows = [
        (name, f"{_pct(found['accuracy'])} ± {_pct(found['ci95'])}", f"{found['nll']:.3f}", f"{found['ece']:.3f}")
        for name, found in ranked
    ]
    views, learners = (
        [(name, _pct(share)) for name, share in outcome[shares].items()] for shares in ("views", "preference")
    )
    return "\n\n".join(
        [
            f"# {outcome['domain']}",
            f"{outcome['labels']} labels to adapt from, {outcome['tested']} to judge on. {outcome['why']}.",
            _table(("model", "accuracy, %", "NLL", "ECE"), rows),
            f"Learner: `{outcome['learner']}`, " + ("which `auto` chose." if learners else "asked for by name."),
            *([_table(("learner", "share in the choice, %"), learners)] if learners else []),
            _table(("view", "share of the decision, %"), views),
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
    return "\n\n".join(["# Prior", head, _table(("prior", "accuracy on validation classes, %"), rows)])


def scores_table(report: Mapping[str, Any]) -> str:
    """Return in Markdown how many items got which label."""
    head = (
        f"{report['items']} items: {report['abstained']} without an answer, {report['anomalies']} anomalies, "
        f"{report['clusters']} clusters. Answered by {report['rung']}."
    )
    rows = [(name, str(count)) for name, count in sorted(report["labels"].items(), key=lambda entry: -entry[1])]
    return "\n\n".join([f"# {report['domain']}", head, _table(("label", "items"), rows)])


def _table(head: tuple[str, ...], rows: list[Any]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _pct(share: float) -> str:
    return f"{100 * share:.1f}"
