"""A contract file is read whole or refused by name."""

import json
import time

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from open_data_contract_standard.model import OpenDataContractStandard

from data_contracts.contract import BatchRule, Column, Contract, Rules, Server
from data_contracts.errors import ContractInvalid
from data_contracts.odcs import dump_contract, load_contract, parse_contract


def test_contract_holds_what_the_file_says(shop_yaml):
    contract = parse_contract(shop_yaml, "shop.yaml")
    assert (contract.domain, contract.version, contract.description) == ("shop-en", "1.2.0", "Articles of the shop")
    assert contract.server == Server(path="shop/items.csv", format="csv")
    assert (contract.id_column, contract.label_column) == ("item_id", "label")
    assert [view.name for view in contract.columns_to_encode] == ["picture", "title", "tabular"]
    assert contract.column("picture").rules == Rules(max_pixels=4_000_000)
    assert contract.column("title").rules == Rules(max_length=500, pattern="^[^<]")
    assert contract.column("title").language == "en"
    assert contract.column("price").rules == Rules(minimum=0, multiple_of=0.01)
    assert contract.column("colour").rules == Rules(allowed=("red", "it's blue"))
    assert contract.batch_rules == (
        BatchRule(metric="nullValues", column="price", operator="<", value=(5,), unit="percent"),
        BatchRule(metric="rowCount", operator="between", value=(1, 1000)),
    )


def test_primary_key_is_required_and_unique_without_saying_so(shop_yaml):
    text = shop_yaml.replace("required: true, unique: true, ", "")
    assert parse_contract(text, "shop.yaml").column("item_id").rules == Rules(required=True, unique=True)


def test_enum_is_the_same_rule_as_valid_values(shop_yaml):
    text = shop_yaml.replace(
        "- {metric: invalidValues, arguments: {validValues: [red, it's blue]}, mustBe: 0}", "[]"
    ).replace("name: colour", "name: colour\n        enum: [{value: red}, {value: it's blue}]")
    assert parse_contract(text, "shop.yaml") == parse_contract(shop_yaml, "shop.yaml")


def test_dumped_contract_reads_back_and_is_valid_in_the_standard(shop_yaml):
    contract = parse_contract(shop_yaml, "shop.yaml")
    text = dump_contract(contract)
    assert parse_contract(text, "again") == contract
    jsonschema.validate(yaml.safe_load(text), json.loads(_standard_schema()))


def _standard_schema() -> str:
    from importlib.resources import files

    return files("open_data_contract_standard").joinpath("schema.json").read_text("utf-8")


TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=8)


@given(
    allowed=st.lists(TEXTS, min_size=1).map(tuple),
    description=st.none() | TEXTS,
    path=TEXTS,
    minimum=st.floats(-1e9, 1e9),
    required=st.booleans(),
)
def test_any_contract_survives_the_round_trip(allowed, description, path, minimum, required):
    contract = Contract(
        domain="d",
        version="0",
        server=Server(path=path, format="jsonl"),
        columns=(
            Column(name="key", logical_type="integer", role="id", rules=Rules(required=True, unique=True)),
            Column(
                name="c", logical_type="string", role="tabular", description=description, rules=Rules(allowed=allowed)
            ),
            Column(name="n", logical_type="number", role="tabular", rules=Rules(minimum=minimum, required=required)),
            Column(name="clip", logical_type="string", role="video", rules=Rules(max_duration_s=2.5, max_bytes=10)),
        ),
        batch_rules=(BatchRule(metric="duplicateValues", column="n", operator="!=", value=(3,)),),
    )
    assert parse_contract(dump_contract(contract), "dumped") == contract


