"""Fill the `embeddings` table: one vector per current item, view and encoder, each content encoded once in all domains.

A vector is found again by the hash of its content and the name of its encoder, so running twice computes nothing twice.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32
from prefect import task
from prefect.cache_policies import NO_CACHE

from data_contracts.contract import Contract, View
from data_contracts.errors import MediaRefused
from data_contracts.names import Modality
from data_contracts.reports import EmbedReport, ViewReport
from data_contracts.tables import EMBEDDINGS
from tasks import progress
from tasks.content import content_hashes, contents
from tasks.contracts import contract_in_force
from tasks.decode import decode_many, limits_of
from tasks.encoder_states import encoders_of, put_in_force
from tasks.encoders import Encoder, view_name
from tasks.lake import Lake, Snapshot, open_lake
from tasks.media import MediaStore, open_media
from tasks.retries import is_transient
from tasks.vectors import to_vectors

SHARD: dict[Modality, int] = {"text": 4096, "tabular": 4096, "image": 1024, "audio": 256, "video": 32}
"""Distinct contents that are encoded between two commits."""
PAIR = ("item_id", "content_sha256")


@task(
    name="embed-domain",
    task_run_name="embed-{domain}",
    retries=2,
    retry_delay_seconds=10,
    retry_condition_fn=is_transient,
    cache_policy=NO_CACHE,
)
def embed(domain: str) -> dict[str, Any]:
    """Embed the current items of a domain of this home."""
    lake = open_lake()
    return embed_domain(lake, open_media(), contract_in_force(lake, domain)).model_dump(mode="json")


def embed_domain(lake: Lake, media: MediaStore, contract: Contract) -> EmbedReport:
    """Encode every field of the domain's current items that has no vector yet.

    Safe to run again and to stop at any point: each shard of vectors commits whole and at most once.
    """
    started = time.perf_counter()
    items = lake.current_items(contract.domain)
    views: dict[str, ViewReport] = {}
    for view in contract.columns_to_encode:
        plans = _plans(lake, contract.domain, items, view)
        for plan in plans:
            _reuse(lake, plan)
        _encode(lake, media, contract, items, view, plans)
        for plan in plans:
            put_in_force(lake, plan.domain, plan.view, plan.encoder)
            views[plan.view] = plan.report()
    return EmbedReport(domain=contract.domain, views=views, seconds=time.perf_counter() - started)


@dataclass
class _Plan:
    """What is still to be done for one view; `missing` maps a content hash to the items that have that content."""

    domain: str
    view: str
    encoder: Encoder
    missing: dict[str, list[str]]
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """SQL condition on `embeddings`: the vectors of this view."""
        encoder_id = self.encoder.encoder_id
        return f"domain = '{self.domain}' AND view = '{self.view}' AND encoder_id = '{encoder_id}'"

    def take(self, hashes: Sequence[str], outcome: str) -> tuple[list[str], list[str]]:
        """Count the items with these contents as done, and return their ids and, aligned, their contents."""
        pairs = [(item, sha) for sha in hashes for item in self.missing.pop(sha)]
        self.counts[outcome] = self.counts.get(outcome, 0) + len(pairs)
        return [item for item, _ in pairs], [sha for _, sha in pairs]

    def report(self) -> ViewReport:
        return ViewReport(encoder_id=self.encoder.encoder_id, **self.counts)


def _plans(lake: Lake, domain: str, items: pa.Table, view: View) -> list[_Plan]:
    """Find, for each encoder of the field, the contents whose items lack a vector."""
    hashes = content_hashes(items, view)
    plans = []
    for encoder in encoders_of(lake, domain, items, view):
        plan = _Plan(domain, view_name(view.name, encoder), encoder, missing={})
        present = _present(lake.read("embeddings", columns=PAIR, where=plan.where))
        for item, sha in zip(items.column("item_id").to_pylist(), hashes, strict=True):
            if sha is not None and (item, sha) in present:
                plan.counts["present"] = plan.counts.get("present", 0) + 1
            elif sha is not None:
                plan.missing.setdefault(sha, []).append(item)
        plans.append(plan)
    return plans


def _present(embeddings: pa.Table) -> set[tuple[str, str]]:
    """Return the pairs of item and content that have a vector."""
    return set(zip(embeddings["item_id"].to_pylist(), embeddings["content_sha256"].to_pylist(), strict=True))


def _reuse(lake: Lake, plan: _Plan) -> None:
    """Copy vectors of contents that this encoder has already seen, in whatever domain."""
    if not plan.missing:
        return
    where = f"encoder_id = '{plan.encoder.encoder_id}'"
    seen = lake.read("embeddings", columns=["content_sha256"], where=where)["content_sha256"].unique().to_pylist()
    for shard in _shards(sorted(plan.missing.keys() & set(seen)), SHARD[plan.encoder.modality]):
        quoted = ", ".join(f"'{sha}'" for sha in shard)
        known = lake.read(
            "embeddings", columns=["content_sha256", "vector"], where=f"{where} AND content_sha256 IN ({quoted})"
        )
        row_of = {sha: row for row, sha in enumerate(known.column("content_sha256").to_pylist())}
        items, hashes = plan.take(shard, "reused")
        _append(lake, plan, items, hashes, known.column("vector").take([row_of[sha] for sha in hashes]))


def _encode(
    lake: Lake,
    media: MediaStore,
    contract: Contract,
    items: pa.Table,
    view: View,
    plans: Sequence[_Plan],
) -> None:
    """Encode what is left, shard by shard; a content is loaded once for all encoders of the field."""
    wanted = sorted({sha for plan in plans for sha in plan.missing})
    done = 0
    for shard in _shards(wanted, SHARD[view.modality]):
        vectors: list[dict[str, Float32[np.ndarray, " dim"]]] = [{} for _ in plans]
        for batch in _loaded(media, contract, items, view, shard, plans[0].encoder.batch_size):
            for plan, found in zip(plans, vectors, strict=True):
                found.update(_vectors(plan, batch))
            done += len(batch)
            progress.report(done, len(wanted), f"embed {contract.domain} {view.name}")
        for plan, found in zip(plans, vectors, strict=True):
            _commit(lake, plan, shard, found)


def _vectors(plan: _Plan, batch: Mapping[str, Any]) -> dict[str, Float32[np.ndarray, " dim"]]:
    """Encode those contents of a batch that the view lacks and that could be decoded."""
    usable = {sha: content for sha, content in batch.items() if sha in plan.missing and content is not None}
    return dict(zip(usable, plan.encoder.encode(list(usable.values())), strict=True))


def _commit(lake: Lake, plan: _Plan, shard: Sequence[str], found: Mapping[str, Float32[np.ndarray, " dim"]]) -> None:
    """Write the vectors of a shard; contents without one were refused by the decoder."""
    mine = [sha for sha in shard if sha in plan.missing]
    plan.take([sha for sha in mine if sha not in found], "refused")
    items, hashes = plan.take([sha for sha in mine if sha in found], "encoded")
    if items:
        _append(lake, plan, items, hashes, to_vectors(np.stack([found[sha] for sha in hashes])))


def _loaded(
    media: MediaStore, contract: Contract, items: pa.Table, view: View, hashes: Sequence[str], batch_size: int
) -> Iterator[dict[str, Any]]:
    """Yield decoded contents by hash, a batch at a time; None for media that cannot be decoded."""
    loaded: Iterator[Any]
    if view.modality == "text" or view.modality == "tabular":
        known = dict(zip(content_hashes(items, view), contents(items, view), strict=True))
        loaded = (known[sha] for sha in hashes)
    else:
        files = ((sha, media.get(sha)) for sha in hashes)
        loaded = decode_many(files, view.modality, limits_of(contract.column(view.name)))
    for batch in _shards(hashes, batch_size):
        decoded = list(islice(loaded, len(batch)))
        yield {
            sha: None if isinstance(content, MediaRefused) else content
            for sha, content in zip(batch, decoded, strict=True)
        }


def _append(lake: Lake, plan: _Plan, items: Sequence[str], hashes: Sequence[str], vectors: pa.Array) -> None:
    """Append vectors, but for those that another run has written since the plan was made."""
    constant = {
        "domain": plan.domain,
        "view": plan.view,
        "modality": plan.encoder.modality,
        "encoder_id": plan.encoder.encoder_id,
    }
    columns = {name: pa.array([value] * len(items), pa.string()) for name, value in constant.items()}
    columns |= {"item_id": pa.array(items), "content_sha256": pa.array(hashes), "vector": vectors}
    rows = pa.table({name: columns[name] for name in EMBEDDINGS.names}, schema=EMBEDDINGS)

    def absent(embeddings: Snapshot) -> pa.Table:
        present = _present(embeddings.read(PAIR, plan.where))
        return rows.filter(pa.array([pair not in present for pair in zip(items, hashes, strict=True)]))

    lake.transact("embeddings", EMBEDDINGS, f"embed/{plan.domain}/{plan.view}/{plan.encoder.encoder_id}", absent)


def _shards(values: Sequence[str], size: int) -> list[Sequence[str]]:
    return [values[start : start + size] for start in range(0, len(values), size)]
