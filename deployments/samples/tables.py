"""Write the table of a sample source in the format its contract names."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_contracts.contract import Contract

Row = dict[str, Any]


def write_table(folder: Path, contract: Contract, rows: Sequence[Row]) -> Path:
    """Write `rows`, whose keys are the contract's columns, where the contract says the table is."""
    path = folder / contract.server.path
    writer = {"csv": _write_csv, "jsonl": _write_jsonl, "parquet": _write_parquet}[contract.server.format]
    writer(path, contract, rows)
    return path


def _write_csv(path: Path, contract: Contract, rows: Sequence[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [column.name for column in contract.columns])
        writer.writeheader()
        writer.writerows(rows)


def _write_jsonl(path: Path, contract: Contract, rows: Sequence[Row]) -> None:
    """Leave out the fields an item does not have."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            present = {name: value for name, value in row.items() if value is not None}
            file.write(json.dumps(present, ensure_ascii=False) + "\n")


def _write_parquet(path: Path, contract: Contract, rows: Sequence[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from data_contracts.arrow_schema import ARROW_TYPES

    schema = pa.schema([pa.field(column.name, ARROW_TYPES[column.logical_type]) for column in contract.columns])
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)
