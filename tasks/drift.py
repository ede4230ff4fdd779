"""Compare a domain's recent items with those its champion was adapted among, and announce it if they differ.

A version of a model is tagged with the lake versions it was made from, so the reference is the lake as it was then.
Each comparison is a row in the table `drift` under a digest of what was compared: the same is neither compared nor
announced twice. What is announced makes `adapt_domain` adapt among the items there are now, and the gate decides.
"""

import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import torch
from jaxtyping import Bool, Int
from prefect import task
from prefect.cache_policies import NO_CACHE
from torch import Tensor

from data_contracts.configs import DriftConfig
from data_contracts.contract import Contract
from data_contracts.errors import ContractError, LakeCorrupt, ModelError, UnknownModel
from data_contracts.names import items_table
from data_contracts.reports import DomainDrift, DriftReport, ModelRef, ViewDrift
from data_contracts.tables import DRIFT
from models.drift import find_drift, unseen
from models.features import DomainData
from tasks import progress, registry
from tasks.content import content_hashes
from tasks.contracts import contract_in_force
from tasks.events import drift_found, enqueue
from tasks.features import load_domain
from tasks.lake import Lake, open_lake
from tasks.lineage import fingerprint, versions_read
from tasks.retries import is_transient


@task(name="watch-drift", retries=2, retry_delay_seconds=5, retry_condition_fn=is_transient, cache_policy=NO_CACHE)
def watch(domain: str | None, config: DriftConfig) -> dict[str, Any]:
    """Look for drift in a domain of this home, or in all that have a model."""
    return watch_domains(open_lake(), domain, config).model_dump(mode="json")


def watch_domains(lake: Lake, domain: str | None, config: DriftConfig) -> DriftReport:
    """Look at one domain, or at every one that has a champion; of those, one that cannot be read is skipped by name.

    Raises:
        UnknownDomain: `domain` is not in the lake.
        UnknownModel: `domain` has no champion.
    """
    started = time.perf_counter()
    if domain is None:
        rows, skipped = _watch_all(lake, config)
        return DriftReport(rows=tuple(rows), skipped=skipped, seconds=time.perf_counter() - started)
    row = watch_domain(lake, domain, config)
    return DriftReport(rows=(row,), skipped={}, seconds=time.perf_counter() - started)


def watch_domain(lake: Lake, domain: str, config: DriftConfig) -> DomainDrift:
    """Compare what `domain` has now with what its champion was adapted among, unless that was done before.

    Raises:
        UnknownDomain: the domain is not in the lake.
        UnknownModel: it has no champion.
    """
    contract = contract_in_force(lake, domain)
    ref = _champion(domain)
    versions = versions_read(ref.tags)
    data = load_domain(lake, domain)
    changes = changed_columns(contract_in_force(lake, domain, version=versions.get("contracts")), contract)
    drift_id = _digest(data, ref, changes, config)
    where = f"domain = '{domain}' AND drift_id = '{drift_id}'"
    is_new = lake.read("drift", columns=["drift_id"], where=where).num_rows == 0
    if is_new:
        reference = load_domain(lake, domain, versions=versions)
        recent = data.take(recent_rows(lake, contract, reference, data, config))
        found = find_drift(reference, recent, config, other_changes=changes)
        row = {
            "domain": domain,
            "drift_id": drift_id,
            "model": ref.name,
            "model_version": ref.version,
            "reference_items": len(reference),
            "recent_items": len(recent),
            "is_drifted": bool(found.findings),
            "why": found.why,
            "views_json": json.dumps({name: view.model_dump() for name, view in found.views.items()}),
            "at": datetime.now(UTC),
        }
        lake.append("drift", pa.Table.from_pylist([row], schema=DRIFT), transaction=(f"drift/{domain}/{drift_id}", 1))
    (stored,) = lake.read("drift", where=where).to_pylist()
    if stored["is_drifted"]:
        enqueue(lake, drift_found(domain, ref.version, drift_id))
    return _report(stored, is_new)


def recent_rows(
    lake: Lake, contract: Contract, reference: DomainData, data: DomainData, config: DriftConfig
) -> Int[Tensor, " recent"]:
    """Return the newest of the items that the reference has not, those of one ingest in random order.

    Items that an embedding under way has not come to yet are left out: they would seem to lack what they have.
    """
    items = lake.current_items(data.domain, version=data.provenance[items_table(data.domain)])
    rows = (unseen(reference, data) & is_embedded(items, contract, data)).nonzero().flatten()
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(config.seed))]
    ingested_at = torch.tensor(items["ingested_at"].cast(pa.int64()).to_pylist())
    return rows[ingested_at[rows].argsort(descending=True, stable=True)][: config.window]


def is_embedded(items: pa.Table, contract: Contract, data: DomainData) -> Bool[Tensor, " item"]:
    """Say which items have a vector of every field that they have, in the views that are in force."""
    is_complete = torch.ones(len(data), dtype=torch.bool)
    for field in contract.columns_to_encode:
        is_given = torch.tensor([sha is not None for sha in content_hashes(items, field)])
        for number, view in enumerate(data.views):
            if view.name.partition(".")[0] == field.name:
                is_complete &= data.presence[:, number] | ~is_given
    return is_complete


def changed_columns(before: Contract, after: Contract) -> tuple[str, ...]:
    """Say which table columns came and which went; other columns are views of their own."""
    old, new = (
        [column.name for column in contract.columns if column.role == "tabular"] for contract in (before, after)
    )
    return (
        *(f"column {name} is new" for name in new if name not in old),
        *(f"column {name} is gone" for name in old if name not in new),
    )


def _watch_all(lake: Lake, config: DriftConfig) -> tuple[list[DomainDrift], dict[str, str]]:
    rows: list[DomainDrift] = []
    skipped: dict[str, str] = {}
    domains = [name for name in lake.domains() if _has_champion(name)]
    for number, name in enumerate(domains):
        progress.report(number, len(domains), f"look for drift in {name}")
        try:
            rows.append(watch_domain(lake, name, config))
        except (ContractError, ModelError, LakeCorrupt) as error:
            skipped[name] = str(error)
    return rows, skipped


def _has_champion(domain: str) -> bool:
    try:
        return registry.resolve_or_none(registry.model_name(domain)) is not None
    except ContractError:  # a name that is the prior's
        return False


def _champion(domain: str) -> ModelRef:
    ref = registry.resolve_or_none(registry.model_name(domain))
    if ref is None:
        raise UnknownModel(
            f"the domain {domain!r} has no champion model, so there is nothing its items could have drifted away from. "
            f"Adapt it first: metafuse adapt {domain}.",
            domain=domain,
        )
    return ref


def _digest(data: DomainData, ref: ModelRef, changes: tuple[str, ...], config: DriftConfig) -> str:
    """Return a digest of what is compared; labels play no part in it."""
    items = replace(data, classes=(), labels=torch.full_like(data.labels, -1))
    return fingerprint([items], "drift", ref.name, ref.version, changes, config.model_dump())[:32]


def _report(row: dict[str, Any], is_new: bool) -> DomainDrift:
    kept = ("domain", "drift_id", "model", "reference_items", "recent_items", "is_drifted", "why")
    views = {name: ViewDrift(**view) for name, view in json.loads(row["views_json"]).items()}
    return DomainDrift(**{name: row[name] for name in kept}, version=row["model_version"], views=views, is_new=is_new)
