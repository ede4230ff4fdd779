"""A contract as one HTML page that needs no network: what the table holds, and why a row would be quarantined."""

from functools import cache

from jinja2 import Environment, Template

from data_contracts.contract import Column, Contract
from data_contracts.expectations import describe

_RULES = {
    "required": "must not be empty",
    "unique": "no two rows may share a value",
    "minimum": "at least {:g}",
    "maximum": "at most {:g}",
    "exclusive_minimum": "above {:g}",
    "exclusive_maximum": "below {:g}",
    "multiple_of": "a multiple of {:g}",
    "min_length": "at least {} characters",
    "max_length": "at most {} characters",
    "pattern": "contains a match of {}",
    "allowed": "one of {}",
    "max_pixels": "at most {:,} pixels",
    "max_bytes": "at most {:,} bytes",
    "max_duration_s": "at most {:g} seconds",
}

_TYPES = {
    "integer": "a whole number below 1e18, such as -7",
    "number": "a number, such as -1.5 or 2e3",
    "boolean": "true, false, 1 or 0",
    "date": "a day such as 2024-02-29",
    "timestamp": "an instant such as 2024-02-29T12:00:00+02:00; UTC if no offset is given",
}

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Contract of {{ contract.domain }}</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; color: #1c2430; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
  table { border-collapse: collapse; width: 100%; margin: 1rem 0 2rem; }
  th, td { text-align: left; vertical-align: top; padding: .45rem .75rem .45rem 0; border-bottom: 1px solid #d8dee6; }
  code { background: #eef1f5; padding: .1rem .3rem; border-radius: .2rem; overflow-wrap: anywhere; }
  ul { margin: 0; padding-left: 1.1rem; }
  .quiet { color: #5b6675; }
</style>
</head>
<body>
<h1>{{ contract.domain }}</h1>
<p class="quiet">Contract version {{ contract.version }} · read from <code>{{ contract.server.path }}</code>
as {{ contract.server.format }}</p>
{% if contract.description %}<p>{{ contract.description }}</p>{% endif %}
<h2>Columns</h2>
<p>A row that breaks a rule is quarantined with the reason <code>column:rule</code>.</p>
<table>
<thead><tr><th>Column</th><th>Is</th><th>Type</th><th>Rules</th></tr></thead>
<tbody>
{% for column in contract.columns %}<tr>
<td><code>{{ column.name }}</code>{% if column.description %}<br>{{ column.description }}{% endif %}</td>
<td>{{ column.role }}{% if column.language %} ({{ column.language }}){% endif %}</td>
<td>{{ column.logical_type }}</td>
<td>{% if rules[column.name] %}<ul>
{% for rule, words in rules[column.name].items() %}<li><code>{{ rule }}</code> {{ words }}</li>
{% endfor %}</ul>{% else %}<span class="quiet">none</span>{% endif %}</td>
</tr>
{% endfor %}</tbody>
</table>
<h2>Views</h2>
<p>What is learned from: {% for view in contract.columns_to_encode %}<code>{{ view.name }}</code> ({{ view.modality
}}){{ ", " if not loop.last }}{% endfor %}.</p>
<h2>The whole batch</h2>
{% if batch_rules %}<p>A batch that breaks one of these is refused, and nothing of it is written.</p>
<ul>{% for rule in batch_rules %}<li><code>{{ rule }}</code></li>{% endfor %}</ul>
{% else %}<p class="quiet">No rule.</p>{% endif %}
</body>
</html>
"""


def contract_page(contract: Contract) -> str:
    """Return the documentation page of `contract`."""
    return _template().render(
        contract=contract,
        rules={column.name: _in_words(column) for column in contract.columns},
        batch_rules=[describe(rule) for rule in contract.batch_rules],
    )


@cache
def _template() -> Template:
    return Environment(autoescape=True, trim_blocks=True).from_string(_PAGE)


def _in_words(column: Column) -> dict[str, str]:
    limits = column.rules.model_dump(exclude_none=True, exclude_defaults=True)
    of_type = {"type": _TYPES[column.logical_type]} if column.logical_type in _TYPES else {}
    return of_type | {rule: _RULES[rule].format(_shown(value)) for rule, value in limits.items()}


def _shown(value: object) -> object:
    return ", ".join(value) if isinstance(value, tuple) else value
