"""A contract as Great Expectations: one expectation per row rule, and one per rule on the whole batch.

Plain dictionaries, so that nothing here imports Great Expectations. Row expectations are over the cells of
`data_contracts.row_mask`; where a rule is about a number, over columns derived from them: `price.value`, and
`price.remainder`, the distance of its quotient by `multiple_of` to the nearest whole number.
"""

from typing import Any

from data_contracts.contract import BatchRule, Column, Contract
from data_contracts.patterns import python_pattern
from data_contracts.row_mask import NEAR_WHOLE, TYPE_PATTERNS

Expectation = dict[str, Any]

_BETWEEN = "expect_column_values_to_be_between"
_LENGTHS = "expect_column_value_lengths_to_be_between"
_REGEX = "expect_column_values_to_match_regex"


def compile_suite(contract: Contract) -> list[Expectation]:
    """Return the row expectations; `meta.reason` is the row mask's code for the same rule."""
    return [expectation for column in contract.columns for expectation in _expectations(column)]


def compile_batch_suite(contract: Contract) -> list[Expectation]:
    """Return the batch expectations, over one row with a column `measure(rule)` per rule; `meta.rule` says the rule."""
    return [
        {"type": kind, "kwargs": {"column": measure(rule), **kwargs}, "meta": {"rule": describe(rule)}}
        for rule in contract.batch_rules
        for kind, kwargs in [_comparison(rule)]
    ]


def value_column(column: str) -> str:
    """Name of the derived column that holds a numeric cell as a number."""
    return f"{column}.value"


def remainder_column(column: str) -> str:
    """Name of the derived column that is near zero where a number is a multiple of what the rule says."""
    return f"{column}.remainder"


def measure(rule: BatchRule) -> str:
    """Name of what a batch rule compares: `rowCount`, `title.nullValues` or `title.nullValues.percent`."""
    parts = (rule.column, rule.metric, "percent" if rule.unit == "percent" else None)
    return ".".join(part for part in parts if part)


def describe(rule: BatchRule) -> str:
    """Return the rule in words: `rowCount > 0`."""
    values = " and ".join(f"{value:g}" for value in rule.value)
    return f"{measure(rule)} {rule.operator} {values}"


def _expectations(column: Column) -> list[Expectation]:
    name, rules = column.name, column.rules
    value, remainder = {"column": value_column(name)}, {"column": remainder_column(name)}
    text, type_pattern = {"column": name}, TYPE_PATTERNS.get(column.logical_type)
    candidates: list[tuple[str, Any, str, dict[str, Any]]] = [
        ("required", rules.required or None, "expect_column_values_to_not_be_null", text),
        ("type", type_pattern, _REGEX, {**text, "regex": python_pattern(type_pattern or "")}),
        ("unique", rules.unique or None, "expect_column_values_to_be_unique", text),
        ("min_length", rules.min_length, _LENGTHS, {**text, "min_value": rules.min_length}),
        ("max_length", rules.max_length, _LENGTHS, {**text, "max_value": rules.max_length}),
        ("pattern", rules.pattern, _REGEX, {**text, "regex": python_pattern(rules.pattern or "")}),
        (
            "allowed",
            rules.allowed,
            "expect_column_values_to_be_in_set",
            {**text, "value_set": list(rules.allowed or ())},
        ),
        ("minimum", rules.minimum, _BETWEEN, {**value, "min_value": rules.minimum}),
        ("maximum", rules.maximum, _BETWEEN, {**value, "max_value": rules.maximum}),
        (
            "exclusive_minimum",
            rules.exclusive_minimum,
            _BETWEEN,
            {**value, "min_value": rules.exclusive_minimum, "strict_min": True},
        ),
        (
            "exclusive_maximum",
            rules.exclusive_maximum,
            _BETWEEN,
            {**value, "max_value": rules.exclusive_maximum, "strict_max": True},
        ),
        ("multiple_of", rules.multiple_of, _BETWEEN, {**remainder, "max_value": NEAR_WHOLE}),
    ]
    return [
        {"type": kind, "kwargs": kwargs, "meta": {"reason": f"{name}:{rule}"}}
        for rule, limit, kind, kwargs in candidates
        if limit is not None
    ]


def _comparison(rule: BatchRule) -> tuple[str, dict[str, Any]]:
    first, last = rule.value[0], rule.value[-1]
    comparisons: dict[str, tuple[str, dict[str, Any]]] = {
        "==": ("expect_column_values_to_be_in_set", {"value_set": [first]}),
        "!=": ("expect_column_values_to_not_be_in_set", {"value_set": [first]}),
        ">": (_BETWEEN, {"min_value": first, "strict_min": True}),
        ">=": (_BETWEEN, {"min_value": first}),
        "<": (_BETWEEN, {"max_value": first, "strict_max": True}),
        "<=": (_BETWEEN, {"max_value": first}),
        "between": (_BETWEEN, {"min_value": first, "max_value": last}),
    }
    return comparisons[rule.operator]
