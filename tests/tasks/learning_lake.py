"""A lake with domains whose vectors were made up, for tests that start where embedding ends, and copies of homes."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
from lake_of import START, TITLE, YEAR, add_items, add_labels, contract_of

from data_contracts.configs import MetaTrainConfig, TrainConfig
from data_contracts.tables import BATCHES, EMBEDDINGS, ENCODER_STATES
from tasks.content import content_hashes
from tasks.contracts import contract_in_force
from tasks.encoders.tabular import TabularEncoder
from tasks.lake import Lake, open_lake
from tasks.vectors import to_vectors

TABLE = TabularEncoder.fit(pa.table({"year": [1, 2], "paths": [3, 4]}), ["year", "paths"])
VIEWS = {"title": ("text", "words-1", 16), "tabular": ("tabular", "numbers-1", TABLE.dim)}

UNTRAINED = MetaTrainConfig(
    domains=("one",), learners=("metric",), train=TrainConfig(steps=0, n_way=2, shots=(1,), n_query=3)
)
"""A prior that takes no time to train."""


def add_domain(
    lake: Lake, domain: str, *, n_classes: int = 8, per_class: int = 6, spread: float = 0.4, seed: int = 0
) -> None:
    """Add a domain whose items scatter around one centre per class; the centres are the same in every domain."""
    names = [f"class-{number:02d}" for number in range(n_classes)]
    items = {f"{name}-{number:02d}": name for name in names for number in range(per_class)}
    rows = {item: {"title": item, "year": number} for number, item in enumerate(items)}
    add_items(lake, contract_of(domain, TITLE, YEAR), rows)
    add_labels(lake, domain, items)
    add_vectors(lake, domain, items, names, spread, seed)
    add_ledger_line(lake, domain, len(items))


def add_ledger_line(lake: Lake, domain: str, count: int) -> None:
    texts = dict.fromkeys(("batch_id", "source", "source_sha256", "contract_version"), "made up")
    counts = {"received": count, "accepted": count, "quarantined": 0, "duplicates": 0}
    row = {"domain": domain, **texts, **counts, "reasons_json": "{}", "at": START}
    lake.append("batches", pa.Table.from_pylist([row], schema=BATCHES))


def add_vectors(lake: Lake, domain: str, items: dict[str, str], names: list[str], spread: float, seed: int) -> None:
    """Write one vector per item and view, near its class's centre."""
    current, contract = lake.current_items(domain), contract_in_force(lake, domain)
    hashes = {
        field.name: dict(zip(current["item_id"].to_pylist(), content_hashes(current, field), strict=True))
        for field in contract.columns_to_encode
    }
    for view, (modality, encoder_id, dim) in VIEWS.items():
        centres = np.random.default_rng(99).normal(size=(len(names), dim))
        noise = np.random.default_rng(seed).normal(size=(len(items), dim)) * spread * (1 if view == "title" else 3)
        vectors = (centres[[names.index(label) for label in items.values()]] + noise).astype(np.float32)
        constant = {"domain": domain, "view": view, "modality": modality, "encoder_id": encoder_id}
        columns = {name: pa.array([value] * len(items)) for name, value in constant.items()}
        columns |= {
            "item_id": pa.array(list(items)),
            "content_sha256": pa.array([hashes[view][item] for item in items]),
            "vector": to_vectors(vectors),
        }
        lake.append("embeddings", pa.table({name: columns[name] for name in EMBEDDINGS.names}, schema=EMBEDDINGS))
        learned = TABLE.state() if modality == "tabular" else "{}"
        state = {"domain": domain, "view": view, "encoder_id": encoder_id, "state_json": learned, "at": START}
        lake.append("encoder_states", pa.Table.from_pylist([state], schema=ENCODER_STATES))


def copied(made: Path, home: Path) -> Lake:
    """Copy what is in a home to another, and return the lake of that."""
    shutil.copytree(made, home, dirs_exist_ok=True)
    return open_lake()
