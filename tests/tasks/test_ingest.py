"""A source goes into the lake once, whatever is in it, whoever else ingests it and wherever a run is cut off."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from clips import clip, picture, sound, tone

import tasks.ingest
from data_contracts.errors import BatchRefused, ContractInvalid, SourceNotFound
from data_contracts.reports import IngestReport
from tasks.contracts import contract_in_force
from tasks.ingest import announce_labels, ingest
from tasks.lake import Lake
from tasks.media import MediaStore

COLUMNS = [
    {"name": "item_id", "logicalType": "string", "primaryKey": True},
    {"name": "title", "logicalType": "string", "logicalTypeOptions": {"maxLength": 20}, "customProperties": "text"},
    {"name": "picture", "logicalType": "string", "customProperties": "image"},
    {"name": "clip", "logicalType": "string", "customProperties": "audio"},
    {"name": "film", "logicalType": "string", "customProperties": "video"},
    {"name": "year", "logicalType": "integer", "logicalTypeOptions": {"minimum": 0}, "customProperties": "tabular"},
    {"name": "label", "logicalType": "string", "customProperties": "label"},
]
NAMES = [column["name"] for column in COLUMNS]


class Place:
    """A source folder, a lake, a media store and the documents' folder."""

    def __init__(self, root: Path) -> None:
        self.source = root / "source"
        self.lake = Lake(str(root / "lake"))
        self.media = MediaStore(str(root / "media"))
        self.docs = root / "docs"
        self.source.mkdir(parents=True)
        self.contract()

    def contract(self, columns: list[dict[str, Any]] = COLUMNS, path: str = "items.csv", **table: Any) -> Path:
        properties = [
            {**column, "customProperties": [{"property": "modality", "value": column["customProperties"]}]}
            if "customProperties" in column
            else column
            for column in columns
        ]
        document = {
            "apiVersion": "v3.1.0",
            "kind": "DataContract",
            "id": "urn:metafuse:shop-en",
            "name": "shop-en",
            "version": "1.0.0",
            "status": "active",
            "servers": [{"server": "local", "type": "local", "path": path, "format": path.partition(".")[2]}],
            "schema": [{"name": "items", "logicalType": "object", "properties": properties, **table}],
        }
        file = self.source / "contract.yaml"
        file.write_text(yaml.safe_dump(document))
        return file

    def rows(self, *rows: dict[str, Any], path: str = "items.csv") -> None:
        lines = [",".join(NAMES), *(",".join(str(row.get(name, "")) for name in NAMES) for row in rows)]
        (self.source / path).write_text("\n".join(lines) + "\n")

    def file(self, name: str, content: bytes) -> str:
        (self.source / name).write_bytes(content)
        return name

    def ingest(self, lake: Lake | None = None) -> IngestReport:
        return ingest(self.source / "contract.yaml", None, lake or self.lake, self.media, self.docs)

    def labels(self) -> dict[str, str]:
        rows = self.lake.read("labels").sort_by("at").to_pylist()
        return {row["item_id"]: row["label"] for row in rows}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def plain(count: int, **cells: Any) -> list[dict[str, Any]]:
    return [
        {"item_id": f"i{n:03}", "title": f"title {n}", "year": n, "label": "ab"[n % 2], **cells} for n in range(count)
    ]


def counts(report: IngestReport) -> tuple[int, int, int, int]:
    return report.received, report.accepted, report.quarantined, report.duplicates


def check_ledger(place: Place) -> None:
    """Every line of the ledger balances and says what the tables hold."""
    for line in place.lake.read("batches").to_pylist():
        assert line["received"] == line["accepted"] + line["quarantined"] + line["duplicates"]
        mine = f"batch_id = '{line['batch_id']}'"
        assert len(place.lake.read("items_shop_en", where=mine)) == line["accepted"]
        assert len(place.lake.read("quarantine", where=mine)) == line["quarantined"]


