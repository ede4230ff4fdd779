"""Every reason the mask can give has its expectation, and the other way round."""

from data_contracts.expectations import compile_batch_suite, compile_suite
from data_contracts.odcs import parse_contract
from data_contracts.row_mask import reason_codes


def test_expectations_carry_exactly_the_reasons_of_the_mask(shop_yaml):
    contract = parse_contract(shop_yaml, "shop.yaml")
    suite = compile_suite(contract)
    assert sorted(expectation["meta"]["reason"] for expectation in suite) == sorted(reason_codes(contract))
    assert reason_codes(contract) == (
        "item_id:required",
        "item_id:unique",
        "title:max_length",
        "title:pattern",
        "price:type",
        "price:minimum",
        "price:multiple_of",
        "colour:allowed",
    )


def test_batch_rules_are_expectations_over_their_measures(shop_yaml):
    suite = compile_batch_suite(parse_contract(shop_yaml, "shop.yaml"))
    between = "expect_column_values_to_be_between"
    assert suite == [
        {
            "type": between,
            "kwargs": {"column": "price.nullValues.percent", "max_value": 5.0, "strict_max": True},
            "meta": {"rule": "price.nullValues.percent < 5"},
        },
        {
            "type": between,
            "kwargs": {"column": "rowCount", "min_value": 1.0, "max_value": 1000.0},
            "meta": {"rule": "rowCount between 1 and 1000"},
        },
    ]
