"""The commands that only read the lake: sql and quarantine list."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from data_contracts.tables import LABELS, QUARANTINE
from tasks.lake import Lake

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def lake(home) -> Lake:
    """A lake with three labels and two quarantined rows, of two domains."""
    lake = Lake(str(home / "lake"))
    labels = [("noto-ru", "a", "bird"), ("noto-ru", "b", "fish"), ("noto-zh", "a", "bird")]
    lake.append(
        "labels",
        pa.Table.from_pylist(
            [{"domain": d, "item_id": i, "label": name, "source": "contract", "at": AT} for d, i, name in labels],
            schema=LABELS,
        ),
    )
    rows = [("noto-ru", "items.csv:7", ["title:max_length", "year:type"]), ("noto-zh", "items.csv:9", ["year:type"])]
    shared = {"batch_id": "1", "item_id": None, "payload_json": "{}", "contract_version": "1.0.0", "at": AT}
    lake.append(
        "quarantine",
        pa.Table.from_pylist(
            [{"domain": d, "locator": where, "reasons": reasons, **shared} for d, where, reasons in rows],
            schema=QUARANTINE,
        ),
    )
    return lake


@pytest.mark.usefixtures("lake")
def test_sql_answers_with_columns_and_rows(metafuse):
    query = 'SELECT label, count(*) AS n, max("at") AS newest FROM labels GROUP BY label ORDER BY n DESC'
    assert metafuse.here("sql", query, "--json").facts == {
        "columns": ["label", "n", "newest"],
        "rows": [
            {"label": "bird", "n": 2, "newest": "2026-01-02T03:04:05+00:00"},
            {"label": "fish", "n": 1, "newest": "2026-01-02T03:04:05+00:00"},
        ],
        "is_cut": False,
    }
    shown = metafuse.here("sql", query).out
    assert "bird" in shown
    assert "newest" in shown


@pytest.mark.usefixtures("lake")
def test_sql_prints_no_more_rows_than_asked_and_says_if_there_are_more(metafuse):
    facts = metafuse.here("sql", "SELECT * FROM labels", "--limit", "2", "--json").facts
    assert (len(facts["rows"]), facts["is_cut"]) == (2, True)
    assert (
        "more rows than these 2: --limit prints up to 10,000"
        in metafuse.here("sql", "SELECT item_id FROM labels", "--limit", "2").out
    )
    assert metafuse.here("sql", "SELECT * FROM labels", "--limit", "3", "--json").facts["is_cut"] is False
    assert "more rows" not in metafuse.here("sql", "SELECT item_id FROM labels", "--limit", "3").out


@pytest.mark.parametrize(("width", "is_table"), [("80", False), ("200", True)])
def test_rows_that_are_wider_than_the_terminal_are_printed_one_below_the_other(metafuse, monkeypatch, width, is_table):
    monkeypatch.setenv("COLUMNS", width)
    shown = metafuse.here("sql", "SELECT 'left' AS first_column, repeat('wide ', 15) AS second_column").out
    lines = [line.split() for line in shown.splitlines() if line.strip()]
    assert (["first_column", "left"] in lines) is not is_table
    assert any({"first_column", "second_column"} <= set(line) for line in lines) is is_table


def test_sql_over_an_empty_lake_finds_empty_platform_tables(metafuse):
    facts = metafuse.here("sql", "SELECT count(*) AS n FROM predictions", "--json").facts
    assert facts == {"columns": ["n"], "rows": [{"n": 0}], "is_cut": False}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELEC 1", "cannot be read"),
        ("SELECT * FROM items_nowhere", "items_nowhere"),
        ("DROP TABLE labels", "Only one SELECT"),
        ("SELECT * FROM read_text('/etc/hostname')", "nothing else"),
    ],
)
def test_sql_that_cannot_run_is_refused(metafuse, query, said):
    assert said in metafuse.here("sql", query).refusal


def test_corrupt_lake_file_is_refused_with_the_remedy(metafuse, lake, home):
    for file in (home / "lake" / "labels").rglob("*.parquet"):
        file.write_bytes(b"PAR1 not really")
    refusal = metafuse.here("sql", "SELECT * FROM labels").refusal
    assert ".parquet" in refusal
    assert "Restore the lake" in refusal


def test_corrupt_transaction_log_is_refused_by_table(metafuse, lake, home):
    for file in (home / "lake" / "labels" / "_delta_log").glob("*.json"):
        file.write_text("{broken")
    assert "table labels" in metafuse.here("sql", "SELECT * FROM labels").refusal


@pytest.mark.usefixtures("lake")
def test_quarantine_list_counts_reasons(metafuse):
    facts = metafuse.here("quarantine", "list", "--json").facts
    assert (facts["total"], facts["reasons"]) == (2, {"year:type": 2, "title:max_length": 1})
    shown = metafuse.here("quarantine", "list").out
    assert "title:max_length" in shown.split("reason ")[-1]
    assert "2 rows in quarantine" in shown
    only = metafuse.here("quarantine", "list", "noto-ru", "--json").facts
    assert [row["locator"] for row in only["rows"]] == ["items.csv:7"]


def test_quarantine_of_an_empty_lake_is_empty(metafuse):
    assert metafuse.here("quarantine", "list").out == "Nothing is in quarantine.\n"


@pytest.mark.usefixtures("lake")
def test_quarantine_of_a_domain_that_is_not_there_is_refused(metafuse):
    assert "no domain 'noto-xx'" in metafuse.here("quarantine", "list", "noto-xx").refusal


@pytest.mark.parametrize("moment", ["'infinity'::timestamp", "DATE '294000-01-01'"])
def test_instants_that_no_calendar_of_python_holds_are_refused(metafuse, moment):
    assert "Cast it to VARCHAR" in metafuse.here("sql", f"SELECT {moment} AS moment").refusal
