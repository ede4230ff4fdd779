"""Take in one domain's source."""

from typing import Any

from prefect import flow

from tasks.artifacts import publish_ledger, publish_quarantine
from tasks.embed import embed
from tasks.events import deliver
from tasks.ingest import announce, take_in
from tasks.run_tags import tagged


@flow(name="ingest-source", flow_run_name="ingest-{domain}")
def ingest_source(domain: str, contract: str, source: str | None = None) -> dict[str, Any]:
    """Store what is new and valid in a source, quarantine the rest, embed it, then say that labels arrived.

    `contract` is a file; `source` the folder its path starts from, by default the contract's own. Returns an
    `IngestReport` with the `EmbedReport` under `embedded`. Safe to run again: nothing is taken in or encoded twice.
    """
    with tagged(f"domain:{domain}"):
        report = take_in(domain, contract, source)
        publish_ledger(report)
        publish_quarantine(report)
        embedded = embed(domain) if report["table_version"] is not None else None
        announce(domain)
        deliver()
    return {**report, "embedded": embedded}
