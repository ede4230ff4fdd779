"""What it costs to ingest a source that has not changed: `python tests/benchmarks/ingest_again.py`.

The source is 1,000 rows with a picture each (224 pixels square, about 4 KB). A small one comes first, which loads the
libraries and starts the decoders, so that the measured first ingest is not made to look slow.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from data_contracts.contract import Column, Contract, Server
from data_contracts.odcs import dump_contract
from tasks.ingest import ingest
from tasks.lake import Lake
from tasks.media import MediaStore

ROUNDS = 5


def measure_again(pictures: int = 1000) -> dict[str, float]:
    """Return the seconds of the first ingest and of repeats (median), and their ratio; nothing is embedded."""
    with tempfile.TemporaryDirectory() as folder:
        seconds_to_ingest(Path(folder, "warm-up"), 20)
        first, *again = seconds_to_ingest(Path(folder, "measured"), pictures)
    median = statistics.median(again)
    return {"pictures": pictures, "first_s": first, "again_s": median, "ratio": median / first}


def seconds_to_ingest(folder: Path, pictures: int) -> list[float]:
    """Write a source and ingest it several times into the same lake."""
    contract = write_source(folder / "source", pictures)
    lake, media = Lake(str(folder / "lake")), MediaStore(str(folder / "media"))
    return [ingest(contract, None, lake, media, folder / "docs").seconds for _ in range(ROUNDS)]


def write_source(folder: Path, pictures: int) -> Path:
    """Write a table and its pictures, all different; returns the contract."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(pictures):
        blocks = rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize((224, 224), Image.Resampling.NEAREST).save(folder / f"{number}.png")
    rows = [f"i{number},title {number},{number}.png" for number in range(pictures)]
    (folder / "items.csv").write_text("\n".join(["item_id,title,picture", *rows]) + "\n")
    columns = (
        Column(name="item_id", logical_type="string", role="id", rules={"required": True, "unique": True}),
        Column(name="title", logical_type="string", role="text"),
        Column(name="picture", logical_type="string", role="image"),
    )
    server = Server(path="items.csv", format="csv")
    path = folder / "contract.yaml"
    path.write_text(dump_contract(Contract(domain="shop-en", version="1.0.0", server=server, columns=columns)))
    return path


if __name__ == "__main__":
    json.dump(measure_again(), sys.stdout, indent=2)
