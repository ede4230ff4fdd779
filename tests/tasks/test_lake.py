"""The lake keeps every commit once, whoever else is writing, and shows a user its tables and nothing else."""

import datetime as dt
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from data_contracts.errors import BatchRefused, LakeCorrupt, QueryRefused, UnknownDomain
from data_contracts.tables import INSTANT, LABELS
from tasks import query
from tasks.lake import Lake, Snapshot


@pytest.fixture(params=["folder", "uri"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """A lake in a folder; as a URI it takes the way object stores take."""
    folder = tmp_path / "lake"
    return Lake(str(folder) if request.param == "folder" else folder.as_uri())


def labels(*items: str, domain: str = "noto-ru", label: str = "cat") -> pa.Table:
    at = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    rows = [{"domain": domain, "item_id": item, "label": label, "source": "contract", "at": at} for item in items]
    return pa.Table.from_pylist(rows, schema=LABELS)


def items(*ids: str, **columns: list[object]) -> pa.Table:
    return pa.table({"item_id": list(ids), **columns})


def files_of(lake: Lake, table: str, pattern: str) -> list[Path]:
    return sorted((Path(lake.uri.removeprefix("file://")) / table).glob(pattern))


def test_rows_come_back_with_their_types(lake: Lake):
    reference = lake.append("labels", labels("a", "b"))
    found = lake.read("labels")
    assert (reference.table, reference.version) == ("labels", 1)
    assert found.schema.field("at").type == INSTANT
    assert found.sort_by("item_id").to_pylist() == labels("a", "b").to_pylist()


def test_a_domain_that_looks_like_a_number_stays_text(lake: Lake):
    lake.append("labels", labels("a", domain="2024"))
    assert lake.read("labels", columns=["domain"]).to_pylist() == [{"domain": "2024"}]
    assert lake.query("SELECT domain FROM labels").to_pylist() == [{"domain": "2024"}]


def test_reading_takes_columns_a_condition_and_a_version(lake: Lake):
    first = lake.append("labels", labels("a", "b"))
    lake.append("labels", labels("c"))
    assert lake.read("labels", columns=["item_id"], where="item_id > 'b'").to_pylist() == [{"item_id": "c"}]
    assert len(lake.read("labels", version=first.version)) == 2
    assert lake.version("labels") == 2


def test_a_transaction_is_committed_once(lake: Lake):
    for _ in range(3):
        lake.append("labels", labels("a"), transaction=("batch-1", 1))
    lake.append("labels", labels("b"), transaction=("batch-1", 2))
    lake.append("labels", labels("a"), transaction=("batch-1", 1))
    assert sorted(lake.read("labels")["item_id"].to_pylist()) == ["a", "b"]


def test_a_race_for_one_transaction_has_one_winner(lake: Lake):
    lake.append("labels", labels("z"))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: lake.append("labels", labels("a"), transaction=("race", 1)), range(8)))
    assert sorted(lake.read("labels")["item_id"].to_pylist()) == ["a", "z"]


def test_concurrent_writers_create_a_table_and_lose_nothing(lake: Lake):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: lake.append("labels", labels(f"item-{number}")), range(12)))
    assert len(lake.read("labels")) == 12


def test_writers_behind_one_fence_decide_on_what_the_others_wrote(lake: Lake):
    def unless_there(stored: Snapshot) -> pa.Table:
        known = stored.read(["item_id"])["item_id"].to_pylist()
        return labels(f"item-{len(known)}") if len(known) < 5 else labels()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: lake.transact("labels", LABELS, "fence", unless_there), range(10)))
    assert sorted(lake.read("labels")["item_id"].to_pylist()) == [f"item-{number}" for number in range(5)]
    snapshot = lake.snapshot("labels")
    assert snapshot is not None
    assert snapshot.commits("fence") == 5


