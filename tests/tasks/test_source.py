"""Tables of three formats read the same; a row that is no row keeps its place; media never leave their folder."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_contracts.contract import Column, Contract, Rules, Server
from data_contracts.errors import BatchRefused, MediaRefused, SourceNotFound
from tasks.source import MediaFile, SourceBatch, read_source

PICTURE = Column(name="picture", logical_type="string", role="image", rules=Rules(max_bytes=100))
YEAR = Column(name="year", logical_type="integer", role="tabular")


def contract_of(path: str, kind: str) -> Contract:
    ident = Column(name="item_id", logical_type="string", role="id")
    title = Column(name="title", logical_type="string", role="text")
    server = Server.model_validate({"path": path, "format": kind})
    return Contract(domain="shop-en", version="1.0.0", server=server, columns=(ident, title, PICTURE, YEAR))


def read(folder: Path, name: str, content: bytes | str) -> SourceBatch:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_source(contract_of(name, path.suffix.removeprefix(".")), folder)


def states(batch: SourceBatch) -> list[str | None]:
    return [
        cell.code if isinstance(cell, MediaRefused) else cell and cell.read().decode()
        for cell in batch.media["picture"]
    ]


def test_three_formats_read_the_same(tmp_path: Path):
    csv = read(tmp_path, "a.csv", 'item_id,title,picture,year\na,"x, y",,3\nb,,,\n')
    jsonl = read(tmp_path, "a.jsonl", '{"item_id":"a","title":"x, y","year":3}\n\n{"item_id":"b"}\n')
    rows = [{"item_id": "a", "title": "x, y", "picture": "", "year": "3"}]
    assert csv.rows.to_pylist() == [*rows, {"item_id": "b", "title": "", "picture": "", "year": ""}]
    assert jsonl.rows.to_pylist() == [
        {"item_id": "a", "title": "x, y", "picture": None, "year": "3"},
        {"item_id": "b", "title": None, "picture": None, "year": None},
    ]
    pq.write_table(csv.rows, tmp_path / "a.parquet")
    parquet = read_source(contract_of("a.parquet", "parquet"), tmp_path)
    assert parquet.rows.equals(csv.rows)
    assert (csv.locators, jsonl.locators) == (("a.csv:2", "a.csv:3"), ("a.jsonl:1", "a.jsonl:3"))
    assert parquet.locators == ("a.parquet:1", "a.parquet:2")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_columns_the_contract_does_not_have_are_left_out_and_named(tmp_path: Path, kind: str):
    rows = [{"item_id": "a", "titel": "x"}, {"item_id": "b", "titel": "y", "other": "z"}]
    match kind:
        case "csv":
            content: bytes | str = "item_id,titel,other\na,x,\nb,y,z\n"
        case "jsonl":
            content = "\n".join(map(json.dumps, rows))
        case _:
            pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in rows[1]}), tmp_path / "rows")
            content = (tmp_path / "rows").read_bytes()
    batch = read(tmp_path, f"a.{kind}", content)
    assert batch.rows["item_id"].to_pylist() == ["a", "b"]
    assert not {"titel", "other"} & set(batch.rows.column_names)
    assert batch.unused_columns == ("titel", "other")


def test_names_of_unused_columns_are_few_short_and_obeyed_by_no_terminal(tmp_path: Path):
    names = ["", "\x1b[31mred", "é" * 1000, *(f"c{number}" for number in range(200))]
    unused = read(tmp_path, "a.csv", ",".join(["item_id", *names]) + "\n").unused_columns
    assert unused[:4] == ("(no name)", "\\x1b[31mred", "é" * 100, "c0")
    assert len(unused) == 100


def test_a_byte_order_mark_and_line_breaks_in_quotes_are_no_trouble(tmp_path: Path):
    batch = read(tmp_path, "a.csv", b'\xef\xbb\xbfitem_id,title\r\na,"two\nlines"\r\nb,c\r\n')
    assert batch.rows["title"].to_pylist() == ["two\nlines", "c"]
    assert batch.locators == ("a.csv:2", "a.csv:4")


def test_rows_that_are_no_rows_are_kept_with_their_place(tmp_path: Path):
    batch = read(tmp_path, "a.csv", b'item_id,title\na,b,c\nd\n\ne,"f"g\nh,\xff\ni,j\n')
    assert [(row.locator, row.reason) for row in batch.unreadable] == [
        ("a.csv:2", "row:columns"),
        ("a.csv:3", "row:columns"),
        ("a.csv:5", "row:malformed"),
        ("a.csv:6", "row:encoding"),
    ]
    assert batch.rows.to_pylist() == [{"item_id": "i", "title": "j"}]
    assert len(batch) == 5


def test_lines_that_are_no_objects_are_kept_with_their_place(tmp_path: Path):
    deep = b"[" * 100_000
    lines = [b'{"item_id":"a"', b"[1]", b'{"item_id":{"b":1}}', b'{"item_id":NaN}', b'{"item_id":"\\ud800"}']
    batch = read(tmp_path, "a.jsonl", b"\n".join([*lines, b'{"item_id":"\xff"}', deep, b'{"item_id":"z","year":true}']))
    assert [row.reason.removeprefix("row:") for row in batch.unreadable] == [
        "not_json",
        "not_an_object",
        "nested_value",
        "not_json",
        "encoding",
        "encoding",
        "not_json",
    ]
    assert batch.rows.to_pylist() == [{"item_id": "z", "title": None, "picture": None, "year": "true"}]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.csv", 'item_id,title\na,"never closed\nb,c\n', "opened in line 2 is never closed"),
        ("a.csv", "", "must name the columns"),
        ("a.csv", "item_id,item_id\n", "must name the columns, each once"),
        ("a.parquet", b"PAR1 this is not Parquet PAR1", "cannot be read as a table"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_whole(tmp_path: Path, name: str, content: bytes | str, problem: str):
    with pytest.raises(BatchRefused, match=problem):
        read(tmp_path, name, content)


def test_parquet_holds_bytes_categories_and_no_nested_values(tmp_path: Path):
    table = pa.table({"item_id": pa.array(["a"]).dictionary_encode(), "picture": [b"pixels"], "year": [3]})
    pq.write_table(table, tmp_path / "a.parquet")
    batch = read_source(contract_of("a.parquet", "parquet"), tmp_path)
    assert batch.rows.schema.field("item_id").type == pa.string()
    assert states(batch) == ["pixels"]
    pq.write_table(pa.table({"item_id": ["a"], "title": [["x"]]}), tmp_path / "b.parquet")
    with pytest.raises(BatchRefused, match="title holds list"):
        read_source(contract_of("b.parquet", "parquet"), tmp_path)


def test_a_pattern_reads_every_file_and_media_are_next_to_their_own_table(tmp_path: Path):
    for part in ("one", "two"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "items.csv").write_text(f"item_id,picture\n{part},p.png\n")
        (tmp_path / part / "p.png").write_text(f"picture {part}")
    batch = read_source(contract_of("*/items.csv", "csv"), tmp_path)
    assert batch.rows["item_id"].to_pylist() == ["one", "two"]
    assert batch.locators == ("one/items.csv:2", "two/items.csv:2")
    assert states(batch) == ["picture one", "picture two"]


def test_files_whose_types_do_not_fit_together_are_refused(tmp_path: Path):
    pq.write_table(pa.table({"item_id": ["a"], "year": [3]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"item_id": ["b"], "year": ["x"]}), tmp_path / "b.parquet")
    with pytest.raises(BatchRefused, match="do not fit together"):
        read_source(contract_of("*.parquet", "parquet"), tmp_path)


@pytest.mark.parametrize("path", ["absent.csv", "*.tsv", "s3://bucket/items.csv", ".", "a**b/items.csv"])
def test_a_source_that_is_not_there_is_named(tmp_path: Path, path: str):
    with pytest.raises(SourceNotFound, match="shop-en"):
        read_source(contract_of(path, "csv"), tmp_path)


def test_media_stay_in_the_folder_of_their_table(tmp_path: Path):
    source = tmp_path / "source"
    (source / "images").mkdir(parents=True)
    (tmp_path / "secret.png").write_text("secret")
    (source / "images" / "good.png").write_text("good")
    (source / "large.png").write_bytes(b"x" * 101)
    (source / "link.png").symlink_to(tmp_path / "secret.png")
    (source / "inner.png").symlink_to(source / "images" / "good.png")
    (source / "loop.png").symlink_to(source / "loop.png")
    (source / "up").symlink_to(tmp_path)
    os.mkfifo(source / "pipe.png")
    cells = {
        "images/good.png": "good",
        "images/../images/good.png": "good",
        "inner.png": "good",
        "": None,
        "../secret.png": "outside_source",
        str(tmp_path / "secret.png"): "outside_source",
        "link.png": "outside_source",
        "up/secret.png": "outside_source",
        "/dev/zero": "outside_source",
        "/etc/passwd": "outside_source",
        "absent.png": "not_found",
        "images": "not_found",
        "pipe.png": "not_found",
        "loop.png": "not_found",
        "nul\0.png": "not_found",
        "x" * 5000: "not_found",
        "large.png": "too_many_bytes",
    }
    rows = "".join(f"{number},{cell}\n" for number, cell in enumerate(cells))
    batch = read(source, "a.csv", "item_id,picture\n" + rows)
    assert dict(zip(cells, states(batch), strict=True)) == cells


def test_the_fingerprint_follows_table_and_media_and_nothing_else(tmp_path: Path):
    (tmp_path / "p.png").write_text("one")
    table = "item_id,picture\na,p.png\n"
    first = read(tmp_path, "a.csv", table).sha256
    os.utime(tmp_path / "p.png", (0, 0))
    assert read(tmp_path, "a.csv", table).sha256 == first
    (tmp_path / "p.png").write_text("two")
    changed = read(tmp_path, "a.csv", table).sha256
    (tmp_path / "p.png").unlink()
    gone = read(tmp_path, "a.csv", table).sha256
    assert len({first, changed, gone, read(tmp_path, "a.csv", table + "b,\n").sha256}) == 4


def test_a_file_that_changes_after_it_was_hashed_is_refused(tmp_path: Path):
    (tmp_path / "p.png").write_text("one")
    (cell,) = read(tmp_path, "a.csv", "item_id,picture\na,p.png\n").media["picture"]
    assert isinstance(cell, MediaFile)
    (tmp_path / "p.png").write_text("two")
    with pytest.raises(MediaRefused, match="was changed"):
        cell.read()


def test_a_separator_that_is_no_comma_is_shown(tmp_path: Path):
    with pytest.raises(BatchRefused, match="names no column of the contract: item_id;title"):
        read(tmp_path, "a.csv", "item_id;title\na;x\n")


def test_parquet_text_that_is_not_utf8_is_refused_by_column(tmp_path: Path):
    text = pa.array([b"good", b"\xff"]).cast(pa.binary())
    titles = pa.Array.from_buffers(pa.string(), 2, text.buffers())
    pq.write_table(pa.table({"item_id": ["a", "b"], "title": titles}), tmp_path / "a.parquet")
    with pytest.raises(BatchRefused, match="the column title is damaged"):
        read_source(contract_of("a.parquet", "parquet"), tmp_path)


def test_half_precision_numbers_of_parquet_are_widened(tmp_path: Path):
    pq.write_table(pa.table({"item_id": ["a"], "year": pa.array([1.5], pa.float16())}), tmp_path / "a.parquet")
    assert read_source(contract_of("a.parquet", "parquet"), tmp_path).rows["year"].to_pylist() == [1.5]
