r"""A contract as DuckDB SQL: which rows break which rule, and the accepted rows in their types.

Both statements first bring every value to its canonical text, the *cell*: an empty text is a missing value, and an
integer loses a plus sign, leading zeros and a fraction of zeros. A type is then a pattern over cells that RE2 and
Python's `re` read alike (`TYPE_PATTERNS`), so the mask and the Great Expectations suite (`data_contracts.expectations`)
mean the same by it.
"""

from dataclasses import dataclass

from data_contracts.contract import MEDIA_ROLES, Column, Contract, Rules

_DAY = (
    r"(?:[1-9]\d{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)"
    r"|02-(?:0[1-9]|1\d|2[0-8]))|(?:[1-9]\d(?:0[48]|[2468][048]|[13579][26])|(?:[2468][048]|[13579][26])00)-02-29)"
).replace(r"\d", "[0-9]")
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,9})?)?"
_OFFSET = r"(?:Z|[+-](?:0[0-9]|1[0-4])(?::?[0-5][0-9])?)"

TYPE_PATTERNS: dict[str, str] = {
    "integer": r"^-?[0-9]{1,18}$",
    "number": r"^[+-]?(?:[0-9]{1,28}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})"
    r"(?:[eE](?:\+?(?:[01]?[0-9]{1,2}|2[0-7][0-9])|-[0-9]{1,3}))?$",
    "boolean": r"^(?:true|false|True|False|TRUE|FALSE|0|1)$",
    "date": rf"^{_DAY}(?:[ T]00:00:00(?:\.0{{1,9}})?)?$",
    "timestamp": rf"^{_DAY}(?:[ T]{_CLOCK}{_OFFSET}?)?$",
}
"""What a cell of each type looks like; every match can be cast (integers below 1e18, numbers below 1e308, years from
1000 on, seconds below 60). Text has no pattern: any text is text."""

_SQL_TYPES = {
    "string": "VARCHAR",
    "integer": "BIGINT",
    "number": "DOUBLE",
    "boolean": "BOOLEAN",
    "date": "DATE",
    "timestamp": "TIMESTAMPTZ",
}
NEAR_WHOLE = 1e-9
"""A number is a multiple of another if their quotient is this close to a whole number."""


@dataclass(frozen=True)
class RowMask:
    """SQL over a relation named `batch` that has the contract's columns, in any type that can be cast to text."""

    cells_sql: str
    """Yields `_row` (from 0, in the order of `batch`) and the cell of every column."""
    sql: str
    """Yields `row` and `reasons`, a VARCHAR[] of codes such as `title:max_length`; empty where the row is accepted."""
    typed_sql: str
    """Yields `arrow_schema.typed_schema` for every row, in order; each must be one that `sql` accepts.

    Text without an offset is an instant in the session's time zone: run it with `TimeZone` set to UTC.
    """


def compile_mask(contract: Contract) -> RowMask:
    """Compile the rules of every column; a media column is judged on being there, its content elsewhere."""
    cells = _cells_sql(contract)
    checks = [check for column in contract.columns for check in _checks(column)]
    reasons = ",\n    ".join(f"CASE WHEN {condition} THEN {_literal(code)} END" for code, condition in checks)
    return RowMask(
        cells_sql=cells,
        sql=f"WITH _cells AS ({cells})\nSELECT _row AS row, list_filter([\n    {reasons}\n"
        "], lambda reason: reason IS NOT NULL) AS reasons\nFROM _cells ORDER BY _row",
        typed_sql=f"WITH _cells AS ({cells})\nSELECT {_typed_columns(contract)}\nFROM _cells ORDER BY _row",
    )


def reason_codes(contract: Contract) -> tuple[str, ...]:
    """Return every reason code the mask of `contract` can give."""
    return tuple(code for column in contract.columns for code, _ in _checks(column))


def _cells_sql(contract: Contract) -> str:
    cells = ", ".join(f"{_cell(column)} AS {quote(column.name)}" for column in contract.columns)
    return f"SELECT row_number() OVER () - 1 AS _row, {cells} FROM batch"


def _cell(column: Column) -> str:
    text = f"CAST({quote(column.name)} AS VARCHAR)"
    if column.logical_type == "integer":
        text = rf"regexp_replace({text}, '^(?:\+|(-))?0*([0-9]+)(?:\.0+)?$', '\1\2')"
    return f"nullif({text}, '')"


def _typed_columns(contract: Contract) -> str:
    typed = [
        f"{_cast(column)} AS {quote(column.name)}"
        for column in contract.columns
        if column.role not in MEDIA_ROLES and column.name != "item_id"
    ]
    return ", ".join([f"{quote(contract.id_column)} AS item_id", *typed])


def _cast(column: Column) -> str:
    name = quote(column.name)
    text = f"left({name}, 10)" if column.logical_type == "date" else name
    return f"CAST({text} AS {_SQL_TYPES[column.logical_type]})"


def _checks(column: Column) -> list[tuple[str, str]]:
    """Return each rule's reason code and the SQL condition, never NULL-safe by itself, under which it is broken."""
    name, rules = quote(column.name), column.rules
    checks = [
        ("required", f"{name} IS NULL" if rules.required else None),
        ("type", _type_check(column)),
        ("unique", f"{name} IS NOT NULL AND count(*) OVER (PARTITION BY {name}) > 1" if rules.unique else None),
        *_text_checks(name, rules),
        *_number_checks(name, rules, column.logical_type),
    ]
    return [(f"{column.name}:{rule}", condition) for rule, condition in checks if condition is not None]


def _type_check(column: Column) -> str | None:
    pattern = TYPE_PATTERNS.get(column.logical_type)
    return None if pattern is None else f"NOT regexp_matches({quote(column.name)}, {_literal(pattern)})"


def _text_checks(name: str, rules: Rules) -> list[tuple[str, str | None]]:
    allowed = None if rules.allowed is None else ", ".join(_literal(value) for value in rules.allowed)
    return [
        ("min_length", None if rules.min_length is None else f"length({name}) < {rules.min_length}"),
        ("max_length", None if rules.max_length is None else f"length({name}) > {rules.max_length}"),
        ("pattern", None if rules.pattern is None else f"NOT regexp_matches({name}, {_literal(rules.pattern)})"),
        ("allowed", None if allowed is None else f"{name} NOT IN ({allowed})"),
    ]


def _number_checks(name: str, rules: Rules, logical_type: str) -> list[tuple[str, str | None]]:
    pattern = TYPE_PATTERNS.get(logical_type, "")
    value = f"CASE WHEN regexp_matches({name}, {_literal(pattern)}) THEN TRY_CAST({name} AS DOUBLE) END"
    limits = [
        ("minimum", "<", rules.minimum),
        ("maximum", ">", rules.maximum),
        ("exclusive_minimum", "<=", rules.exclusive_minimum),
        ("exclusive_maximum", ">=", rules.exclusive_maximum),
    ]
    checks = [(rule, None if limit is None else f"{value} {sign} {_number(limit)}") for rule, sign, limit in limits]
    return [*checks, ("multiple_of", None if rules.multiple_of is None else _not_multiple(value, rules.multiple_of))]


def _not_multiple(value: str, unit: float) -> str:
    quotient = f"({value} / {_number(unit)})"
    return f"abs({quotient} - round({quotient})) > {_number(NEAR_WHOLE)}"


def quote(name: str) -> str:
    """Return `name` as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _number(value: float) -> str:
    return f"CAST('{float(value)!r}' AS DOUBLE)"
