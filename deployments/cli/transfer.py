"""`metafuse transfer`: what the other domains are worth to each domain, and whom they harm."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Group

from data_contracts.configs import TrainConfig, TransferConfig
from data_contracts.names import check_domain
from deployments.cli.answer import Answer, rows_table
from deployments.cli.command import command
from deployments.cli.values import check_ingested, learner_names, names, numbers
from deployments.prefect_server import prefect_server

DEFAULT = TransferConfig()
SHOWN = (
    "domain",
    "shot",
    "learner",
    "unseen",
    "accuracy",
    "from_scratch",
    "gain",
    "nll",
    "ece",
    "coverage",
    "set_size",
)


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app, "transfer")(transfer)


def transfer(
    domains: Annotated[
        str, typer.Option(metavar="A,B", help="Domains to leave out one at a time. Default: every one with labels.")
    ] = "",
    learners: Annotated[
        str, typer.Option(metavar="A,B", help="Learners to train on the rest, auto, or all.")
    ] = ",".join(DEFAULT.learners),
    way: Annotated[int, typer.Option(min=2, help="Classes an episode.")] = DEFAULT.n_way,
    shots: Annotated[str, typer.Option(metavar="1,5", help="Labels a class, each measured on its own.")] = "1,5",
    query: Annotated[int, typer.Option(min=1, help="Test items a class and episode.")] = DEFAULT.n_query,
    episodes: Annotated[int, typer.Option(min=2, help="Episodes a shot and domain.")] = DEFAULT.episodes,
    coverage: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Share of sets of classes that shall hold the right one.")
    ] = DEFAULT.coverage,
    steps: Annotated[int, typer.Option(min=0, help="Training steps.")] = TrainConfig().steps,
    seed: Annotated[int, typer.Option(min=0, help="Seed of training, classes and episodes.")] = 0,
) -> Answer:
    """Leave one domain after the other out of training; compare on it what the rest taught with starting from scratch.

    An alarm is raised where even the upper end of the gain's 95 % interval is below 0. All other domains with labels
    train.

    Example: metafuse transfer --domains noto-ru,noto-zh --learners metric --episodes 100
    """
    config = TransferConfig(
        domains=tuple(map(check_domain, names(domains))),
        learners=learner_names(learners),
        n_way=way,
        shots=numbers(shots, least=1),
        n_query=query,
        episodes=episodes,
        coverage=coverage,
        split_seed=seed,
        training=TrainConfig(steps=steps, n_way=way, shots=numbers(shots, least=1), seed=seed),
    )
    check_ingested(*config.domains)
    with prefect_server("flows.transfer_report"):
        from flows.transfer_report import transfer_report

        report = transfer_report(config=config)
    return Answer(report, _shown(report))


def _shown(report: Mapping[str, Any]) -> Group:
    harmed = dict.fromkeys(row["domain"] for row in report["rows"] if row["is_negative"])
    return Group(
        rows_table(SHOWN, [_line(row) for row in report["rows"]], whole=("learner",)),
        "",
        "gain: accuracy less the better of nearest centroid and logistic regression from scratch on the same episodes",
        "nll, ece: of nearest centroid, which is the learner untrained, and of the trained learner",
        *(f"{name} was not tested: {why}" for name, why in report["skipped"].items()),
        f"Negative transfer: {', '.join(harmed)}." if harmed else "No negative transfer.",
    )


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    before, after = row["from_scratch"]["nearest_centroid"], row["transferred"]
    return {
        **{name: row[name] for name in ("domain", "shot", "learner", "unseen", "set_size")},
        "accuracy": f"{after['accuracy']:.2%} ± {after['ci95']:.2%}",
        "from_scratch": f"{row['from_scratch'][row['reference']]['accuracy']:.2%} {row['reference']}",
        "gain": f"{row['gain']:+.2%} ± {row['gain_ci95']:.2%}" + (" NEGATIVE" if row["is_negative"] else ""),
        "nll": f"{before['nll']:.3f} → {after['nll']:.3f}",
        "ece": f"{before['ece']:.3f} → {after['ece']:.3f}",
        "coverage": f"{row['coverage']:.1%}",
    }