PRICE = "logicalTypeOptions: {minimum: 0, multipleOf: 0.01}"
TITLE = 'logicalTypeOptions: {maxLength: 500, pattern: "^[^<]"}'


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("v3.1.0", "v2.2.0", r"apiVersion: 'v2\.2\.0' is not supported"),
        ("DataContract", "Thing", "kind: 'Thing' is not supported"),
        ("name: shop-en", "name: Shop EN", "'Shop EN' cannot name a domain"),
        ("version: 1.2.0", "version: 1.2", "version: Input should be a valid string"),
        ("tags: [shop]", "tag: [shop]", "tag: Extra inputs are not permitted"),
        ("tags: [shop]", "slaProperties: [{property: latency, value: 4}]", "'slaProperties' is not supported"),
        ("tags: [shop]", "tags: [a]\ntags: [b]", "'tags' is given twice"),
        ("type: local", "type: s3", "type 's3' is not supported"),
        ("format: csv", "format: avro", "format 'avro' is not supported"),
        ("format: csv", "format: csv, delimiter: ';'", "'delimiter' is not supported"),
        ("path: shop/items.csv, ", "", "server 'local': has no usable path"),
        ("value: image", "value: hologram", "column 'picture': modality 'hologram' is unknown"),
        ("{property: modality, value: image}, ", "", "column 'picture': has no modality"),
        ("property: maxPixels", "property: maxVoxels", "customProperty 'maxVoxels' is unknown"),
        ("value: 4000000", "value: many", "picture' maxPixels: 'many' is not a number"),
        ("value: 4000000", "value: 0", "picture' maxPixels: 0 is not above zero"),
        ("property: language", "property: maxPixels", "column 'title': maxPixels does not apply to modality text"),
        ("primaryKey: true", "primaryKey: false", "column 'item_id': has no modality"),
        ("value: label", "value: label}, {property: modality, value: label", "'modality' is given twice"),
        ("logicalType: number", "logicalType: array", "column 'price': logicalType 'array' is not supported"),
        ("        logicalType: number\n", "", "column 'price': logicalType None is not supported"),
        (PRICE, "logicalTypeOptions: {format: f32}", "column 'price': option 'format' is not supported"),
        (PRICE, "logicalTypeOptions: {minimum: '0'}", "price' option minimum: '0' is not a number"),
        (PRICE, "logicalTypeOptions: {minimum: .nan}", "price' option minimum: nan is not a number"),
        (PRICE, "logicalTypeOptions: {multipleOf: 0}", "multipleOf: 0 is not above zero"),
        (PRICE, "logicalTypeOptions: {minimum: 2, maximum: 1}", "minimum 2 is above maximum 1"),
        (TITLE, "logicalTypeOptions: {pattern: '(?=x)'}", r"pattern: '\(\?=x\)' cannot be used"),
        (TITLE, "logicalTypeOptions: {maxLength: -1}", "-1 is not a whole number of at least 0"),
        (TITLE, "encryptedName: t", "column 'title': 'encryptedName' is not supported"),
        (TITLE, "reqired: true", "column 'title': 'reqired' is not supported"),
        ("mustBeBetween", "mustNotBeBetween", "'mustNotBeBetween' is not supported"),
        ("mustBeBetween: [1, 1000]", "mustBe: 1, mustNotBe: 2", "2 comparisons"),
        ("mustBeBetween: [1, 1000]", "mustBe: lots", "mustBe: 'lots' is not a number"),
        ("metric: rowCount", "metric: freshness", "metric 'freshness' is not supported"),
        ("metric: rowCount", "metric: nullValues", "is at the wrong level"),
        ("metric: nullValues", "metric: nullValues, severity: warning", "'severity' is not supported"),
        (
            "metric: nullValues",
            "metric: missingValues, arguments: {missingValues: [n/a]}",
            "arguments missingValues are",
        ),
        (
            "type: library, metric: nullValues",
            "type: sql, metric: nullValues, query: SELECT 1",
            "'query' is not supported",
        ),
        ("unit: percent", "unit: furlongs", "unit 'furlongs' is not supported"),
        ("validValues: [red, it's blue]", "validValues: [1, 2]", "is not a list of texts"),
        ("name: colour", "name: Price", "column 'Price': the name price is taken"),
        ("name: colour", "name: batch_id", "column 'batch_id': the name batch_id is taken"),
        ("name: colour", "name: picture_sha256", "the name picture_sha256 is taken"),
        ("name: colour", 'name: "a\\"b"', "is not a usable name"),
        ("name: title", "name: tabular", "is the name of the view of all table columns"),
        (
            "value: tabular}]\n        quality:\n          - {metric",
            "value: label}]\n        quality:\n          - {metric",
            "2 label",
        ),
        (
            "value: image}",
            "value: image}, {property: maxDuration, value: 3}",
            "maxDuration does not apply to modality image",
        ),
    ],
)
def test_what_is_not_supported_is_refused_by_name(shop_yaml, old, new, message):
    assert old in shop_yaml
    with pytest.raises(ContractInvalid, match=message) as refused:
        parse_contract(shop_yaml.replace(old, new, 1), "shop.yaml")
    assert "\n" not in str(refused.value)


def test_only_one_table_per_domain(shop_yaml):
    with pytest.raises(ContractInvalid, match="schema: 2 entries"):
        parse_contract(shop_yaml + "  - {name: other, properties: []}\n", "shop.yaml")


