"""A domain's contract file: YAML in the Open Data Contract Standard v3.1, read strictly and written back."""

from pathlib import Path
from typing import Any

import yaml

from data_contracts.contract import BatchRule, Column, Contract
from data_contracts.errors import ContractInvalid
from data_contracts.odcs_reader import API_VERSION, MEDIA_LIMITS, OPERATORS, OPTIONS, ContractReader

MAX_CONTRACT_BYTES = 1_000_000
MAX_ENTRIES = 100_000
"""Aliases let a few lines of YAML stand for any number of entries."""


def load_contract(path: Path, *, domain: str | None = None) -> Contract:
    """Read the contract file at `path`, which must be that of `domain` if one is named.

    Raises:
        ContractInvalid: the file is missing, cannot be read, holds something that is not supported, or is the contract
            of another domain.
    """
    try:
        if path.stat().st_size > MAX_CONTRACT_BYTES:
            raise ContractInvalid(
                f"{path} is larger than {MAX_CONTRACT_BYTES:,} bytes, which no contract needs: point to the YAML file "
                "of the contract, not to the data.",
                source=str(path),
            )
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as exc:
        raise ContractInvalid(
            f"{path} cannot be read as a contract: it is not UTF-8 text (byte {exc.start}). Save it as UTF-8 YAML.",
            source=str(path),
        ) from exc
    except OSError as exc:
        raise ContractInvalid(
            f"The contract {path} cannot be read: {exc.strerror or exc}. Give the path of a YAML file in the Open Data "
            "Contract Standard v3.1.",
            source=str(path),
        ) from exc
    contract = parse_contract(text, str(path))
    if domain not in (None, contract.domain):
        raise ContractInvalid(
            f"{path} is the contract of {contract.domain!r}, not of {domain!r}. Ingest it under its own name, or give "
            f"the contract that is named {domain!r}.",
            domain=domain,
            found=contract.domain,
        )
    return contract


def parse_contract(text: str, source: str) -> Contract:
    """Build the contract from YAML `text`; `source` names it in messages.

    Raises:
        ContractInvalid: the text is not a contract, or holds something that is not supported.
    """
    return ContractReader(source).contract(_read_yaml(text, source))


def dump_contract(contract: Contract) -> str:
    """Return the YAML that `parse_contract` turns back into `contract`."""
    document = {
        "apiVersion": API_VERSION,
        "kind": "DataContract",
        "id": f"urn:metafuse:{contract.domain}",
        "name": contract.domain,
        "version": contract.version,
        "status": "active",
        **({"description": {"purpose": contract.description}} if contract.description else {}),
        "servers": [
            {"server": "local", "type": "local", "path": contract.server.path, "format": contract.server.format}
        ],
        "schema": [_dump_table(contract)],
    }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML in which a key given twice is an error: plain YAML would keep the last one in silence."""


def _unique_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            problem = f"the key {key!r} is given twice"
            raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def _read_yaml(text: str, source: str) -> dict[str, Any]:
    try:
        document = yaml.load(text, Loader=_UniqueKeyLoader)  # a SafeLoader
        entries = _count_entries(document, {})
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as exc:
        problem = " ".join(str(exc).split())
        raise ContractInvalid(f"{source} is not readable YAML: {problem}. Correct that place.", source=source) from exc
    if entries > MAX_ENTRIES:
        raise ContractInvalid(
            f"{source} stands for more than {MAX_ENTRIES:,} entries once its aliases are written out, which no "
            "contract needs. Write the entries out, or use fewer aliases.",
            source=source,
        )
    if not isinstance(document, dict):
        raise ContractInvalid(
            f"{source} holds {type(document).__name__}, not a contract (a mapping of apiVersion, kind, name, version, "
            "servers, schema). Write it in the Open Data Contract Standard v3.1.",
            source=source,
        )
    return document


def _count_entries(value: Any, known: dict[int, int]) -> int:
    """Count what `value` holds with aliases written out, visiting each shared part once."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count_entries(part, known) for part in parts)
    return known[id(value)]


def _dump_table(contract: Contract) -> dict[str, Any]:
    table_rules = [_dump_batch_rule(rule) for rule in contract.batch_rules if rule.column is None]
    return {
        "name": "items",
        "logicalType": "object",
        "properties": [_dump_column(column, contract.batch_rules) for column in contract.columns],
        **({"quality": table_rules} if table_rules else {}),
    }


def _dump_column(column: Column, batch_rules: tuple[BatchRule, ...]) -> dict[str, Any]:
    rules = column.rules.model_dump(exclude_none=True)
    options = {
        odcs: _plain(rules[ours]) for odcs, ours in OPTIONS.get(column.logical_type, {}).items() if ours in rules
    }
    quality = [_dump_batch_rule(rule) for rule in batch_rules if rule.column == column.name]
    if column.rules.allowed is not None:
        quality.append(_dump_allowed(column.rules.allowed))
    custom = _dump_custom(column)
    entries: dict[str, Any] = {
        "name": column.name,
        "logicalType": column.logical_type,
        "description": column.description,
        "primaryKey": column.role == "id",
        "required": column.rules.required,
        "unique": column.rules.unique,
        "logicalTypeOptions": options,
        "customProperties": [{"property": name, "value": value} for name, value in custom.items()],
        "quality": quality,
    }
    return {key: value for key, value in entries.items() if value}


def _dump_custom(column: Column) -> dict[str, Any]:
    limits = {odcs: getattr(column.rules, ours) for odcs, ours in MEDIA_LIMITS.items()}
    modality = None if column.role == "id" else column.role
    custom = {"modality": modality, "language": column.language, **limits}
    return {name: value for name, value in custom.items() if value is not None}


def _dump_allowed(values: tuple[str, ...]) -> dict[str, Any]:
    return {"type": "library", "metric": "invalidValues", "arguments": {"validValues": list(values)}, "mustBe": 0}


def _dump_batch_rule(rule: BatchRule) -> dict[str, Any]:
    key = next(odcs for odcs, operator in OPERATORS.items() if operator == rule.operator)
    values = [_plain(value) for value in rule.value]
    value = values if rule.operator == "between" else values[0]
    unit = {"unit": rule.unit} if rule.unit != "rows" else {}
    return {"type": "library", "metric": rule.metric, key: value, **unit}


def _plain(value: Any) -> Any:
    """Write a whole number without its `.0`."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
