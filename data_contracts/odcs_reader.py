"""From a parsed document in the Open Data Contract Standard to a `Contract`, entry by entry.

Whatever could change which rows are accepted, and that the compiler does not support, is refused by name;
entries that only document (tags, owners, examples) are accepted. https://bitol-io.github.io/open-data-contract-standard/
"""

import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, cast, get_args

from open_data_contract_standard.model import (
    CustomProperty,
    DataQuality,
    OpenDataContractStandard,
    SchemaObject,
    SchemaProperty,
)
from open_data_contract_standard.model import Server as OdcsServer
from pydantic import ValidationError

from data_contracts.contract import (
    MEDIA_ROLES,
    TABULAR_VIEW,
    BatchRule,
    Column,
    Contract,
    Format,
    LogicalType,
    Role,
    Rules,
    Server,
)
from data_contracts.errors import ContractInvalid
from data_contracts.names import COLUMN_PATTERN, MODALITIES, check_domain
from data_contracts.patterns import check_pattern
from data_contracts.tables import ITEM_COLUMNS

API_VERSION = "v3.1.0"

_DOCUMENTATION = {"id", "description", "businessName", "tags", "authoritativeDefinitions", "deprecated", "synonyms"}
_CONTRACT_KEYS = {"apiVersion", "kind", "name", "version", "status", "servers", "schema"} | _DOCUMENTATION
_CONTRACT_KEYS |= {"tenant", "domain", "dataProduct", "team", "support", "price", "context", "contractCreatedTs"}
_SERVER_KEYS = {"id", "server", "type", "path", "format", "description", "environment"}
_TABLE_KEYS = {"name", "logicalType", "physicalName", "physicalType", "properties", "quality"} | _DOCUMENTATION
_TABLE_KEYS |= {"dataGranularityDescription", "context"}
_COLUMN_KEYS = {"name", "logicalType", "logicalTypeOptions", "required", "unique", "primaryKey", "enum"}
_COLUMN_KEYS |= {"customProperties", "quality", "classification", "criticalDataElement", "examples", "semanticType"}
_COLUMN_KEYS |= {"transformSourceObjects", "transformLogic", "transformDescription"} | _DOCUMENTATION
_ENUM_KEYS = {"id", "value", "label", "description", "tags", "authoritativeDefinitions"}
_CUSTOM_KEYS = {"id", "property", "value", "description"}
OPERATORS = {
    "mustBe": "==",
    "mustNotBe": "!=",
    "mustBeGreaterThan": ">",
    "mustBeGreaterOrEqualTo": ">=",
    "mustBeLessThan": "<",
    "mustBeLessOrEqualTo": "<=",
    "mustBeBetween": "between",
}
_QUALITY_KEYS = {"id", "name", "description", "dimension", "businessImpact", "tags", "authoritativeDefinitions"}
_QUALITY_KEYS |= {"type", "metric", "rule", "arguments", "unit"} | set(OPERATORS)
_METRICS = ("rowCount", "nullValues", "missingValues", "duplicateValues", "invalidValues")

_NUMBER_OPTIONS = {
    "minimum": "minimum",
    "maximum": "maximum",
    "exclusiveMinimum": "exclusive_minimum",
    "exclusiveMaximum": "exclusive_maximum",
    "multipleOf": "multiple_of",
}
_STRING_OPTIONS = {"minLength": "min_length", "maxLength": "max_length", "pattern": "pattern"}
OPTIONS: dict[str, dict[str, str]] = {
    "string": _STRING_OPTIONS,
    "integer": _NUMBER_OPTIONS,
    "number": _NUMBER_OPTIONS,
}
MEDIA_LIMITS = {"maxPixels": "max_pixels", "maxBytes": "max_bytes", "maxDuration": "max_duration_s"}
_CUSTOM_ROLES: dict[str, frozenset[str]] = {
    "maxPixels": frozenset({"image", "video"}),
    "maxBytes": MEDIA_ROLES,
    "maxDuration": frozenset({"audio", "video"}),
    "language": frozenset({"text", "audio", "video"}),
}
_ROLE_TYPES: dict[str, tuple[str, ...]] = {
    "id": ("string", "integer"),
    "label": ("string", "integer", "boolean"),
    "text": ("string",),
    "image": ("string",),
    "audio": ("string",),
    "video": ("string",),
    "tabular": get_args(LogicalType),
}


