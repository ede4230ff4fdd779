"""Which encoder is in force for each view of a domain, and what fitted encoders have learned.

An encoder comes into force when every current item has its vector, so a reader never sees half a view.
"""

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from data_contracts.contract import View
from data_contracts.tables import ENCODER_STATES
from tasks.encoders import Encoder, default_encoders
from tasks.encoders.tabular import TabularEncoder
from tasks.lake import Lake, Snapshot

GROWTH_BEFORE_REFIT = 10
"""Table columns are fitted again when a domain has grown by this factor."""


def encoders_of(lake: Lake, domain: str, items: pa.Table, view: View) -> tuple[Encoder, ...]:
    """Return the encoders of one field of a domain; table columns keep their fitted encoder while it still suits."""
    if view.modality != "tabular":
        return default_encoders(view.modality)
    fitted = stored_tabular_encoder(lake, domain, view.name)
    if fitted and fitted.columns == view.columns and items.num_rows < GROWTH_BEFORE_REFIT * fitted.fitted_rows:
        return (fitted,)
    return (TabularEncoder.fit(items, view.columns),)


def stored_tabular_encoder(lake: Lake, domain: str, view: str) -> TabularEncoder | None:
    """Return the encoder of the domain's table columns that is in force, if one was ever fitted."""
    states = encoder_states(lake, domain)
    return TabularEncoder.from_state(states[view]["state_json"]) if view in states else None


def encoder_states(lake: Lake, domain: str, *, version: int | None = None) -> dict[str, dict[str, Any]]:
    """Return the newest row of `encoder_states` for each view of the domain: the encoder in force."""
    return _newest(lake.read("encoder_states", version=version, where=f"domain = '{domain}'"))


def _newest(states: pa.Table) -> dict[str, dict[str, Any]]:
    return {row["view"]: row for row in states.sort_by("at").to_pylist()}


def put_in_force(lake: Lake, domain: str, view: str, encoder: Encoder) -> None:
    """Make `encoder` the one that is read for a view; call it when every vector is in the lake."""
    state = encoder.state() if isinstance(encoder, TabularEncoder) else "{}"
    values = (domain, view, encoder.encoder_id, state, datetime.now(UTC))
    row = pa.Table.from_pylist([dict(zip(ENCODER_STATES.names, values, strict=True))], schema=ENCODER_STATES)

    def if_new(states: Snapshot) -> pa.Table:
        newest = _newest(states.read(where=f"domain = '{domain}'")).get(view)
        return row.slice(1) if newest and newest["encoder_id"] == encoder.encoder_id else row

    lake.transact("encoder_states", ENCODER_STATES, f"encoder/{domain}/{view}", if_new)
