"""A contract file as a user writes it."""

import pytest

SHOP = """\
apiVersion: v3.1.0
kind: DataContract
id: urn:metafuse:shop-en
name: shop-en
version: 1.2.0
status: active
description: {purpose: Articles of the shop}
tags: [shop]
servers:
  - {server: local, type: local, path: shop/items.csv, format: csv}
schema:
  - name: items
    logicalType: object
    properties:
      - {name: item_id, logicalType: string, required: true, unique: true, primaryKey: true}
      - name: picture
        logicalType: string
        customProperties: [{property: modality, value: image}, {property: maxPixels, value: 4000000}]
      - name: title
        logicalType: string
        description: As printed on the box
        logicalTypeOptions: {maxLength: 500, pattern: "^[^<]"}
        customProperties: [{property: modality, value: text}, {property: language, value: en}]
      - name: price
        logicalType: number
        logicalTypeOptions: {minimum: 0, multipleOf: 0.01}
        customProperties: [{property: modality, value: tabular}]
        quality:
          - {type: library, metric: nullValues, mustBeLessThan: 5, unit: percent}
      - name: colour
        logicalType: string
        customProperties: [{property: modality, value: tabular}]
        quality:
          - {metric: invalidValues, arguments: {validValues: [red, it's blue]}, mustBe: 0}
      - name: label
        logicalType: string
        customProperties: [{property: modality, value: label}]
    quality:
      - {type: library, metric: rowCount, mustBeBetween: [1, 1000]}
"""


@pytest.fixture(scope="session")
def shop_yaml() -> str:
    return SHOP
