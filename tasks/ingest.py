"""Take a domain's source into the lake: judged row by row, decoded, stored by content, each row exactly once.

Everything a step writes is keyed by what it read, and the ledger's line comes last. So a run that was cut off anywhere
is finished by the next one, and a source that has not changed since its line was written is left alone.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
from prefect import task
from prefect.cache_policies import NO_CACHE

from data_contracts.arrow_schema import items_schema, media_hash_column
from data_contracts.contract import Contract
from data_contracts.errors import MediaRefused
from data_contracts.names import items_table
from data_contracts.odcs import load_contract
from data_contracts.page import contract_page
from data_contracts.reports import IngestReport
from data_contracts.settings import get_settings
from tasks import ledger
from tasks.contracts import put_in_force
from tasks.decode import MediaModality, check_media, limits_of
from tasks.events import enqueue, labels_arrived
from tasks.lake import Lake, Snapshot, open_lake
from tasks.ledger import RefusedRow
from tasks.media import MediaStore, open_media
from tasks.progress import report as report_progress
from tasks.retries import is_transient
from tasks.source import MediaFile, SourceBatch, read_source
from tasks.validate import judge_batch, mask_rows, type_rows

SHARD = 2000
"""Rows that are decoded, stored and committed together."""


@task(
    name="ingest-into-lake",
    task_run_name="ingest-{domain}",
    retries=2,
    retry_delay_seconds=10,
    retry_condition_fn=is_transient,
    cache_policy=NO_CACHE,
)
def take_in(domain: str, contract: str, source: str | None) -> dict[str, Any]:
    """Ingest a source into the lake of this home."""
    folder = None if source is None else Path(source)
    report = ingest(Path(contract), folder, open_lake(), open_media(), get_settings().docs, domain=domain)
    return report.model_dump(mode="json")


@task(name="announce-labels", cache_policy=NO_CACHE)
def announce(domain: str) -> None:
    """Write down, once the items can be learned from, that labels arrived."""
    announce_labels(open_lake(), domain)


def announce_labels(lake: Lake, domain: str) -> None:
    """Put the latest change of a domain's labels into the outbox, if it is not there yet."""
    version = ledger.labels_version(lake, domain)
    if version > 0:
        enqueue(lake, labels_arrived(domain, version))


def ingest(
    contract_path: Path,
    source_dir: Path | None,
    lake: Lake,
    media: MediaStore,
    docs: Path,
    *,
    domain: str | None = None,
) -> IngestReport:
    """Ingest the source of a contract; `source_dir` is where its path starts, by default the contract's folder.

    Raises:
        ContractInvalid: the contract cannot be used, or is not that of `domain`.
        SourceNotFound: the source is not there.
        BatchRefused: the source as a whole cannot be read, breaks a batch rule, or does not fit the lake's table.
    """
    started = time.perf_counter()
    contract = load_contract(contract_path, domain=domain)
    batch = read_source(contract, source_dir or contract_path.parent)
    previous = ledger.last_batch(lake, contract.domain, batch.source)
    run = _Ingest(lake, media, contract, batch, ledger.next_batch_id(contract, batch, previous))
    if previous is not None and run.follows_unchanged(previous):
        run.restore_media()
        return run.report(previous["batch_id"], started, duplicates=len(batch))
    run.judge(docs)
    run.commit_items()
    run.restore_media()
    put_in_force(lake, contract, contract_path.read_text(encoding="utf-8"))
    ledger.write_quarantine(lake, contract, run.batch_id, run.refused_rows())
    run.commit_labels()
    report = run.balance(started)
    ledger.write_line(lake, contract, batch, report)
    (docs / contract.domain / "contract.html").write_text(contract_page(contract), encoding="utf-8")
    return report


