"""`metafuse drift`: whether the items of a domain are still like those its model was adapted among."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Group

from data_contracts.configs import LARGEST_WINDOW, DriftConfig
from deployments.cli.answer import Answer, rows_table
from deployments.cli.command import command
from deployments.cli.values import check_ingested
from deployments.prefect_server import prefect_server

SHOWN = ("domain", "view", "share before", "share now", "p of share", "discrepancy", "p")


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app, "drift")(drift)


def drift(
    domain: Annotated[str | None, typer.Argument(help="Default: every domain that has a champion.")] = None,
    false_alarm_rate: Annotated[
        float, typer.Option(min=0.001, max=0.499, help="Chance of an alarm at one look if nothing has changed.")
    ] = DriftConfig().false_alarm_rate,
    at_least: Annotated[int, typer.Option(min=2, help="Recent items that a test needs.")] = DriftConfig().at_least,
    window: Annotated[
        int, typer.Option(min=2, max=LARGEST_WINDOW, help="Newest items to look at; cost grows with the square.")
    ] = DriftConfig().window,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same result.")] = 0,
) -> Answer:
    """Compare recent items with those the champion was adapted among, and announce it if they differ.

    On a server the announcement adapts the domain again. Each comparison is a row in the table drift.

    Example: metafuse drift noto-ru

    Example: metafuse drift --false-alarm-rate 0.001
    """
    if domain is not None:
        check_ingested(domain)
    config = DriftConfig(false_alarm_rate=false_alarm_rate, at_least=at_least, window=window, seed=seed)
    with prefect_server("flows.watch_drift"):
        from flows.watch_drift import watch_drift

        report = watch_drift(domain=domain, config=config)
    return Answer(report, _shown(report))


def _shown(report: Mapping[str, Any]) -> Group:
    lines = [_line(row, name, view) for row in report["rows"] for name, view in row["views"].items()]
    said = [
        *(f"{row['domain']}: {'DRIFT: ' if row['is_drifted'] else ''}{row['why']}." for row in report["rows"]),
        *(f"{name} was not looked at: {why}" for name, why in report["skipped"].items()),
    ] or ["No domain has a model yet: metafuse adapt DOMAIN."]
    return Group(rows_table(SHOWN, lines), "", *said) if lines else Group(*said)


def _line(row: Mapping[str, Any], name: str, view: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "domain": row["domain"],
        "view": name,
        "share before": f"{view['share_before']:.1%}",
        "share now": f"{view['share_after']:.1%}",
        "p of share": view["share_p_value"],
        "discrepancy": view["statistic"],
        "p": view["p_value"],
    }
