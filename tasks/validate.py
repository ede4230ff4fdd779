"""Judge a batch against its contract: row by row in DuckDB, and as a whole with Great Expectations.

The row mask decides which rows are quarantined; Great Expectations judges the batch and publishes what it saw.
"""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from data_contracts.arrow_schema import typed_schema
from data_contracts.contract import MEDIA_ROLES, BatchRule, Column, Contract
from data_contracts.errors import BatchRefused
from data_contracts.expectations import (
    Expectation,
    compile_batch_suite,
    compile_suite,
    describe,
    measure,
    remainder_column,
    value_column,
)
from data_contracts.patterns import python_pattern
from data_contracts.reports import BatchVerdict
from data_contracts.row_mask import TYPE_PATTERNS, compile_mask
from tasks.engine import engine

if TYPE_CHECKING:
    import pandas as pd

COUNTS_ONLY = {"result_format": "SUMMARY", "partial_unexpected_count": 0}
"""What is published: Data Docs print values unescaped, so a source could put a script there."""
ROW_BY_ROW = {"result_format": "COMPLETE"}
"""Which rows break each rule; slower, and never published."""

_ONE_CONTEXT = Lock()
"""Great Expectations keeps its current context in a global, so threads take turns."""


class Judgement(NamedTuple):
    """What Great Expectations found for one expectation."""

    meta: dict[str, str]
    is_met: bool
    broken: int
    rows: list[int]


def mask_rows(batch: pa.Table, contract: Contract) -> pa.Table:
    """Return `row` (int64, from 0) and `reasons` (list of codes, empty if the row is accepted) for every row.

    Raises:
        BatchRefused: a column of the contract is not in the batch.
    """
    return _query(compile_mask(contract).sql, _judged_columns(batch, contract))


def type_rows(accepted: pa.Table, contract: Contract) -> pa.Table:
    """Cast rows that `mask_rows` accepts to `typed_schema(contract)`: `item_id` and every column that is not media."""
    typed = _query(compile_mask(contract).typed_sql, _judged_columns(accepted, contract))
    return typed.cast(typed_schema(contract))


def judge_batch(batch: pa.Table, contract: Contract, docs: Path) -> BatchVerdict:
    """Run the contract's Great Expectations suites over `batch` and publish Data Docs in `docs/<domain>`.

    Rows that break a row rule are counted, not refused: the row mask sends them to quarantine.

    Raises:
        BatchRefused: a batch rule is broken, a column is missing, or an expectation could not be evaluated.
    """
    started = time.perf_counter()
    site = docs / contract.domain
    by_row = judge_rows(batch, contract, COUNTS_ONLY, site)
    by_rule = _judge_rules(batch, contract, site)
    return BatchVerdict(
        domain=contract.domain,
        rows=len(batch),
        expectations=len(by_row) + len(by_rule),
        reasons={judgement.meta["reason"]: judgement.broken for judgement in by_row if judgement.broken},
        docs=str(site / "index.html"),
        seconds=time.perf_counter() - started,
    )


def judge_rows(
    batch: pa.Table, contract: Contract, result_format: dict[str, Any], site: Path | None
) -> list[Judgement]:
    """Judge every row rule with Great Expectations; `site` None publishes nothing.

    Raises:
        BatchRefused: a column is missing, or an expectation could not be evaluated.
    """
    cells = _query(compile_mask(contract).cells_sql, _judged_columns(batch, contract))
    frame = _row_frame(cells, contract)
    return run_suite("rows", frame, compile_suite(contract), contract, result_format, site)


def _judge_rules(batch: pa.Table, contract: Contract, site: Path) -> list[Judgement]:
    if not contract.batch_rules:
        return []
    measures = _measure_rules(batch, contract)
    judgements = run_suite("batch", _one_row(measures), compile_batch_suite(contract), contract, COUNTS_ONLY, site)
    broken = [rule for rule in contract.batch_rules if {"rule": describe(rule)} in _broken_metas(judgements)]
    if broken:
        found = "; ".join(f"{describe(rule)} (found {measures[measure(rule)]:g})" for rule in broken)
        raise BatchRefused(
            f"The batch of {contract.domain} breaks its contract: {found}. Nothing was written. Correct the source, or "
            f"the rule if it is wrong; the report is {site / 'index.html'}.",
            domain=contract.domain,
            rules=[describe(rule) for rule in broken],
        )
    return judgements


def _broken_metas(judgements: Sequence[Judgement]) -> list[dict[str, str]]:
    return [judgement.meta for judgement in judgements if not judgement.is_met]


def _judged_columns(batch: pa.Table, contract: Contract) -> pa.Table:
    """Keep the contract's columns, with media bytes replaced by a word: here only their presence counts."""
    missing = [column.name for column in contract.columns if column.name not in batch.column_names]
    if missing:
        raise BatchRefused(
            f"The source of {contract.domain} has no column {', '.join(missing)}; of the contract's columns it has "
            f"{', '.join(batch.column_names) or 'none'}. Add the column to the source or take it out of the contract.",
            domain=contract.domain,
            missing=missing,
        )
    return pa.table({column.name: _judged_column(batch[column.name], column) for column in contract.columns})


def _judged_column(values: pa.ChunkedArray, column: Column) -> pa.ChunkedArray:
    kind = values.type
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    if column.role not in MEDIA_ROLES or not is_bytes:
        return values
    is_present = pc.fill_null(pc.greater(pc.binary_length(values), 0), False)
    return pc.if_else(is_present, pa.scalar("bytes"), pa.scalar(None, pa.string()))


