"""Two independent judges of the same rows must agree; what they accept must cast."""

import datetime as dt
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data_contracts.arrow_schema import items_schema, typed_schema
from data_contracts.contract import BatchRule, Column, Contract, Rules, Server
from data_contracts.errors import BatchRefused
from data_contracts.patterns import python_pattern
from data_contracts.row_mask import TYPE_PATTERNS
from tasks.validate import COUNTS_ONLY, ROW_BY_ROW, judge_batch, judge_rows, mask_rows, run_suite, type_rows


def contract_of(*columns: Column, batch_rules: tuple[BatchRule, ...] = ()) -> Contract:
    ident = Column(name="item_id", logical_type="string", role="id", rules=Rules(required=True, unique=True))
    return Contract(
        domain="shop-en",
        version="1.0.0",
        server=Server(path="items.csv", format="csv"),
        columns=(ident, *columns),
        batch_rules=batch_rules,
    )


def reasons_of(values: list[object], **column: object) -> list[list[str]]:
    contract = contract_of(Column(name="x", **{"role": "tabular", **column}))
    batch = pa.table({"item_id": [str(row) for row in range(len(values))], "x": values})
    found = mask_rows(batch, contract)["reasons"].to_pylist()
    return [[code.removeprefix("x:") for code in codes] for codes in found]


AWKWARD = [
    "",
    " ",
    "0",
    "-0",
    "+7",
    "007",
    "1.0",
    "1.50",
    "1e3",
    ".5",
    "5.",
    "1e999",
    "nan",
    "inf",
    "١٢",
    "12\n",
    "a\nb",
]
AWKWARD += ["true", "True", "yes", "2024-02-29", "2023-02-29", "2024-2-9", "2024-01-01 00:00:00", "2024-01-01T25:00"]
AWKWARD += [
    "2024-01-01T10:00:00Z",
    "2024-01-01 10:00:00.123456789+05:30",
    "it's",
    '"',
    "\\",
    "\v",
    "e\u0301",
    "👩‍👧",
    "K",
    "\x00",
]
CELLS = st.one_of(
    st.none(),
    st.sampled_from(AWKWARD),
    st.integers(-20, 20).map(str),
    st.floats(-20, 20).map(repr),
    st.dates(dt.date(1000, 1, 1)).map(str),
    st.text(max_size=6),
)
NUMBER_RULES = st.fixed_dictionaries(
    {"required": st.booleans(), "unique": st.booleans()},
    optional={
        "minimum": st.integers(-9, 9).map(float),
        "maximum": st.floats(-9, 9),
        "exclusive_minimum": st.floats(-9, 9),
        "exclusive_maximum": st.integers(-9, 9).map(float),
        "multiple_of": st.sampled_from([0.01, 0.5, 1.0, 3.0]),
    },
)
PATTERNS = [r"^\d+$", r"\w\s", r"^[^\n]*$", r"(a|e)", r"^.$", r"\\", r"'", r"\$", r"[$.]", r"^\S{2,}", r"\D\W"]
TEXT_RULES = st.fixed_dictionaries(
    {"required": st.booleans(), "unique": st.booleans()},
    optional={
        "min_length": st.integers(0, 4),
        "max_length": st.integers(1, 6),
        "pattern": st.sampled_from(PATTERNS),
        "allowed": st.lists(st.sampled_from([cell for cell in AWKWARD if cell]), min_size=1).map(tuple),
    },
)
PLAIN_RULES = st.fixed_dictionaries({"required": st.booleans(), "unique": st.booleans()})
RULES = {
    "string": TEXT_RULES,
    "integer": NUMBER_RULES,
    "number": NUMBER_RULES,
    "boolean": PLAIN_RULES,
    "date": PLAIN_RULES,
    "timestamp": PLAIN_RULES,
}


BIG_DRAWS = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


@st.composite
def contracts(draw: st.DrawFn) -> Contract:
    columns = [
        Column(name=f"{kind}_{index}", logical_type=kind, role="tabular", rules=Rules(**draw(rules)))
        for kind, rules in RULES.items()
        for index in range(2)
    ]
    picture = Column(name="picture", logical_type="string", role="image", rules=Rules(required=draw(st.booleans())))
    return contract_of(*columns, picture)