def test_all_five_modalities_are_stored_and_found_again(place: Place):
    files = {"picture": picture(), "clip": tone("FLAC", seconds=0.3), "film": clip()}
    names = {name: place.file(f"{name}.bin", content) for name, content in files.items()}
    place.rows({"item_id": "full", "title": "all", "year": 3, "label": "x", **names}, {"item_id": "bare", "title": "t"})
    report = place.ingest()
    assert counts(report) == (2, 2, 0, 0)
    bare, full = place.lake.current_items("shop-en").to_pylist()
    assert {name: place.media.get(full[f"{name}_sha256"]) for name in files} == files
    assert (full["title"], full["year"], full["label"]) == ("all", 3, "x")
    assert [bare[f"{name}_sha256"] for name in files] == [None, None, None]
    assert (bare["year"], bare["label"]) == (None, None)
    assert report.table_version == place.lake.version("items_shop_en")
    assert contract_in_force(place.lake, "shop-en").domain == "shop-en"
    assert (place.docs / "shop-en" / "index.html").exists()
    assert "shop-en" in (place.docs / "shop-en" / "contract.html").read_text()
    check_ledger(place)


def test_rows_that_break_a_rule_are_quarantined_with_every_reason(place: Place):
    nan = sound(pa.array([0.0, float("nan")], pa.float32()).to_numpy(), subtype="FLOAT")
    secret = place.source.parent / "secret.png"
    secret.write_bytes(picture())
    place.rows(
        {"item_id": "good", "title": "fine"},
        {"item_id": "long", "title": "x" * 21, "year": -1},
        {"item_id": "", "title": "no id"},
        {"item_id": "twin"},
        {"item_id": "twin"},
        {"item_id": "year", "year": "soon"},
        {"item_id": "gone", "picture": "absent.png"},
        {"item_id": "thief", "picture": "../secret.png"},
        {"item_id": "cut", "picture": place.file("cut.png", picture()[:-20])},
        {"item_id": "wrong", "picture": place.file("w.png", tone())},
        {"item_id": "nan", "clip": place.file("nan.wav", nan)},
        {"item_id": "list", "film": place.file("list.mp4", b"ffconcat version 1.0\nfile /etc/passwd")},
    )
    with (place.source / "items.csv").open("a") as file:
        file.write("too,few,cells\n")
    report = place.ingest()
    assert counts(report) == (13, 1, 12, 0)
    rows = {row["item_id"]: row for row in place.lake.read("quarantine").to_pylist() if row["item_id"] != "twin"}
    assert {item: row["reasons"] for item, row in rows.items() if item} == {
        "long": ["title:max_length", "year:minimum"],
        "year": ["year:type"],
        "gone": ["picture:not_found"],
        "thief": ["picture:outside_source"],
        "cut": ["picture:truncated"],
        "wrong": ["picture:unsupported_format"],
        "nan": ["clip:not_finite"],
        "list": ["film:unsupported_format"],
    }
    assert report.reasons["item_id:unique"] == 2
    assert (report.reasons["item_id:required"], report.reasons["row:columns"]) == (1, 1)
    assert json.loads(rows["year"]["payload_json"])["year"] == "soon"
    assert rows["long"]["locator"] == "items.csv:3"
    check_ledger(place)


def test_the_same_source_again_is_all_duplicates_and_writes_nothing(place: Place):
    place.rows(*plain(30), {"item_id": "bad", "year": -1})
    first = place.ingest()
    before = {table: place.lake.version(table) for table in place.lake.tables()}
    again = place.ingest()
    assert counts(first) == (31, 30, 1, 0)
    assert counts(again) == (31, 0, 0, 31)
    assert again.batch_id == first.batch_id
    assert {table: place.lake.version(table) for table in place.lake.tables()} == before


def test_only_what_is_new_or_changed_is_added(place: Place):
    place.rows(*plain(5))
    place.ingest()
    rows = plain(7)
    rows[2]["title"] = "changed"
    place.rows(*rows)
    report = place.ingest()
    assert counts(report) == (7, 3, 0, 4)
    current = {row["item_id"]: row["title"] for row in place.lake.current_items("shop-en").to_pylist()}
    assert len(current) == 7
    assert current["i002"] == "changed"
    assert len(place.lake.read("items_shop_en")) == 8
    check_ledger(place)


def test_an_item_that_changes_back_is_changed_again(place: Place):
    for title in ("first", "second", "first"):
        place.rows({"item_id": "a", "title": title})
        assert counts(place.ingest()) == (1, 1, 0, 0)
        assert place.lake.current_items("shop-en")["title"].to_pylist() == [title]
    check_ledger(place)