def test_contract_without_a_view_is_refused(shop_yaml):
    text = shop_yaml[: shop_yaml.index("      - name: picture")]
    with pytest.raises(ContractInvalid, match="no column to learn from"):
        parse_contract(text, "shop.yaml")


def test_two_primary_keys_are_refused(shop_yaml):
    text = shop_yaml.replace(
        "    quality:\n      - {type",
        "      - {name: b, logicalType: string, primaryKey: true}\n    quality:\n      - {type",
    )
    with pytest.raises(ContractInvalid, match=r"2 primary keys \(b, item_id\)"):
        parse_contract(text, "shop.yaml")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "a: [", "just words", "!!python/object/apply:os.system ['true']", "? [a]\n: 1", "a: 2024-99-99", "\x00"],
)
def test_what_is_no_contract_is_refused_with_its_source(text):
    with pytest.raises(ContractInvalid, match=r"^odd\.yaml"):
        parse_contract(text, "odd.yaml")


def test_file_that_is_missing_or_not_text_is_refused(tmp_path):
    with pytest.raises(ContractInvalid, match=r"none\.yaml cannot be read: No such file"):
        load_contract(tmp_path / "none.yaml")
    with pytest.raises(ContractInvalid, match="cannot be read"):
        load_contract(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("größe".encode("latin-1"))
    with pytest.raises(ContractInvalid, match="not UTF-8"):
        load_contract(tmp_path / "latin.yaml")
    (tmp_path / "data.csv").write_bytes(b"x" * 1_000_001)
    with pytest.raises(ContractInvalid, match="larger than 1,000,000 bytes"):
        load_contract(tmp_path / "data.csv")


def test_file_is_read_as_it_is(tmp_path, shop_yaml):
    (tmp_path / "shop.yaml").write_text(shop_yaml, encoding="utf-8")
    assert load_contract(tmp_path / "shop.yaml") == parse_contract(shop_yaml, "shop.yaml")


def test_every_field_of_the_standard_is_either_read_or_refused(shop_yaml):
    document = yaml.safe_load(shop_yaml)
    fields = {field.alias or name for name, field in OpenDataContractStandard.model_fields.items()}
    silent = {"tenant", "tags", "dataProduct", "domain", "support", "price", "team", "authoritativeDefinitions"}
    silent |= {"contractCreatedTs", "context"}
    for field in fields - set(document) - silent:
        with pytest.raises(ContractInvalid, match=field):
            parse_contract(yaml.safe_dump(document | {field: _anything(field)}), "shop.yaml")


def _anything(field: str) -> object:
    lists = {"roles": [{"role": "r"}], "slaProperties": [{"property": "p"}], "customProperties": [{"property": "p"}]}
    return lists.get(field, "x")


ODD = st.sampled_from(
    [None, True, 0, -1, 1.5, float("inf"), "", "x", "\x00", [], [None], {}, {"a": 1}, [[]], [{}], {1: 2}]
)


def _places(node: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(place for key, value in entries for place in _places(value, (*path, key)))]


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_damaged_contract_is_read_or_refused_and_never_crashes(shop_yaml, data):
    document = yaml.safe_load(shop_yaml)
    *parents, last = data.draw(st.sampled_from(_places(document)[1:]))
    node = document
    for key in parents:
        node = node[key]
    if data.draw(st.booleans()):
        del node[last]
    else:
        node[last] = data.draw(ODD)
    try:
        contract = parse_contract(yaml.safe_dump(document), "damaged.yaml")
    except ContractInvalid:
        return
    assert parse_contract(dump_contract(contract), "again") == contract


def test_aliases_that_stand_for_a_million_entries_are_refused(shop_yaml):
    levels = "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(9))
    with pytest.raises(ContractInvalid, match="once its aliases are written out"):
        parse_contract(f"a0: &a0 [x]\n{levels}{shop_yaml}", "shop.yaml")


def test_time_to_refuse_a_contract_of_many_keys_grows_as_their_number():
    def seconds(count: int) -> float:
        text = "\n".join(f"k{n}: 1" for n in range(count))
        started = time.process_time()
        with pytest.raises(ContractInvalid, match="k0"):
            parse_contract(text, "many.yaml")
        return time.process_time() - started

    assert seconds(16_000) < 20 * min(seconds(2_000) for _ in range(3))


def test_a_limit_that_no_number_can_hold_is_refused(shop_yaml):
    with pytest.raises(ContractInvalid, match="is not a number"):
        parse_contract(shop_yaml.replace("minimum: 0", f"minimum: 1{'0' * 400}"), "shop.yaml")