@dataclass
class _Ingest:
    """One ingest under way; `reasons` collects why rows (by position) are refused."""

    lake: Lake
    media: MediaStore
    contract: Contract
    batch: SourceBatch
    batch_id: str
    reasons: dict[int, list[str]] = field(default_factory=dict)
    labels: dict[int, tuple[str, str]] = field(default_factory=dict)

    @property
    def table(self) -> str:
        return items_table(self.contract.domain)

    def follows_unchanged(self, previous: Mapping[str, Any]) -> bool:
        """Whether the last ingest of this source read the same under the same contract, and what it put is there."""
        is_same: bool = previous["source_sha256"] == self.batch.sha256
        is_same &= previous["contract_version"] == ledger.contract_version(self.contract)
        return is_same and self._stored_rows(previous["batch_id"]) == int(previous["accepted"])

    def judge(self, docs: Path) -> None:
        """Find the rows that break a rule and let the batch as a whole be judged; nothing is written before that."""
        for row, reasons in enumerate(mask_rows(self.batch.rows, self.contract)["reasons"].to_pylist()):
            self.refuse(row, *reasons)
        for column, found in self.batch.media.items():
            for row, cell in enumerate(found):
                if isinstance(cell, MediaRefused):
                    self.refuse(row, f"{column}:{cell.code}")
        judge_batch(self.batch.rows, self.contract, docs)
        self.lake.check_types(self.table, items_schema(self.contract))

    def refuse(self, row: int, *reasons: str) -> None:
        """Note why a row goes to quarantine."""
        if reasons:
            self.reasons.setdefault(row, []).extend(reasons)

    def commit_items(self) -> None:
        """Decode, store and append the rows that are new or changed, shard by shard."""
        good = [row for row in range(len(self.batch.rows)) if row not in self.reasons]
        items = self._items(good)
        self._note_labels(good, items)
        known = self._current(self.lake.snapshot(self.table))
        pairs = zip(items["item_id"].to_pylist(), items["content_sha256"].to_pylist(), strict=True)
        wanted = [place for place, (item, content) in enumerate(pairs) if known.get(item) != content]
        for start in range(0, len(wanted), SHARD):
            report_progress(start, len(wanted), f"items of {self.contract.domain}")
            shard = wanted[start : start + SHARD]
            self._check_media([good[place] for place in shard])
            self._store_media([good[place] for place in shard if good[place] not in self.reasons])
            kept = [place for place in shard if good[place] not in self.reasons]
            self._commit_shard(items.take(pa.array(kept, pa.int64())))
        report_progress(len(wanted), len(wanted), f"items of {self.contract.domain}")

    def restore_media(self) -> None:
        """Store again what current items need and the media store has lost."""
        if self.lake.version(self.table) is None or not self.batch.media:
            return
        columns = [media_hash_column(column) for column in self.batch.media]
        items = self.lake.current_items(self.contract.domain, columns=columns)
        wanted = {sha256 for column in columns for sha256 in items[column].to_pylist() if sha256}
        missing = self.media.missing(wanted)
        for found in self.batch.media.values():
            for cell in found:
                if isinstance(cell, MediaFile) and cell.sha256 in missing:
                    self.media.put(cell.read())

    def commit_labels(self) -> None:
        """Append the labels of accepted rows that are new or changed."""
        labels = dict(label for row, label in self.labels.items() if row not in self.reasons)
        if labels:
            ledger.write_labels(self.lake, self.contract.domain, labels)

    def refused_rows(self) -> list[RefusedRow]:
        """Return what goes to quarantine, in the order of the source."""
        unreadable = [RefusedRow(row.locator, None, [row.reason], row.payload) for row in self.batch.unreadable]
        return unreadable + [self._refused_row(row) for row in sorted(self.reasons)]

    def balance(self, started: float) -> IngestReport:
        """Return the ledger's line; what this batch has in the lake, whichever run put it there, was accepted."""
        refused = self.refused_rows()
        accepted = self._stored_rows(self.batch_id)
        return self.report(
            self.batch_id,
            started,
            accepted=accepted,
            quarantined=len(refused),
            duplicates=len(self.batch) - len(refused) - accepted,
            reasons=ledger.count_reasons(refused),
        )

    def report(
        self,
        batch_id: str,
        started: float,
        *,
        duplicates: int,
        accepted: int = 0,
        quarantined: int = 0,
        reasons: Mapping[str, int] | None = None,
    ) -> IngestReport:
        """Return the answer of this run."""
        return IngestReport(
            domain=self.contract.domain,
            batch_id=batch_id,
            received=len(self.batch),
            accepted=accepted,
            quarantined=quarantined,
            duplicates=duplicates,
            reasons=dict(reasons or {}),
            unused_columns=self.batch.unused_columns,
            table_version=self.lake.version(self.table),
            seconds=time.perf_counter() - started,
        )

    def _stored_rows(self, batch_id: str) -> int:
        snapshot = self.lake.snapshot(self.table)
        return 0 if snapshot is None else len(snapshot.read(["item_id"], f"batch_id = '{batch_id}'"))

    def _items(self, rows: Sequence[int]) -> pa.Table:
        """Return the lake rows of these source rows, all but the instant, which is set when they are committed."""
        schema = items_schema(self.contract)
        typed = type_rows(self.batch.rows.take(pa.array(rows, pa.int64())), self.contract)
        columns = {name: typed[name] for name in typed.column_names}
        for column, found in self.batch.media.items():
            hashes = [cell.sha256 if isinstance(cell := found[row], MediaFile) else None for row in rows]
            columns[media_hash_column(column)] = pa.array(hashes, pa.string())
        contents = pa.table(columns).drop_columns(["item_id"]).to_pylist()
        columns["content_sha256"] = pa.array([_content_hash(content) for content in contents], pa.string())
        columns["batch_id"] = pa.array([self.batch_id] * len(rows), pa.string())
        return pa.table({name: columns[name] for name in schema.names if name in columns})

    def _note_labels(self, rows: Sequence[int], items: pa.Table) -> None:
        column = self.contract.label_column
        if column is not None:
            labels = items[column].cast(pa.string()).to_pylist()
            pairs = zip(items["item_id"].to_pylist(), [label or "" for label in labels], strict=True)
            self.labels = dict(zip(rows, pairs, strict=True))

    def _check_media(self, rows: Sequence[int]) -> None:
        """Decode what these rows name, each file once, and refuse the rows whose file does not decode."""
        for column in self.contract.media_columns:
            found = {row: cell for row in rows if isinstance(cell := self.batch.media[column.name][row], MediaFile)}
            files = {cell.sha256: cell for cell in found.values()}
            verdicts = _decode_files(files, cast("MediaModality", column.role), limits_of(column))
            refused = {sha256: verdict.code for sha256, verdict in verdicts if isinstance(verdict, MediaRefused)}
            for row, cell in found.items():
                if cell.sha256 in refused:
                    self.refuse(row, f"{column.name}:{refused[cell.sha256]}")

    def _store_media(self, rows: Sequence[int]) -> None:
        """Put what these rows name into the store, and refuse rows whose file has changed since it was hashed."""
        stored: set[str] = set()
        for column, found in self.batch.media.items():
            for row in rows:
                cell = found[row]
                if isinstance(cell, MediaFile) and cell.sha256 not in stored:
                    try:
                        stored.add(self.media.put(cell.read()))
                    except MediaRefused as refusal:
                        self.refuse(row, f"{column}:{refusal.code}")

    def _commit_shard(self, items: pa.Table) -> None:
        """Append those rows of a shard that are still new or changed."""
        schema = items_schema(self.contract)

        def fresh(stored: Snapshot) -> pa.Table:
            known = self._current(stored)
            pairs = zip(items["item_id"].to_pylist(), items["content_sha256"].to_pylist(), strict=True)
            new = items.filter(pa.array([known.get(item) != content for item, content in pairs], pa.bool_()))
            at = pa.array([ledger.later_than(stored, "ingested_at")] * len(new), schema.field("ingested_at").type)
            return new.append_column("ingested_at", at).select(schema.names).cast(schema)

        if len(items):
            self.lake.transact(self.table, schema, f"ingest/{self.contract.domain}", fresh)

    def _current(self, stored: Snapshot | None) -> dict[str, str]:
        """Return the content hash of each item's latest row."""
        if stored is None:
            return {}
        latest = stored.latest(key="item_id", by="ingested_at", columns=["item_id", "content_sha256"])
        return dict(zip(latest["item_id"].to_pylist(), latest["content_sha256"].to_pylist(), strict=True))

    def _refused_row(self, row: int) -> RefusedRow:
        (cells,) = self.batch.rows.slice(row, 1).to_pylist()
        item_id = cells.get(self.contract.id_column)
        payload = {name: _without_bytes(value) for name, value in cells.items()}
        shown = None if item_id in (None, "") else str(item_id)
        return RefusedRow(self.batch.locators[row], shown, self.reasons[row], payload)


def _decode_files(files: Mapping[str, MediaFile], modality: MediaModality, limits: Any) -> Iterator[tuple[str, Any]]:
    """Yield the verdict on each file; one that can no longer be read as it was is refused without decoding."""
    lost: dict[str, MediaRefused] = {}

    def contents() -> Iterator[bytes]:
        for sha256, file in files.items():
            try:
                yield file.read()
            except MediaRefused as refusal:
                lost[sha256] = refusal

    verdicts = list(check_media(contents(), modality, limits))
    yield from lost.items()
    yield from zip((sha256 for sha256 in files if sha256 not in lost), verdicts, strict=True)


def _content_hash(content: Mapping[str, Any]) -> str:
    """Hash what an item says; a column without a value does not count, so adding an empty one changes nothing."""
    present = {name: value for name, value in content.items() if value is not None}
    text = json.dumps(present, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _without_bytes(value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    return {"bytes": len(value), "sha256": hashlib.sha256(value).hexdigest()}