def test_a_changed_picture_is_a_changed_item(place: Place):
    place.rows({"item_id": "a", "picture": place.file("p.png", picture(colour="red"))})
    place.ingest()
    place.file("p.png", picture(colour="blue"))
    assert counts(place.ingest()) == (1, 1, 0, 0)


def test_labels_arrive_change_and_are_taken_back_once_each(place: Place):
    def events() -> int:
        announce_labels(place.lake, "shop-en")
        announce_labels(place.lake, "shop-en")
        return len(place.lake.read("outbox"))

    place.rows({"item_id": "a", "title": "t", "label": "x"}, {"item_id": "b", "title": "t"})
    place.ingest()
    assert (place.labels(), events()) == ({"a": "x"}, 1)
    place.rows({"item_id": "a", "title": "t", "label": "y"}, {"item_id": "b", "title": "t", "label": "x"})
    place.ingest()
    assert (place.labels(), events()) == ({"a": "y", "b": "x"}, 2)
    place.rows({"item_id": "a", "title": "t", "label": "y"}, {"item_id": "b", "title": "new", "label": "x"})
    place.ingest()
    assert (place.labels(), events()) == ({"a": "y", "b": "x"}, 2)
    place.rows({"item_id": "a", "title": "t"}, {"item_id": "b", "title": "new", "label": "x"})
    place.ingest()
    assert (place.labels(), events()) == ({"a": "", "b": "x"}, 3)
    assert {row["status"] for row in place.lake.read("outbox").to_pylist()} == {"pending"}


def test_a_broken_batch_rule_writes_nothing(place: Place):
    place.contract(quality=[{"type": "library", "metric": "rowCount", "mustBeGreaterThan": 5}])
    place.rows(*plain(5, picture=place.file("p.png", picture())))
    with pytest.raises(BatchRefused, match="rowCount > 5"):
        place.ingest()
    assert place.lake.tables() == []
    assert not (place.source.parent / "media").exists()


def test_a_missing_column_writes_nothing(place: Place):
    (place.source / "items.csv").write_text("item_id,title\na,b\n")
    with pytest.raises(BatchRefused, match="no column picture"):
        place.ingest()
    assert place.lake.tables() == []


def test_nothing_to_read_and_the_wrong_contract_are_named(place: Place):
    with pytest.raises(SourceNotFound, match=r"items\.csv"):
        place.ingest()
    with pytest.raises(ContractInvalid, match="'shop-en', not of 'shop-de'"):
        ingest(place.source / "contract.yaml", None, place.lake, place.media, place.docs, domain="shop-de")


def test_a_source_of_bad_rows_alone_leaves_no_items_table(place: Place):
    place.rows({"item_id": "a", "year": "x"})
    report = place.ingest()
    assert counts(report) == (1, 0, 1, 0)
    assert report.table_version is None


def test_a_column_that_is_added_extends_the_table_and_a_type_that_changes_is_refused(place: Place):
    place.contract([column for column in COLUMNS if column["name"] not in ("year", "film")])
    place.rows(*plain(3))
    place.ingest()
    place.contract()
    assert counts(place.ingest()) == (3, 3, 0, 0)
    assert place.lake.current_items("shop-en")["year"].to_pylist() == [0, 1, 2]
    changed = [{**column, "logicalType": "number"} if column["name"] == "year" else column for column in COLUMNS]
    place.contract(changed)
    before = place.lake.version("items_shop_en")
    with pytest.raises(BatchRefused, match="year is int64, now double"):
        place.ingest()
    assert place.lake.version("items_shop_en") == before


def test_pictures_may_be_bytes_in_parquet(place: Place):
    place.contract(path="items.parquet")
    table = pa.table({name: pa.array([None], pa.string()) for name in NAMES})
    cells = {"item_id": pa.array(["a"]), "picture": pa.array([picture()]), "year": pa.array([3])}
    pq.write_table(pa.table({name: cells.get(name, table[name]) for name in NAMES}), place.source / "items.parquet")
    assert counts(place.ingest()) == (1, 1, 0, 0)
    (row,) = place.lake.current_items("shop-en").to_pylist()
    assert place.media.get(row["picture_sha256"]) == picture()


