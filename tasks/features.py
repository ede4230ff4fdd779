"""Read one domain from the lake as the matrices that learners work on."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Int
from torch import Tensor

from data_contracts.contract import Contract
from data_contracts.errors import UnknownDomain
from data_contracts.names import check_domain, items_table
from models.features import DomainData, ViewSpec
from tasks.content import content_hashes
from tasks.contracts import contract_in_force
from tasks.encoder_states import encoder_states
from tasks.lake import Lake
from tasks.vectors import to_matrix

UNLABELLED = -1


def load_domain(lake: Lake, domain: str, *, versions: Mapping[str, int] | None = None) -> DomainData:
    """Return the current items of `domain`, ordered by id, with their vectors and newest labels.

    `versions` (lake table to version) reads the lake as it was: another load's `provenance`, for example. A view
    that no item has is left out.

    Raises:
        UnknownDomain: nothing was ingested under that name, or it was never embedded.
    """
    read = dict(versions if versions is not None else _versions(lake, domain))
    contract = contract_in_force(lake, check_domain(domain), version=read.get("contracts"))
    items = lake.current_items(domain, version=read.get(items_table(domain)))
    views = _views(lake, contract, items, read)
    if not views:
        raise UnknownDomain(
            f"The domain '{domain}' has {items.num_rows} items, but no vectors. Embed them: run its ingest again, "
            f"metafuse ingest {domain} --contract FILE.",
            domain=domain,
        )
    labels = _labels(lake, domain, read)
    item_ids = tuple(items["item_id"].to_pylist())
    classes = tuple(sorted({labels[item] for item in item_ids if item in labels}))
    return DomainData(
        domain=domain,
        views=tuple(views),
        features={view.name: features for view, (features, _) in views.items()},
        presence=torch.stack([presence for _, presence in views.values()], dim=1),
        labels=_encode_labels(item_ids, labels, classes),
        classes=classes,
        item_ids=item_ids,
        provenance=read,
    )


def _versions(lake: Lake, domain: str) -> dict[str, int]:
    """Return the newest version of every table that is read for a domain, if it exists.

    Encoders before embeddings: whatever encoder is in force then, its vectors are in the embeddings read after it.
    """
    tables = ("encoder_states", "embeddings", items_table(domain), "contracts", "labels")
    return {table: version for table in tables if (version := lake.version(table)) is not None}


def _views(
    lake: Lake, contract: Contract, items: pa.Table, read: Mapping[str, int]
) -> dict[ViewSpec, tuple[Tensor, Tensor]]:
    """Return features and presence of each view, under the encoder in force."""
    in_force = encoder_states(lake, contract.domain, version=read.get("encoder_states"))
    embeddings = lake.read(
        "embeddings",
        version=read.get("embeddings"),
        columns=["view", "modality", "encoder_id", "content_sha256", "vector"],
        where=f"domain = '{contract.domain}'",
    )
    views = {}
    for field in contract.columns_to_encode:
        hashes = content_hashes(items, field)
        for name, state in in_force.items():
            if name.partition(".")[0] == field.name:
                mine = pc.and_(
                    pc.equal(embeddings["view"], name), pc.equal(embeddings["encoder_id"], state["encoder_id"])
                )
                found = _align(embeddings.filter(mine), hashes)
                if found is not None:
                    spec = ViewSpec(name, field.modality, state["encoder_id"], found[0].shape[1])
                    views[spec] = found
    return views


def _align(embeddings: pa.Table, hashes: Sequence[str | None]) -> tuple[Tensor, Tensor] | None:
    """Return one row per hash, zero where there is no vector, and where there is one; None if there is none at all."""
    row_of = {sha: row for row, sha in enumerate(embeddings["content_sha256"].to_pylist())}
    rows = np.array([row_of.get(sha, -1) for sha in hashes], np.int64)
    presence = rows >= 0
    if not presence.any():
        return None
    features = to_matrix(embeddings["vector"])[rows]
    features[~presence] = 0
    return torch.from_numpy(features), torch.from_numpy(presence)


def _labels(lake: Lake, domain: str, read: Mapping[str, int]) -> dict[str, str]:
    """Return the newest label of each item that has one; an empty label takes the older one back."""
    rows = lake.read("labels", version=read.get("labels"), where=f"domain = '{domain}'").sort_by(
        [("at", "ascending"), ("label", "ascending")]
    )
    newest = dict(zip(rows["item_id"].to_pylist(), rows["label"].to_pylist(), strict=True))
    return {item: label for item, label in newest.items() if label}


def _encode_labels(items: Sequence[str], labels: Mapping[str, str], classes: Sequence[str]) -> Int[Tensor, " item"]:
    index = {label: place for place, label in enumerate(classes)}
    return torch.tensor([index[labels[item]] if item in labels else UNLABELLED for item in items])