def _query(sql: str, batch: pa.Table) -> pa.Table:
    with engine(1).cursor() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("batch", batch)
        try:
            return connection.sql(sql).to_arrow_table()
        except duckdb.NotImplementedException as exc:
            types = ", ".join(f"{field.name} {field.type}" for field in batch.schema)
            raise BatchRefused(
                f"The source has a column of a type that cannot be judged ({types}). Nothing was written. Write it as "
                "text, a number or a timestamp.",
                types=types,
            ) from exc


def _row_frame(cells: pa.Table, contract: Contract) -> "pd.DataFrame":
    """Return the cells and the columns derived from them that `data_contracts.expectations` speaks of."""
    frame: pd.DataFrame = cells.drop_columns(["_row"]).to_pandas()
    for column in contract.columns:
        if column.logical_type in ("integer", "number"):
            values = _numbers(cells[column.name], column.logical_type)
            frame[value_column(column.name)] = values
            if column.rules.multiple_of is not None:
                quotients = pc.divide(values, column.rules.multiple_of)
                frame[remainder_column(column.name)] = pc.abs(pc.subtract(quotients, pc.round(quotients)))
    return frame


def _numbers(cells: pa.ChunkedArray, logical_type: str) -> pa.Array:
    is_number = re.compile(python_pattern(TYPE_PATTERNS[logical_type])).search
    texts = cells.to_pylist()
    return pa.array([float(text) if text is not None and is_number(text) else None for text in texts], pa.float64())


def _one_row(measures: dict[str, float]) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame([measures])


def _measure_rules(batch: pa.Table, contract: Contract) -> dict[str, float]:
    cells = _query(compile_mask(contract).cells_sql, _judged_columns(batch, contract))
    reasons = mask_rows(batch, contract)["reasons"].to_pylist()
    return {measure(rule): _measure(rule, cells, reasons) for rule in contract.batch_rules}


def _measure(rule: BatchRule, cells: pa.Table, reasons: list[list[str]]) -> float:
    """Count rows: repeats of an earlier value are duplicates; rule breaks other than required and unique, invalid."""
    if rule.column is None:
        return float(len(cells))
    values = cells[rule.column]
    if rule.metric in ("nullValues", "missingValues"):
        count = values.null_count
    elif rule.metric == "duplicateValues":
        count = len(values) - values.null_count - pc.count_distinct(values, mode="only_valid").as_py()
    else:
        is_other = {f"{rule.column}:required", f"{rule.column}:unique"}
        count = sum(any(_column_of(code) == rule.column and code not in is_other for code in row) for row in reasons)
    return float(count) if rule.unit == "rows" else 100.0 * count / max(len(cells), 1)


def _column_of(code: str) -> str:
    return code.partition(":")[0]


def run_suite(
    name: str,
    frame: "pd.DataFrame",
    expectations: list[Expectation],
    contract: Contract,
    result_format: dict[str, Any],
    site: Path | None,
) -> list[Judgement]:
    """Run one suite over one frame through a checkpoint, which also publishes if there is a site.

    Raises:
        BatchRefused: an expectation could not be evaluated.
    """
    with _ONE_CONTEXT:
        checkpoint = _checkpoint(name, expectations, contract, result_format, site)
        run = checkpoint.run(batch_parameters={"dataframe": frame})
    (result,) = run.run_results.values()
    return [_judgement(found, contract) for found in result.results]


def _checkpoint(
    name: str, expectations: list[Expectation], contract: Contract, result_format: dict[str, Any], site: Path | None
) -> Any:
    """Return a checkpoint whose one validation takes a data frame; a suite must be in its context before it runs."""
    import great_expectations as gx
    from great_expectations.checkpoint import UpdateDataDocsAction

    context = _context(site)
    asset = context.data_sources.add_pandas(contract.domain).add_dataframe_asset(name)
    suite = context.suites.add(gx.ExpectationSuite(name=f"{contract.domain}-{name}", expectations=expectations))
    definition = gx.ValidationDefinition(
        name=name, data=asset.add_batch_definition_whole_dataframe("whole"), suite=suite
    )
    actions = [] if site is None else [UpdateDataDocsAction(name="publish", site_names=["docs"])]
    checkpoint = gx.Checkpoint(
        name=name,
        validation_definitions=[context.validation_definitions.add(definition)],
        actions=actions,
        result_format=result_format,
    )
    return context.checkpoints.add(checkpoint)


def _context(site: Path | None) -> Any:
    """Return a Great Expectations context in memory, silent, whose only files are the published site."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    files = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(site)}
    builder = {
        "class_name": "SiteBuilder",
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": files,
    }
    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(),
        data_docs_sites={} if site is None else {"docs": builder},
        analytics_enabled=False,
        progress_bars=ProgressBarsConfig(globally=False),
    )
    return gx.get_context(mode="ephemeral", project_config=config)


def _judgement(found: Any, contract: Contract) -> Judgement:
    """Read one result; a suite can look failed, or fine, when an expectation only crashed."""
    config, failure = found.expectation_config, found.exception_info
    if failure.get("raised_exception") is not False:
        raise BatchRefused(
            f"Great Expectations could not evaluate {config.meta} of {contract.domain}: "
            f"{_message(failure)}. Nothing was written. Take the rule out of the contract, or report this.",
            domain=contract.domain,
            expectation=config.to_json_dict(),
        )
    return Judgement(
        meta=dict(config.meta),
        is_met=bool(found.success),
        broken=int(found.result.get("unexpected_count", 0)),
        rows=list(found.result.get("unexpected_index_list") or []),
    )


def _message(failure: dict[str, Any]) -> str:
    """Find the message in an exception_info, which is that of one exception or of several by metric."""
    several = [info for info in failure.values() if isinstance(info, dict)] or [failure]
    messages = [" ".join(str(info.get("exception_message", info)).split()).rstrip(".") for info in several]
    return "; ".join(dict.fromkeys(messages))