def test_lost_media_and_a_lost_table_come_back_with_the_same_source(place: Place):
    place.rows({"item_id": "a", "title": "t", "picture": place.file("p.png", picture())})
    place.ingest()
    (row,) = place.lake.current_items("shop-en").to_pylist()
    (stored,) = (place.source.parent / "media").rglob(row["picture_sha256"])
    stored.unlink()
    assert counts(place.ingest()) == (1, 0, 0, 1)
    assert place.media.get(row["picture_sha256"]) == picture()
    (place.source.parent / "lake" / "items_shop_en").rename(place.source.parent / "lost")
    assert counts(place.ingest()) == (1, 1, 0, 0)


def test_rows_whose_last_commit_was_lost_are_taken_in_again(place: Place):
    place.rows({"item_id": "a", "title": "t"})
    place.ingest()
    (place.source.parent / "lake" / "items_shop_en" / "_delta_log" / "00000000000000000001.json").unlink()
    assert counts(place.ingest()) == (1, 1, 0, 0)
    assert len(place.lake.current_items("shop-en")) == 1


class CutOff(Exception):
    """The run ends here."""


class ShortLake(Lake):
    """A lake whose process ends right after its first commit."""

    def _commit(self, *arguments: Any) -> bool:
        super()._commit(*arguments)
        raise CutOff


def cut_off(place: Place) -> bool:
    try:
        place.ingest(ShortLake(place.lake.uri))
    except CutOff:
        return True
    return False


def test_a_run_cut_off_after_every_single_commit_is_finished_by_the_next(place: Place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tasks.ingest, "SHARD", 4)
    place.rows(*plain(3))
    place.ingest()
    name = place.file("p.png", picture())
    place.rows(*plain(10, picture=name), {"item_id": "bad", "year": -1}, {"item_id": "worse", "picture": "absent"})
    cuts = 0
    while cut_off(place):
        cuts += 1
    assert cuts == 6, "three shards of items, quarantine, labels and the ledger's line"
    ids = Counter(place.lake.read("items_shop_en", where="picture_sha256 IS NOT NULL")["item_id"].to_pylist())
    assert ids == Counter(f"i{number:03}" for number in range(10))
    assert place.labels() == {f"i{number:03}": "ab"[number % 2] for number in range(10)}
    assert len(place.lake.read("labels")) == 10
    assert len(place.lake.read("quarantine")) == 2
    assert [line["accepted"] for line in place.lake.read("batches").sort_by("at").to_pylist()] == [3, 10]
    check_ledger(place)
    assert counts(place.ingest()) == (12, 0, 0, 12)


def test_the_same_source_ingested_by_several_at_once_goes_in_once(place: Place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tasks.ingest, "SHARD", 5)
    place.rows(*plain(12), {"item_id": "bad", "year": -1})
    with ThreadPoolExecutor(3) as pool:
        reports = list(pool.map(lambda _: place.ingest(), range(3)))
    assert {report.received for report in reports} == {13}
    assert len(place.lake.read("items_shop_en")) == 12
    assert len(place.lake.read("labels")) == 12
    assert len(place.lake.read("quarantine")) == 1
    assert len(place.lake.read("batches")) == 1
    check_ledger(place)


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_that_the_next_does_not_finish(place: Place):
    place.rows(*plain(400))
    script = (
        "import sys, pathlib, tasks.ingest as i; from tasks.lake import Lake; from tasks.media import MediaStore\n"
        "i.SHARD = 20; root = pathlib.Path(sys.argv[1]); print('ready', flush=True)\n"
        "i.ingest(root / 'source/contract.yaml', None, Lake(str(root / 'lake')), MediaStore(str(root / 'media')), "
        "root / 'docs')\n"
    )
    for kills in range(4):
        process = subprocess.Popen([sys.executable, "-c", script, str(place.source.parent)], stdout=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while process.poll() is None and (place.lake.version("items_shop_en") or 0) < 3 * (kills + 1):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert counts(place.ingest()) == (400, 400, 0, 0)
    assert len(place.lake.read("items_shop_en")) == 400
    assert len(place.labels()) == len(place.lake.read("labels")) == 400
    check_ledger(place)