def test_the_latest_row_of_an_item_is_the_current_one(lake: Lake):
    for day, title in enumerate(["old", "new"], start=1):
        at = pa.array([dt.datetime(2026, 1, day, tzinfo=dt.UTC)] * 2, INSTANT)
        lake.append("items_noto_ru", items("b", "a" if day == 1 else "c", title=[title, title], ingested_at=at))
    current = lake.current_items("noto-ru", columns=["item_id", "title"])
    assert [tuple(row.values()) for row in current.to_pylist()] == [("a", "old"), ("b", "new"), ("c", "new")]


def test_a_new_column_extends_the_table_and_a_changed_type_is_refused(lake: Lake):
    lake.append("items_x", items("a", year=[1]))
    lake.append("items_x", items("b", year=[2], title=["two"]))
    lake.append("items_x", items("c"))
    found = {row["item_id"]: row for row in lake.read("items_x").to_pylist()}
    assert found == {
        "a": {"item_id": "a", "year": 1, "title": None},
        "b": {"item_id": "b", "year": 2, "title": "two"},
        "c": {"item_id": "c", "year": None, "title": None},
    }
    with pytest.raises(BatchRefused, match="year is int64, now string"):
        lake.append("items_x", items("d", year=["2024"]))
    assert len(lake.read("items_x")) == 3


def test_what_nobody_wrote_yet_is_empty_or_unknown_by_name(lake: Lake):
    assert lake.tables() == []
    assert len(lake.read("labels")) == 0
    lake.append("items_noto_ru", items("a"))
    assert lake.version("items_x") is None
    with pytest.raises(UnknownDomain, match=r"no table items_x; items tables there: items_noto_ru"):
        lake.read("items_x")
    with pytest.raises(UnknownDomain, match="items_x"):
        lake.current_items("x")
    with pytest.raises(LakeCorrupt, match="at version 99"):
        lake.read("items_noto_ru", version=99)


