"""The flow end to end, on a Prefect server of its own."""

from pathlib import Path

import pytest

from data_contracts.errors import ContractInvalid, SourceNotFound
from tasks.artifacts import ledger_rows, quarantine_rows
from tasks.features import load_domain
from tasks.lake import open_lake

pytestmark = pytest.mark.slow

CONTRACT = """\
apiVersion: v3.1.0
kind: DataContract
id: urn:test:toys
name: toys
version: 1.0.0
status: active
servers:
  - {server: local, type: local, path: items.csv, format: csv}
schema:
  - name: items
    logicalType: object
    properties:
      - {name: item_id, logicalType: string, primaryKey: true}
      - {name: title, logicalType: string, customProperties: [{property: modality, value: text}]}
      - {name: weight, logicalType: number, customProperties: [{property: modality, value: tabular}]}
      - {name: label, logicalType: string, customProperties: [{property: modality, value: label}]}
"""


@pytest.fixture
def contract(tmp_path: Path) -> Path:
    rows = [f"{label}{number},a {label} {number},{number},{label},x" for label in ("cat", "dog") for number in range(4)]
    (tmp_path / "items.csv").write_text(
        "\n".join(["item_id,title,weight,label,shade", *rows, "bad,anvil,heavy,,"]) + "\n"
    )
    path = tmp_path / "contract.yaml"
    path.write_text(CONTRACT)
    return path


def test_a_source_is_stored_embedded_shown_and_announced_once(server: None, contract: Path):
    from prefect.client.orchestration import get_client

    from flows.ingest_source import ingest_source

    first = ingest_source("toys", str(contract))
    again = ingest_source("toys", str(contract))
    assert [first[name] for name in ("received", "accepted", "quarantined", "duplicates")] == [9, 8, 1, 0]
    assert [again[name] for name in ("received", "accepted", "quarantined", "duplicates")] == [9, 0, 0, 9]
    assert {view["encoded"] for view in first["embedded"]["views"].values()} == {8}
    assert {view["encoded"] for view in again["embedded"]["views"].values()} == {0}

    lake = open_lake()
    data = load_domain(lake, "toys")
    assert (len(data), data.classes) == (8, ("cat", "dog"))
    assert bool(data.presence.all())
    assert {row["event"] for row in lake.read("outbox").to_pylist()} == {"metafuse.labels.arrived"}
    assert len({row["key"] for row in lake.read("outbox").to_pylist()}) == 1

    with get_client(sync_client=True) as client:
        found = client.request("POST", "/artifacts/filter", json={}).json()
        runs = client.request("POST", "/flow_runs/filter", json={}).json()
    assert {artifact["key"] for artifact in found} == {"ledger-toys", "quarantine-toys"}
    said = {artifact["description"] for artifact in found if artifact["key"] == "ledger-toys"}
    assert all(text.endswith(" Not in the contract, so not read: `shade`.") for text in said)
    assert {run["name"] for run in runs} == {"ingest-toys"}

    assert [row["accepted"] for row in ledger_rows(lake, "toys")] == [8]
    assert quarantine_rows(lake, "toys", first["batch_id"]) == [
        {"locator": "items.csv:10", "item_id": "bad", "reasons": "weight:type"}
    ]

    with pytest.raises(ContractInvalid, match="'toys', not of 'games'"):
        ingest_source("games", str(contract))
    (contract.parent / "items.csv").unlink()
    with pytest.raises(SourceNotFound, match=r"items\.csv"):
        ingest_source("toys", str(contract))
