"""What a model was made from: a fingerprint of the numbers, and tags with the versions that were read."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from models.features import DomainData

LAKE = "lake."
"""Start of a tag that names a lake table."""


def fingerprint(domains: Iterable[DomainData], *parts: Any) -> str:
    """Return a digest of everything a learner sees of the domains, and of JSON-friendly parts.

    It covers vectors, presence, labels and ids, so the same fingerprint means the same model, whichever tables changed.
    """
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
    for data in domains:
        views = [(view.name, view.modality, view.encoder_id) for view in data.views]
        digest.update(json.dumps([data.domain, views, data.classes, data.item_ids]).encode())
        for tensor in (*(data.features[view.name] for view in data.views), data.presence, data.labels):
            digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def lineage_tags(domains: Iterable[DomainData]) -> dict[str, str]:
    """Return the tags that say which lake versions were read and which run did it."""
    versions: Mapping[str, int] = {table: number for data in domains for table, number in data.provenance.items()}
    tables = {f"{LAKE}{table}": str(version) for table, version in sorted(versions.items())}
    return {**tables, "prefect.flow_run_id": flow_run_id()}


def versions_read(tags: Mapping[str, str]) -> dict[str, int]:
    """Return the lake versions that `lineage_tags` wrote down, as `load_domain` takes them."""
    return {name.removeprefix(LAKE): int(version) for name, version in tags.items() if name.startswith(LAKE)}


def flow_run_id() -> str:
    """Return the id of the Prefect run we are in, or an empty text outside of one."""
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    return str(context.flow_run.id) if context and context.flow_run else ""