@pytest.mark.parametrize("damage", ["deleted", "cut off", "overwritten"])
def test_a_damaged_data_file_is_named(lake: Lake, damage: str):
    lake.append("labels", labels(*map(str, range(500))))
    (file,) = files_of(lake, "labels", "*/*.parquet")
    content = file.read_bytes()
    match damage:
        case "deleted":
            file.unlink()
        case "cut off":
            file.write_bytes(content[: len(content) // 2])
        case "overwritten":
            file.write_bytes(content[:4] + b"\xa5" * (len(content) - 12) + content[-8:])
    with pytest.raises(LakeCorrupt):
        lake.read("labels")
    with pytest.raises(LakeCorrupt):
        lake.query("SELECT * FROM labels")


@pytest.mark.parametrize("damage", ["garbage", "gone"])
def test_a_damaged_log_is_named(lake: Lake, damage: str):
    lake.append("labels", labels("a"))
    for file in files_of(lake, "labels", "_delta_log/*.json"):
        if damage == "garbage":
            file.write_text("{garbage")
        else:
            file.unlink()
    with pytest.raises(LakeCorrupt, match="labels"):
        lake.read("labels")
    with pytest.raises(LakeCorrupt, match="labels"):
        lake.append("labels", labels("b"))


def test_a_query_sees_every_table(lake: Lake):
    lake.append("items_noto_ru", items("a", "b"))
    lake.append("labels", labels("a"))
    joined = "SELECT item_id, label FROM items_noto_ru LEFT JOIN labels USING (item_id) ORDER BY item_id"
    assert lake.query(joined).to_pylist() == [{"item_id": "a", "label": "cat"}, {"item_id": "b", "label": None}]
    assert lake.query("SELECT count(*) AS n FROM quarantine").to_pylist() == [{"n": 0}]
    assert "items_noto_ru" in lake.query("SHOW TABLES")["name"].to_pylist()
    assert len(lake.query("SELECT * FROM range(100)", limit=7)) == 7


ESCAPES = [
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM read_csv('{outside}/secret.csv')",
    "SELECT * FROM read_csv('{lake}/../secret.csv')",
    "SELECT * FROM glob('/**')",
    "SELECT * FROM glob('{lake}/**')",
    "SELECT * FROM read_text('{lake}/labels/_delta_log/00000000000000000000.json')",
    "SELECT * FROM read_parquet('https://example.org/x.parquet')",
    "SELECT * FROM read_blob('file://{outside}/secret.csv')",
    "SELECT * FROM duckdb_secrets()",
    "COPY labels TO '{outside}/stolen.csv'",
    "COPY labels TO '{lake}/stolen.csv'",
    "WITH stolen AS (COPY labels TO '{outside}/stolen.csv') SELECT 1",
    "WITH stolen AS (COPY labels TO '{lake}/stolen.csv') SELECT 1",
    "WITH stolen AS (COPY labels TO '{lake}/labels/stolen.parquet') SELECT * FROM stolen",
    "EXPORT DATABASE '{outside}'",
    "ATTACH '{outside}/stolen.db' AS stolen",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "SET allowed_directories = ['/']",
    "RESET lock_configuration",
    "PRAGMA enable_external_access",
    "CALL pragma_version()",
    "SELECT 1; COPY labels TO '{outside}/stolen.csv'",
    "CREATE TABLE stolen AS SELECT * FROM labels",
    "INSERT INTO labels SELECT * FROM labels",
    "DELETE FROM labels",
    "DROP VIEW labels",
    "EXPLAIN ANALYZE COPY labels TO '{outside}/stolen.csv'",
    "PREPARE stolen AS SELECT 1",
    "CHECKPOINT",
    "",
    "-- nothing",
    "SELEC 1",
    "SELECT * FROM nowhere",
    "SELECT nothing FROM labels",
    "SELECT getenv('HOME')",
]


@pytest.mark.parametrize("sql", ESCAPES, ids=range(len(ESCAPES)))
def test_a_query_reaches_nothing_outside_the_lake_and_writes_nothing(lake: Lake, tmp_path: Path, sql: str):
    lake.append("labels", labels("a"))
    (tmp_path / "secret.csv").write_text("secret\n1\n")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(QueryRefused) as refusal:
        lake.query(sql.format(outside=tmp_path, lake=lake.uri.removeprefix("file://")))
    assert str(refusal.value).count("\n") == 0
    assert sorted(tmp_path.rglob("*")) == before
    assert len(lake.read("labels")) == 1


def test_python_variables_are_not_tables(lake: Lake):
    hidden = pa.table({"secret": [1]})
    with pytest.raises(QueryRefused, match="hidden"):
        lake.query("SELECT * FROM hidden")
    assert len(hidden) == 1


def test_an_endless_query_is_stopped(lake: Lake, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(query, "LONGEST_S", 0.3)
    with pytest.raises(QueryRefused, match="longer than"):
        lake.query("SELECT count(*) FROM range(100000000) a, range(100000000) b WHERE a.range + b.range = 3")


@pytest.mark.slow
def test_a_query_that_needs_too_much_memory_is_refused(tmp_path: Path):
    with pytest.raises(QueryRefused, match="more than 2GB of memory"):
        Lake(str(tmp_path)).query("SELECT list(r) FROM range(3000000000) AS t(r)")


def test_one_damaged_table_does_not_stop_questions_to_others(lake: Lake):
    lake.append("labels", labels("a"))
    lake.append("items_x", items("a"))
    for file in files_of(lake, "items_x", "*.parquet"):
        file.unlink()
    assert lake.query("SELECT item_id FROM labels").to_pylist() == [{"item_id": "a"}]


def test_a_lake_whose_folder_was_removed_starts_anew(lake: Lake):
    lake.append("labels", labels("a"))
    shutil.rmtree(lake.uri.removeprefix("file://"))
    lake.append("labels", labels("b"))
    assert lake.read("labels")["item_id"].to_pylist() == ["b"]


def test_a_column_in_another_spelling_is_refused(lake: Lake):
    lake.append("items_a", pa.table({"item_id": ["x"], "Title": ["t"]}))
    with pytest.raises(BatchRefused, match="has the columns Title, now spelled title"):
        lake.append("items_a", pa.table({"item_id": ["y"], "title": ["u"]}))
