"""What an ingest shows in Prefect beside its logs: the ledger of its domain, and what went to quarantine."""

from collections.abc import Mapping, Sequence
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from tasks.lake import Lake, open_lake

NEWEST = 50
"""Rows that are shown; the tables `batches` and `quarantine` hold them all."""
MOST_NAMED = 10
"""Unused columns that are named."""
_COUNTS = ("received", "accepted", "quarantined", "duplicates")


@task(name="publish-ledger", cache_policy=NO_CACHE)
def publish_ledger(report: Mapping[str, Any]) -> None:
    """Show the ledger of the domain, newest line first."""
    create_table_artifact(
        key=f"ledger-{report['domain']}",
        table=ledger_rows(open_lake(), report["domain"]),
        description=f"{report['received']} received = {report['accepted']} accepted + {report['quarantined']} "
        f"quarantined + {report['duplicates']} duplicates in {report['seconds']:.1f} s."
        + _on_unused(report["unused_columns"]),
    )


@task(name="publish-quarantine", cache_policy=NO_CACHE)
def publish_quarantine(report: Mapping[str, Any]) -> None:
    """Show the rows of this batch that were refused, and why."""
    reasons = ", ".join(f"{reason} {count}" for reason, count in report["reasons"].items())
    create_table_artifact(
        key=f"quarantine-{report['domain']}",
        table=quarantine_rows(open_lake(), report["domain"], report["batch_id"]),
        description=f"Rows by reason: {reasons}." if reasons else "Nothing new was refused.",
    )


def as_code(text: str) -> str:
    """Return a name that comes from data as Markdown code, where it can be no markup and cannot end a cell."""
    plain = " ".join(text.replace("`", "'").replace("|", "¦").split())
    return f"`{plain}`"


def _on_unused(columns: Sequence[str]) -> str:
    first = [*map(as_code, columns[:MOST_NAMED]), *(["…"] if len(columns) > MOST_NAMED else [])]
    return f" Not in the contract, so not read: {', '.join(first)}." if columns else ""


def ledger_rows(lake: Lake, domain: str) -> list[dict[str, Any]]:
    """Return the newest lines of the ledger of `domain`, newest first."""
    lines = lake.read("batches", where=f"domain = '{domain}'").sort_by([("at", "descending")])
    shown = ("batch_id", "at", *_COUNTS, "contract_version", "source")
    return [{name: _shown(line[name]) for name in shown} for line in lines.slice(0, NEWEST).to_pylist()]


def quarantine_rows(lake: Lake, domain: str, batch_id: str) -> list[dict[str, Any]]:
    """Return the first refused rows of a batch, in the order of the source's places."""
    rows = lake.read("quarantine", where=f"domain = '{domain}' AND batch_id = '{batch_id}'").sort_by("locator")
    return [
        {"locator": row["locator"], "item_id": row["item_id"], "reasons": ", ".join(row["reasons"])}
        for row in rows.slice(0, NEWEST).to_pylist()
    ]


def _shown(value: Any) -> Any:
    return value if isinstance(value, (int, str)) else value.isoformat(timespec="seconds")
