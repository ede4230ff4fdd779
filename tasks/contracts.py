"""The contract in force for each domain, kept in the lake so that later steps need no file."""

from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from data_contracts.contract import Contract
from data_contracts.errors import UnknownDomain
from data_contracts.names import check_domain
from data_contracts.odcs import parse_contract
from data_contracts.tables import CONTRACTS
from tasks.lake import Lake, Snapshot


def put_in_force(lake: Lake, contract: Contract, yaml: str) -> None:
    """Make `yaml`, which `contract` was read from, the domain's contract; the one in force already is not repeated."""
    row = {"domain": contract.domain, "version": contract.version, "yaml": yaml, "at": datetime.now(UTC)}
    rows = pa.Table.from_pylist([row], schema=CONTRACTS)

    def unless_in_force(stored: Snapshot) -> pa.Table:
        newest = _newest(stored.read(["yaml", "at"], f"domain = '{contract.domain}'"))
        return rows.slice(1) if newest == yaml else rows

    lake.transact("contracts", CONTRACTS, f"contract/{contract.domain}", unless_in_force)


def contract_in_force(lake: Lake, domain: str, *, version: int | None = None) -> Contract:
    """Return the contract that `domain` was last ingested under; `version` reads the table as it was.

    Raises:
        UnknownDomain: the domain was never ingested.
    """
    yaml = _newest(lake.read("contracts", version=version, where=f"domain = '{check_domain(domain)}'"))
    if yaml is None:
        known = ", ".join(lake.domains()) or "none"
        raise UnknownDomain(
            f"There is no domain {domain!r} in the lake {lake.uri}; domains there: {known}. Ingest it first: "
            f"metafuse ingest {domain} --contract FILE.",
            domain=domain,
        )
    return parse_contract(yaml, f"the contract of {domain} in the lake")


def _newest(rows: pa.Table) -> str | None:
    return None if len(rows) == 0 else str(rows["yaml"][pc.index(rows["at"], pc.max(rows["at"])).as_py()])