class ContractReader:
    """Turns one parsed document into a `Contract`; every refusal names the file and the place in it."""

    def __init__(self, source: str) -> None:
        self.source = source

    def refuse(self, where: str, problem: str, remedy: str) -> NoReturn:
        """Raise ContractInvalid: where, what was found, and what to do."""
        raise ContractInvalid(f"{self.source}: {where}: {problem}. {remedy}", source=self.source, where=where)

    def contract(self, document: dict[str, Any]) -> Contract:
        """Check the whole document and build the contract."""
        model = self.standard_model(document)
        self.known_keys("the contract", document, _CONTRACT_KEYS)
        self.header(model)
        table, raw_table = self.only_one("schema", model.schema_, document)
        server, raw_server = self.only_one("servers", model.servers, document)
        domain = check_domain(model.name or self.refuse("name", "is missing", "Name the domain, for example noto-ru."))
        pairs = [self.column(column, raw) for column, raw in self.properties(table, raw_table)]
        rules = [*(rule for _, column_rules in pairs for rule in column_rules), *self.table_rules(table, raw_table)]
        contract = Contract(
            domain=domain,
            version=model.version or self.refuse("version", "is missing", "Give one, for example 1.0.0."),
            description=(model.description.purpose or None) if model.description else None,
            server=self.server(server, raw_server),
            columns=tuple(column for column, _ in pairs),
            batch_rules=tuple(rules),
        )
        self.columns_together(contract)
        return contract

    def standard_model(self, document: dict[str, Any]) -> OpenDataContractStandard:
        """Check the document against the standard's own types."""
        try:
            return OpenDataContractStandard.model_validate(document)
        except ValidationError as exc:
            first = exc.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the contract"
            self.refuse(place, f"{first['msg']} (found {first['input']!r:.80})", "Correct it as ODCS v3.1 asks.")

    def known_keys(self, where: str, raw: Mapping[str, Any], known: set[str]) -> None:
        """Refuse the first entry that says something and is not in `known`."""
        for key, value in raw.items():
            if key not in known and value not in (None, False, -1, "", [], {}):
                self.refuse(where, f"{key!r} is not supported", f"Remove it; supported here: {_names(known)}.")

    def header(self, model: OpenDataContractStandard) -> None:
        """Check the standard's version and kind."""
        if not re.fullmatch(r"v3\.[01]\.\d+", model.apiVersion or ""):
            self.refuse(
                "apiVersion", f"{model.apiVersion!r} is not supported", f"Write the contract for {API_VERSION}."
            )
        if model.kind != "DataContract":
            self.refuse("kind", f"{model.kind!r} is not supported", "It must be DataContract.")

    def only_one(self, name: str, entries: list[Any] | None, document: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the only entry of a list, as the standard's model and as it was written."""
        if not entries or len(entries) != 1:
            self.refuse(
                name, f"{len(entries or [])} entries", "A domain has exactly one table: give exactly one entry."
            )
        return entries[0], document[name][0]

    def server(self, server: OdcsServer, raw: dict[str, Any]) -> Server:
        """Read where the source table is."""
        where = f"server {server.server!r}"
        self.known_keys(where, raw, _SERVER_KEYS)
        if server.type != "local":
            self.refuse(where, f"type {server.type!r} is not supported", "Use type local and a path or URI.")
        if server.format not in get_args(Format):
            self.refuse(where, f"format {server.format!r} is not supported", f"Use one of {_names(get_args(Format))}.")
        if not server.path or "\x00" in server.path:
            self.refuse(where, "has no usable path", "Give the table's path relative to the source directory.")
        return Server(path=server.path, format=cast(Format, server.format))

    def properties(self, table: SchemaObject, raw: dict[str, Any]) -> Iterator[tuple[SchemaProperty, dict[str, Any]]]:
        """Yield the table's columns, as the standard's model and as they were written."""
        where = f"schema {table.name!r}"
        self.known_keys(where, raw, _TABLE_KEYS)
        if table.logicalType not in (None, "object"):
            self.refuse(where, f"logicalType {table.logicalType!r} is not supported", "A table is an object.")
        if not table.properties:
            self.refuse(where, "has no properties", "List the columns of the source table.")
        yield from zip(table.properties, raw["properties"], strict=True)

    def column(self, model: SchemaProperty, raw: dict[str, Any]) -> tuple[Column, list[BatchRule]]:
        """Read one column and the batch rules written at it."""
        where = f"column {model.name!r}"
        self.known_keys(where, raw, _COLUMN_KEYS)
        if not re.fullmatch(COLUMN_PATTERN, model.name or ""):
            self.refuse(where, "is not a usable name", "Use a letter, then up to 62 letters, digits or underscores.")
        custom = self.custom_properties(where, model.customProperties or [], raw)
        role = self.role(where, model, custom)
        logical_type = self.logical_type(where, model, role)
        rules = {
            "required": bool(model.required or model.primaryKey),
            "unique": bool(model.unique or model.primaryKey),
            **self.options(where, model, role),
            **self.media_limits(where, role, custom),
            **self.enumeration(where, model, raw, logical_type),
        }
        batch_rules = [self.quality(where, *entry, rules=rules, column=model.name) for entry in _entries(model, raw)]
        self.rules_together(where, role, rules)
        column = Column(
            name=cast(str, model.name),
            logical_type=logical_type,
            role=role,
            language=self.language(where, custom),
            description=model.description or None,
            rules=Rules(**rules),
        )
        return column, [rule for rule in batch_rules if rule is not None]

    def custom_properties(self, where: str, entries: list[CustomProperty], raw: dict[str, Any]) -> dict[str, Any]:
        """Read the entries of customProperties that this platform defines."""
        known = ("modality", *_CUSTOM_ROLES)
        values: dict[str, Any] = {}
        for entry, raw_entry in zip(entries, raw.get("customProperties") or [], strict=True):
            self.known_keys(f"{where} customProperties", raw_entry, _CUSTOM_KEYS)
            if entry.property not in known:
                self.refuse(where, f"customProperty {entry.property!r} is unknown", f"Known: {_names(known)}.")
            if entry.property in values:
                self.refuse(where, f"customProperty {entry.property!r} is given twice", "Keep one.")
            values[entry.property] = entry.value
        return values

    def role(self, where: str, model: SchemaProperty, custom: dict[str, Any]) -> Role:
        """Decide what the column is for and check that its other custom properties fit."""
        modality = custom.get("modality")
        choices = (*MODALITIES, "label")
        if model.primaryKey and modality is not None:
            self.refuse(where, f"is the primary key and has modality {modality!r}", "Remove one of the two.")
        if not model.primaryKey and modality is None:
            self.refuse(where, "has no modality", f"Add a customProperty modality, one of {_names(choices)}.")
        if modality is not None and modality not in choices:
            self.refuse(where, f"modality {modality!r} is unknown", f"Use one of {_names(choices)}.")
        role = cast(Role, modality or "id")
        for name in custom.keys() - {"modality"}:
            if role not in _CUSTOM_ROLES[name]:
                meant = _names(_CUSTOM_ROLES[name])
                self.refuse(where, f"{name} does not apply to modality {role}", f"It is for {meant}: remove it.")
        return role

    def logical_type(self, where: str, model: SchemaProperty, role: Role) -> LogicalType:
        """Check that the column's type is supported for its role."""
        supported = _ROLE_TYPES[role]
        if model.logicalType not in supported:
            self.refuse(
                where, f"logicalType {model.logicalType!r} is not supported for {role}", f"Use {_names(supported)}."
            )
        return cast(LogicalType, model.logicalType)

    def options(self, where: str, model: SchemaProperty, role: Role) -> dict[str, Any]:
        """Read logicalTypeOptions: limits on length, value and form."""
        known = {} if role in MEDIA_ROLES else OPTIONS.get(cast(str, model.logicalType), {})
        values: dict[str, Any] = {}
        for name, value in (model.logicalTypeOptions or {}).items():
            if name not in known:
                supported = _names(known) or "none"
                self.refuse(where, f"option {name!r} is not supported", f"Remove it; supported here: {supported}.")
            values[known[name]] = self.option_value(f"{where} option {name}", name, value)
        return values

    def option_value(self, where: str, name: str, value: Any) -> float | int | str:
        """Check one limit's value."""
        if name == "pattern":
            return self.pattern(where, value)
        if name in ("minLength", "maxLength"):
            return self.whole_number(where, value, smallest=0)
        number = self.number(where, value)
        if name == "multipleOf" and number <= 0:
            self.refuse(where, f"{value!r} is not above zero", "Give a positive number.")
        return number

    def pattern(self, where: str, value: Any) -> str:
        """Check that both engines that judge rows read the expression alike."""
        if not isinstance(value, str):
            self.refuse(where, f"{value!r} is not a regular expression", "Give a quoted expression.")
        try:
            check_pattern(value)
        except ValueError as exc:
            self.refuse(where, f"{value!r} cannot be used: {exc}", "Write it without that.")
        return value

    def number(self, where: str, value: Any) -> float:
        """Check for a finite number."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
            self.refuse(where, f"{value!r:.80} is not a number", "Give a finite number without quotes.")
        return float(value)

    def whole_number(self, where: str, value: Any, smallest: int) -> int:
        """Check for an integer of at least `smallest`."""
        if isinstance(value, bool) or not isinstance(value, int) or not smallest <= value < 2**63:
            self.refuse(where, f"{value!r:.80} is not a whole number of at least {smallest}", "Correct it.")
        return value

    def media_limits(self, where: str, role: Role, custom: dict[str, Any]) -> dict[str, float | int]:
        """Read maxPixels, maxBytes and maxDuration (seconds)."""
        limits: dict[str, float | int] = {}
        for name in MEDIA_LIMITS.keys() & custom.keys():
            value = self.number(f"{where} {name}", custom[name])
            if value <= 0:
                self.refuse(f"{where} {name}", f"{custom[name]!r} is not above zero", "Give a positive number.")
            limits[MEDIA_LIMITS[name]] = (
                value if name == "maxDuration" else self.whole_number(f"{where} {name}", custom[name], smallest=1)
            )
        return limits

    def language(self, where: str, custom: dict[str, Any]) -> str | None:
        """Read the language of a text, as written in the contract."""
        language = custom.get("language")
        if language is not None and not (isinstance(language, str) and language):
            self.refuse(f"{where} language", f"{language!r} is not a language code", "Write a quoted code, as 'en'.")
        return language

    def enumeration(
        self, where: str, model: SchemaProperty, raw: dict[str, Any], logical_type: LogicalType
    ) -> dict[str, tuple[str, ...]]:
        """Read the allowed values given as `enum`."""
        if not model.enum:
            return {}
        for entry in raw["enum"]:
            self.known_keys(f"{where} enum", entry, _ENUM_KEYS)
        return {"allowed": self.allowed(f"{where} enum", [entry.value for entry in model.enum], logical_type)}

    def allowed(self, where: str, values: Any, logical_type: str | None) -> tuple[str, ...]:
        """Check a list of allowed values."""
        if logical_type != "string":
            self.refuse(where, f"is not supported for {logical_type}", "Use it on string columns only.")
        texts = isinstance(values, list) and all(isinstance(value, str) and "\x00" not in value for value in values)
        if not values or not texts or "" in values:
            self.refuse(where, f"{values!r:.80} is not a list of texts", "Quote each value; an empty one is missing.")
        return tuple(values)

    def table_rules(self, table: SchemaObject, raw: dict[str, Any]) -> list[BatchRule]:
        """Read the batch rules written at the table."""
        entries = zip(table.quality or [], raw.get("quality") or [], strict=True)
        rules = [self.quality(f"schema {table.name!r}", *entry, rules={}, column=None) for entry in entries]
        return [rule for rule in rules if rule is not None]

    def quality(
        self, where: str, entry: DataQuality, raw: dict[str, Any], *, rules: dict[str, Any], column: str | None
    ) -> BatchRule | None:
        """Read one quality entry; one that says the same as a row rule is added to `rules` instead."""
        metric = entry.metric or entry.rule
        where = f"{where} quality {metric or entry.type!r}"
        self.known_keys(where, raw, _QUALITY_KEYS)
        if entry.type not in (None, "library"):
            self.refuse(where, f"type {entry.type!r} is not supported", "Use type library.")
        if metric not in _METRICS:
            self.refuse(where, f"metric {metric!r} is not supported", f"Use one of {_names(_METRICS)}.")
        if (metric == "rowCount") == (column is not None):
            self.refuse(where, "is at the wrong level", "rowCount belongs to the table, the other metrics to a column.")
        operator, value = self.comparison(where, raw)
        unit = entry.unit or "rows"
        if unit not in ("rows", "percent") or (unit == "percent" and metric == "rowCount"):
            self.refuse(where, f"unit {unit!r} is not supported", "Use rows, or percent of rows at a column.")
        if entry.arguments:
            self.row_rule(where, metric, entry.arguments, (operator, value), rules)
            return None
        return BatchRule.model_validate(
            {"metric": metric, "column": column, "operator": operator, "value": value, "unit": unit}
        )

    def comparison(self, where: str, raw: dict[str, Any]) -> tuple[str, tuple[float, ...]]:
        """Read the one operator of a quality entry and what it compares with."""
        given = [key for key in OPERATORS if raw.get(key) is not None]
        if len(given) != 1:
            self.refuse(where, f"{len(given)} comparisons", f"Give exactly one of {_names(OPERATORS)}.")
        value = raw[given[0]]
        values = value if given[0] == "mustBeBetween" else [value]
        return OPERATORS[given[0]], tuple(self.number(f"{where} {given[0]}", item) for item in values)

    def row_rule(
        self,
        where: str,
        metric: str,
        arguments: dict[str, Any],
        comparison: tuple[str, tuple[float, ...]],
        rules: dict[str, Any],
    ) -> None:
        """Turn `invalidValues` with a list or a pattern, none allowed, into the row rule it is."""
        target = {"validValues": "allowed", "pattern": "pattern"}.get(next(iter(arguments)))
        if metric != "invalidValues" or len(arguments) != 1 or target is None or comparison != ("==", (0.0,)):
            self.refuse(
                where,
                f"arguments {_names(arguments)} are not supported",
                "Supported: invalidValues with validValues or pattern, and mustBe: 0.",
            )
        if rules.get(target) is not None:
            self.refuse(where, f"the column already has a rule on {target}", "Keep one of them.")
        value = next(iter(arguments.values()))
        rules[target] = self.pattern(where, value) if target == "pattern" else self.allowed(where, value, "string")

    def rules_together(self, where: str, role: Role, rules: dict[str, Any]) -> None:
        """Refuse rules that no value can meet, and rules on the path of a media file."""
        for lower, upper in (("minimum", "maximum"), ("min_length", "max_length")):
            if rules.get(lower) is not None and rules.get(upper) is not None and rules[lower] > rules[upper]:
                self.refuse(where, f"{lower} {rules[lower]:g} is above {upper} {rules[upper]:g}", "Correct the limits.")
        if role in MEDIA_ROLES and (rules["unique"] or rules.get("pattern") or rules.get("allowed")):
            self.refuse(where, f"unique, pattern and enum are not supported for {role}", "Remove them.")

    def columns_together(self, contract: Contract) -> None:
        """Check what no single column shows: one id, at most one label, a view, names that do not collide."""
        ids = [column.name for column in contract.columns if column.role == "id"]
        labels = [column.name for column in contract.columns if column.role == "label"]
        if len(ids) != 1:
            self.refuse("schema", f"{len(ids)} primary keys ({_names(ids) or 'none'})", "Mark one with primaryKey.")
        if len(labels) > 1:
            self.refuse("schema", f"{len(labels)} label columns ({_names(labels)})", "Keep at most one.")
        if not contract.columns_to_encode:
            self.refuse("schema", "no column to learn from", "Give at least one a modality other than label.")
        self.free_names(contract, ids[0])

    def free_names(self, contract: Contract, id_column: str) -> None:
        """Refuse names that the lake table or its queries would confuse."""
        taken = {name.lower() for name in ITEM_COLUMNS.names if name != id_column}
        for column in contract.columns:
            names = {column.name.lower()}
            names |= {f"{column.name.lower()}_sha256"} if column.role in MEDIA_ROLES else set()
            if names & taken:
                clash = _names(names & taken)
                self.refuse(f"column {column.name!r}", f"the name {clash} is taken", "Rename it; case does not count.")
            if column.name == TABULAR_VIEW and column.role not in ("tabular", "id", "label"):
                self.refuse(f"column {column.name!r}", "is the name of the view of all table columns", "Rename it.")
            taken |= names


def _entries(model: SchemaProperty, raw: dict[str, Any]) -> Iterator[tuple[DataQuality, dict[str, Any]]]:
    yield from zip(model.quality or [], raw.get("quality") or [], strict=True)


def _names(names: Any) -> str:
    return ", ".join(sorted(str(name) for name in names))
