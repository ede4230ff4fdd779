"""Schemas follow from the contract."""

import pyarrow as pa

from data_contracts.arrow_schema import items_schema, source_schema, typed_schema
from data_contracts.odcs import parse_contract


def test_source_is_read_as_text(shop_yaml):
    schema = source_schema(parse_contract(shop_yaml, "shop.yaml"))
    assert schema.names == ["item_id", "picture", "title", "price", "colour", "label"]
    assert set(schema.types) == {pa.string()}


def test_lake_table_holds_the_hash_of_media_and_the_platforms_columns(shop_yaml):
    schema = items_schema(parse_contract(shop_yaml, "shop.yaml"))
    own = ["item_id", "batch_id", "content_sha256", "ingested_at"]
    assert schema.names == ["picture_sha256", "title", "price", "colour", "label", *own]
    assert schema.field("price").type == pa.float64()
    assert schema.field("picture_sha256").type == pa.string()


def test_key_of_another_name_is_kept_in_its_own_type_beside_item_id(shop_yaml):
    text = shop_yaml.replace("name: item_id, logicalType: string", "name: sku, logicalType: integer")
    schema = typed_schema(parse_contract(text, "shop.yaml"))
    assert schema.names == ["item_id", "sku", "title", "price", "colour", "label"]
    assert schema.field("item_id").type == pa.string()
    assert schema.field("sku").type == pa.int64()