@st.composite
def batches(draw: st.DrawFn, contract: Contract) -> pa.Table:
    names = [column.name for column in contract.columns]
    rows = draw(st.lists(st.lists(CELLS, min_size=len(names), max_size=len(names)), max_size=25))
    return pa.table({name: pa.array([row[i] for row in rows], pa.string()) for i, name in enumerate(names)})


@settings(max_examples=6, parent=BIG_DRAWS)
@given(st.data())
def test_row_mask_and_great_expectations_agree_on_every_row(data):
    contract = data.draw(contracts())
    assert_judges_agree(contract, data.draw(batches(contract)))


@pytest.mark.slow
@settings(max_examples=80, parent=BIG_DRAWS)
@given(st.data())
def test_row_mask_and_great_expectations_agree_over_a_long_search(data):
    contract = data.draw(contracts())
    assert_judges_agree(contract, data.draw(batches(contract)))


def assert_judges_agree(contract: Contract, batch: pa.Table) -> None:
    masked = mask_rows(batch, contract)
    judged: list[set[str]] = [set() for _ in range(len(batch))]
    for judgement in judge_rows(batch, contract, ROW_BY_ROW, None):
        assert judgement.broken == len(judgement.rows)
        for row in judgement.rows:
            judged[row].add(judgement.meta["reason"])
    assert masked["row"].to_pylist() == list(range(len(batch)))
    assert [set(reasons) for reasons in masked["reasons"].to_pylist()] == judged


@settings(max_examples=30, parent=BIG_DRAWS)
@given(st.data())
def test_every_accepted_row_can_be_cast_to_its_types(data):
    contract = data.draw(contracts())
    batch = data.draw(batches(contract))
    is_accepted = [not reasons for reasons in mask_rows(batch, contract)["reasons"].to_pylist()]
    typed = type_rows(batch.filter(pa.array(is_accepted, pa.bool_())), contract)
    assert typed.schema == typed_schema(contract)
    assert len(typed) == sum(is_accepted)


@given(st.one_of(st.dates().map(str), st.from_regex(r"\A[0-9]{4}-[0-3][0-9]-[0-3][0-9]\Z")))
def test_date_pattern_matches_exactly_the_days_of_the_calendar(text):
    try:
        is_day = dt.date.fromisoformat(text).year >= 1000
    except ValueError:
        is_day = False
    assert bool(re.search(python_pattern(TYPE_PATTERNS["date"]), text)) == (is_day and text.isascii())


@settings(max_examples=20, deadline=None)
@given(st.lists(st.from_regex(python_pattern(TYPE_PATTERNS["number"])), min_size=1, max_size=50))
@example(["9" * 28 + "." + "9" * 40 + "E279"])
def test_every_text_that_looks_like_a_number_is_a_finite_double(texts):
    batch = pa.table({"item_id": [str(row) for row in range(len(texts))], "x": texts})
    typed = type_rows(batch, contract_of(NUMBER))["x"].to_pylist()
    assert typed == [float(text) for text in texts]
    assert all(abs(value) < float("inf") for value in typed)


NUMBER = Column(name="x", logical_type="number", role="tabular")


@pytest.mark.parametrize(
    ("logical_type", "rules", "value", "reasons"),
    [
        ("string", {"required": True}, "", ["required"]),
        ("string", {"max_length": 3}, "four", ["max_length"]),
        ("string", {"max_length": 2}, "é́", []),
        ("string", {"min_length": 2}, "👩", ["min_length"]),
        ("string", {"pattern": "^a+$"}, "aab", ["pattern"]),
        ("string", {"pattern": "^a+$"}, "aa\n", ["pattern"]),
        ("string", {"allowed": ("it's", "b")}, "it's", []),
        ("string", {"allowed": ("it's", "b")}, "c", ["allowed"]),
        ("integer", {}, "1.5", ["type"]),
        ("integer", {}, "007", []),
        ("integer", {"minimum": 8}, "+007.0", ["minimum"]),
        ("number", {"minimum": 0}, "-0.1", ["minimum"]),
        ("number", {"exclusive_maximum": 5}, "5", ["exclusive_maximum"]),
        ("number", {"maximum": 5}, "5", []),
        ("number", {"maximum": 5}, "five", ["type"]),
        ("number", {"multiple_of": 0.01}, "0.07", []),
        ("number", {"multiple_of": 0.01}, "0.071", ["multiple_of"]),
        ("number", {}, "NaN", ["type"]),
        ("boolean", {}, "yes", ["type"]),
        ("boolean", {}, "True", []),
        ("date", {}, "2023-02-29", ["type"]),
        ("date", {}, "2024-02-29", []),
        ("timestamp", {}, "2024-02-29T24:00:00", ["type"]),
    ],
)
def test_reason_names_the_rule_that_is_broken(logical_type, rules, value, reasons):
    assert reasons_of([value], logical_type=logical_type, rules=Rules(**rules)) == [reasons]


