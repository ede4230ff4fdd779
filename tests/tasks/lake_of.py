"""A small lake made row by row, for tests that start where ingest ends."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from data_contracts.arrow_schema import items_schema
from data_contracts.contract import Column, Contract, Server
from data_contracts.names import items_table
from data_contracts.odcs import dump_contract
from data_contracts.tables import LABELS
from tasks.contracts import put_in_force
from tasks.lake import Lake

START = datetime(2026, 1, 1, tzinfo=UTC)
ID = Column(name="item_id", logical_type="string", role="id")
TITLE = Column(name="title", logical_type="string", role="text")
YEAR = Column(name="year", logical_type="integer", role="tabular")
COLOUR = Column(name="colour", logical_type="string", role="tabular")
PICTURE = Column(name="picture", logical_type="string", role="image")
CLIP = Column(name="clip", logical_type="string", role="audio")
FILM = Column(name="film", logical_type="string", role="video")


def contract_of(domain: str, *columns: Column, version: str = "1.0.0") -> Contract:
    server = Server(path="items.csv", format="csv")
    return Contract(domain=domain, version=version, server=server, columns=(ID, *columns))


def add_items(lake: Lake, contract: Contract, rows: dict[str, dict[str, Any]], *, day: int = 0) -> Contract:
    """Append items (id to column to value) as ingested on `day`, and put the contract in force."""
    at = START + timedelta(days=day)
    own = {"batch_id": f"batch-{day}", "content_sha256": "", "ingested_at": at}
    schema = items_schema(contract)
    table = pa.Table.from_pylist([{"item_id": item, **row, **own} for item, row in rows.items()], schema=schema)
    lake.append(items_table(contract.domain), table)
    put_in_force(lake, contract, dump_contract(contract))
    return contract


def add_labels(lake: Lake, domain: str, labels: dict[str, str], *, day: int = 0) -> None:
    at = START + timedelta(days=day)
    rows = [{"domain": domain, "item_id": i, "label": label, "source": "test", "at": at} for i, label in labels.items()]
    lake.append("labels", pa.Table.from_pylist(rows, schema=LABELS))
