"""The documentation page tells every rule, needs no network and trusts nothing it prints."""

import re

from data_contracts.odcs import parse_contract
from data_contracts.page import contract_page
from data_contracts.row_mask import reason_codes


def test_page_names_every_rule_a_row_can_break(shop_yaml):
    contract = parse_contract(shop_yaml, "shop.yaml")
    page = contract_page(contract)
    for code in reason_codes(contract):
        column, _, rule = code.partition(":")
        row = page.split(f"<td><code>{column}</code>")[1].split("</tr>")[0]
        assert f"<code>{rule}</code>" in row
    assert "at most 4,000,000 pixels" in page
    assert "rowCount between 1 and 1000" in page


def test_page_loads_nothing_and_escapes_what_a_contract_says(shop_yaml):
    hostile = shop_yaml.replace("As printed on the box", "<script>alert(1)</script>")
    page = contract_page(parse_contract(hostile, "shop.yaml"))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"https?:|src=|@import|url\(", page)