def test_missing_value_breaks_no_rule_but_required():
    rules = Rules(pattern="a", min_length=2, unique=True, allowed=("aa",))
    assert reasons_of([None, "", "aa"], logical_type="string", rules=rules) == [[], [], []]


def test_every_copy_of_a_repeated_value_is_named():
    assert reasons_of(["1", "2", "01"], logical_type="integer", rules=Rules(unique=True)) == [
        ["unique"],
        [],
        ["unique"],
    ]


def test_row_with_several_faults_has_several_reasons():
    rules = Rules(max_length=1, pattern="^b")
    assert reasons_of(["abc"], logical_type="string", rules=rules) == [["max_length", "pattern"]]


def test_quotes_in_a_rule_stay_data():
    hostile = "x') OR true; DROP TABLE batch; --"
    assert reasons_of([hostile, "y"], logical_type="string", rules=Rules(allowed=(hostile,))) == [[], ["allowed"]]


def test_columns_may_be_called_like_sql_or_like_our_own_names():
    names = ("select", "row", "reasons", "batch", "from")
    contract = contract_of(*(Column(name=name, logical_type="integer", role="tabular") for name in names))
    batch = pa.table({"item_id": ["a"], **{name: ["x"] for name in names}})
    assert mask_rows(batch, contract)["reasons"].to_pylist() == [[f"{name}:type" for name in names]]


def test_typed_rows_hold_the_values_that_were_written():
    kinds = ("string", "integer", "number", "boolean", "date", "timestamp")
    contract = contract_of(*(Column(name=f"a_{kind}", logical_type=kind, role="tabular") for kind in kinds))
    values = ["it's", "007", "1e3", "1", "2024-02-29 00:00:00", "2024-01-01T01:00:00+02:00"]
    batch = pa.table({"item_id": ["a", "b"], **{f"a_{k}": [v, ""] for k, v in zip(kinds, values, strict=True)}})
    typed = type_rows(batch, contract)
    instant = dt.datetime(2023, 12, 31, 23, tzinfo=dt.UTC)
    assert list(typed.to_pylist()[0].values()) == ["a", "it's", 7, 1000.0, True, dt.date(2024, 2, 29), instant]
    assert list(typed.to_pylist()[1].values()) == ["b", *[None] * 6]


def test_instant_without_an_offset_is_utc():
    contract = contract_of(Column(name="x", logical_type="timestamp", role="tabular"))
    typed = type_rows(pa.table({"item_id": ["a"], "x": ["2024-06-01 12:00"]}), contract)
    assert typed["x"].to_pylist() == [dt.datetime(2024, 6, 1, 12, tzinfo=dt.UTC)]


