"""What an ingest leaves beside its items: quarantined rows, labels and the line of the ledger, each exactly once."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data_contracts.contract import Contract
from data_contracts.odcs import dump_contract
from data_contracts.reports import IngestReport
from data_contracts.tables import BATCHES, LABELS, QUARANTINE
from tasks.lake import Lake, Snapshot
from tasks.source import SourceBatch

FROM_CONTRACT = "contract"
"""`source` of labels that came with the items, as opposed to those a person gave later."""


@dataclass(frozen=True)
class RefusedRow:
    """A row that goes to quarantine."""

    locator: str
    item_id: str | None
    reasons: Sequence[str]
    payload: Mapping[str, Any]


@lru_cache(maxsize=64)
def contract_version(contract: Contract) -> str:
    """Return the contract's version and a digest of what it says, for whoever edits without counting up."""
    digest = hashlib.sha256(dump_contract(contract).encode()).hexdigest()
    return f"{contract.version}+{digest[:12]}"


def last_batch(lake: Lake, domain: str, source: str) -> dict[str, Any] | None:
    """Return the newest ledger line of one source of `domain`."""
    lines = lake.read("batches", where=f"domain = '{domain}'").sort_by("at").to_pylist()
    return next((line for line in reversed(lines) if line["source"] == source), None)


def next_batch_id(contract: Contract, batch: SourceBatch, previous: Mapping[str, Any] | None) -> str:
    """Name the ingest that follows `previous`: the same name again if it is repeated after a crash."""
    before = previous["batch_id"] if previous else ""
    parts = (contract.domain, batch.source, batch.sha256, contract_version(contract), before)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def write_quarantine(lake: Lake, contract: Contract, batch_id: str, rows: Sequence[RefusedRow]) -> None:
    """Keep refused rows with their reasons and what they held."""
    common = {
        "domain": contract.domain,
        "batch_id": batch_id,
        "contract_version": contract_version(contract),
        "at": datetime.now(UTC),
    }
    table = [
        {
            **common,
            "locator": row.locator,
            "item_id": row.item_id,
            "reasons": list(row.reasons),
            "payload_json": json.dumps(dict(row.payload), default=str, ensure_ascii=False),
        }
        for row in rows
    ]
    if table:
        lake.append("quarantine", _table(table, QUARANTINE), transaction=(f"quarantine/{batch_id}", 1))


def write_labels(lake: Lake, domain: str, labels: Mapping[str, str]) -> None:
    """Append labels (item to label, empty: none) that are new or changed.

    An empty label takes back the one before. A label that a person gave stays until the source changes its own.
    """

    def changed(stored: Snapshot) -> pa.Table:
        mine = f"domain = '{domain}' AND source = '{FROM_CONTRACT}'"
        newest = stored.latest(key="item_id", by="at", columns=["item_id", "label"], where=mine)
        known = dict(zip(newest["item_id"].to_pylist(), newest["label"].to_pylist(), strict=True))
        rows = [{"item_id": item, "label": label} for item, label in labels.items() if known.get(item, "") != label]
        at = later_than(stored, "at", f"domain = '{domain}'")
        return _table([{**row, "domain": domain, "source": FROM_CONTRACT, "at": at} for row in rows], LABELS)

    lake.transact("labels", LABELS, _labels_fence(domain), changed)


def labels_version(lake: Lake, domain: str) -> int:
    """Return how often sources have changed the labels of `domain`."""
    snapshot = lake.snapshot("labels")
    return 0 if snapshot is None else snapshot.commits(_labels_fence(domain))


def write_line(lake: Lake, contract: Contract, batch: SourceBatch, report: IngestReport) -> None:
    """Write the line of the ledger, which ends the ingest."""
    line = {
        **report.model_dump(include={"domain", "batch_id", "received", "accepted", "quarantined", "duplicates"}),
        "source": batch.source,
        "source_sha256": batch.sha256,
        "contract_version": contract_version(contract),
        "reasons_json": json.dumps(report.reasons, sort_keys=True),
        "at": datetime.now(UTC),
    }
    lake.append("batches", _table([line], BATCHES), transaction=(f"ledger/{report.batch_id}", 1))


def count_reasons(rows: Sequence[RefusedRow]) -> dict[str, int]:
    """Return how many rows broke each rule, the most frequent first."""
    return dict(Counter(reason for row in rows for reason in row.reasons).most_common())


def later_than(stored: Snapshot, column: str, where: str = "TRUE") -> datetime:
    """Return now, or just after the newest instant in `column` if this machine's clock is behind it."""
    newest = pc.max(stored.read([column], where)[column]).as_py()
    now = datetime.now(UTC)
    return now if newest is None or newest < now else newest + timedelta(microseconds=1)


def _labels_fence(domain: str) -> str:
    return f"labels/{domain}"


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=schema)