def test_parquet_types_are_judged_like_their_text():
    kinds = ("integer", "number", "boolean", "date", "timestamp")
    contract = contract_of(*(Column(name=f"a_{kind}", logical_type=kind, role="tabular") for kind in kinds))
    instant = dt.datetime(2024, 1, 1, 10, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    rows = {"a_integer": [3.0], "a_number": [1e20], "a_boolean": [True], "a_date": [dt.datetime(2024, 1, 1)]}
    batch = pa.table({"item_id": pa.array([12]), **rows, "a_timestamp": [instant]})
    assert mask_rows(batch, contract)["reasons"].to_pylist() == [[]]
    typed = type_rows(batch, contract).to_pylist()[0]
    assert typed["item_id"] == "12"
    assert typed["a_integer"] == 3
    assert typed["a_timestamp"] == instant


def test_media_bytes_count_as_present_unless_empty():
    contract = contract_of(Column(name="picture", logical_type="string", role="image", rules=Rules(required=True)))
    batch = pa.table({"item_id": ["a", "b", "c"], "picture": [b"\xff\x00", b"", None]})
    assert mask_rows(batch, contract)["reasons"].to_pylist() == [[], ["picture:required"], ["picture:required"]]
    assert "picture_sha256" in items_schema(contract).names


def test_rows_keep_their_order_in_a_large_batch():
    batch = pa.table({"item_id": [str(row % 99_999) for row in range(200_000)]})
    masked = mask_rows(batch, contract_of(NUMBER).model_copy(update={"columns": contract_of().columns}))
    assert masked["row"].to_pylist() == list(range(200_000))


def test_column_that_the_source_lacks_is_named():
    with pytest.raises(BatchRefused, match=r"no column x; of the contract's columns it has item_id, y\. Add"):
        mask_rows(pa.table({"item_id": ["a"], "y": ["1"]}), contract_of(NUMBER))


def rule(metric: str, operator: str, *value: float, column: str | None = None, unit: str = "rows") -> BatchRule:
    return BatchRule(metric=metric, operator=operator, value=value, column=column, unit=unit)


BATCH = pa.table({"item_id": ["a", "b", "c", "d"], "x": ["1", "1", "x", ""]})


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (rule("rowCount", ">", 4), r"rowCount > 4 \(found 4\)"),
        (rule("rowCount", "!=", 4), r"rowCount != 4 \(found 4\)"),
        (rule("rowCount", "between", 5, 9), r"rowCount between 5 and 9 \(found 4\)"),
        (rule("nullValues", "==", 0, column="x"), r"x\.nullValues == 0 \(found 1\)"),
        (rule("missingValues", "<=", 20, column="x", unit="percent"), r"percent <= 20 \(found 25\)"),
        (rule("duplicateValues", "<", 1, column="x"), r"x\.duplicateValues < 1 \(found 1\)"),
        (rule("invalidValues", "==", 0, column="x"), r"x\.invalidValues == 0 \(found 1\)"),
    ],
    ids=lambda case: case.metric if isinstance(case, BatchRule) else "",
)
def test_batch_that_breaks_a_batch_rule_is_refused_with_what_was_found(broken, message, tmp_path):
    with pytest.raises(BatchRefused, match=message):
        judge_batch(BATCH, contract_of(NUMBER, batch_rules=(broken,)), tmp_path)


def test_empty_batch_is_refused_where_rows_are_demanded(tmp_path):
    with pytest.raises(BatchRefused, match=r"rowCount > 0 \(found 0\)"):
        judge_batch(BATCH.slice(0, 0), contract_of(NUMBER, batch_rules=(rule("rowCount", ">", 0),)), tmp_path)


def test_verdict_counts_what_the_mask_counts_and_publishes_data_docs(tmp_path):
    contract = contract_of(NUMBER, batch_rules=(rule("rowCount", ">=", 4), rule("nullValues", "<", 2, column="x")))
    verdict = judge_batch(BATCH, contract, tmp_path)
    masked = Counter(code for codes in mask_rows(BATCH, contract)["reasons"].to_pylist() for code in codes)
    assert verdict.reasons == masked == {"x:type": 1}
    assert (verdict.rows, verdict.expectations) == (4, 5)
    assert verdict.docs == str(tmp_path / "shop-en" / "index.html")
    assert Path(verdict.docs).is_file()


def test_published_docs_hold_no_value_of_the_source(tmp_path):
    batch = pa.table({"item_id": ["a"], "x": ["<script>alert(1)</script>"]})
    judge_batch(batch, contract_of(NUMBER), tmp_path)
    assert not [page for page in tmp_path.rglob("*.html") if "alert(1)" in page.read_text("utf-8")]


def test_expectation_that_cannot_be_evaluated_is_an_error_not_a_pass():
    crashing = {
        "type": "expect_column_values_to_be_unique",
        "kwargs": {"column": "absent"},
        "meta": {"reason": "absent:unique"},
    }
    with pytest.raises(BatchRefused, match=r"could not evaluate .*absent:unique.* of shop-en"):
        run_suite("rows", pd.DataFrame({"x": [1]}), [crashing], contract_of(NUMBER), COUNTS_ONLY, None)


def test_batches_may_be_judged_from_several_threads(tmp_path):
    contracts = [contract_of(NUMBER).model_copy(update={"domain": f"shop-{number}"}) for number in range(4)]
    with ThreadPoolExecutor(4) as threads:
        verdicts = list(threads.map(lambda contract: judge_batch(BATCH, contract, tmp_path), contracts))
    assert [verdict.domain for verdict in verdicts] == [contract.domain for contract in contracts]
    assert all(verdict.reasons == {"x:type": 1} for verdict in verdicts)
