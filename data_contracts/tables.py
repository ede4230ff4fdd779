"""Columns of the tables the platform itself writes; `items_<domain>` comes from the domain's contract instead.

Instants are UTC; `vector` has the encoder's dimension, which differs between encoders.
"""

import pyarrow as pa

INSTANT = pa.timestamp("us", tz="UTC")

ITEM_COLUMNS = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("batch_id", pa.string(), nullable=False),
        pa.field("content_sha256", pa.string(), nullable=False),
        pa.field("ingested_at", INSTANT, nullable=False),
    ]
)
"""What every items table has besides the contract's own columns."""

EMBEDDINGS = pa.schema(
    [
        pa.field("domain", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("view", pa.string(), nullable=False),
        pa.field("modality", pa.string(), nullable=False),
        pa.field("encoder_id", pa.string(), nullable=False),
        pa.field("content_sha256", pa.string(), nullable=False),
        pa.field("vector", pa.list_(pa.float32()), nullable=False),
    ]
)

ENCODER_STATES = pa.schema(
    [
        pa.field("domain", pa.string(), nullable=False),
        pa.field("view", pa.string(), nullable=False),
        pa.field("encoder_id", pa.string(), nullable=False),
        pa.field("state_json", pa.string(), nullable=False),
        pa.field("at", INSTANT, nullable=False),
    ]
)
"""What an encoder that is fitted on a domain (table columns) has learned, so that it can be applied again."""

LABELS = pa.schema(
    [
        pa.field("domain", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("at", INSTANT, nullable=False),
    ]
)

QUARANTINE = pa.schema(
    [
        pa.field("domain", pa.string(), nullable=False),
        pa.field("batch_id", pa.string(), nullable=False),
        pa.field("locator", pa.string(), nullable=False),
        pa.field("item_id", pa.string()),
        pa.field("reasons", pa.list_(pa.string()), nullable=False),
        pa.field("payload_json", pa.string(), nullable=False),
        pa.field("contract_version", pa.string(), nullable=False),
        pa.field("at", INSTANT, nullable=False),
    ]
)

BATCHES = pa.schema(
    [
        pa.field("domain", pa.string(), nullable=False),
        pa.field("batch_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("source_sha256", pa.string(), nullable=False),
        pa.field("contract_version", pa.string(), nullable=False),
        pa.field("received", pa.int64(), nullable=False),
        pa.field("accepted", pa.int64(), nullable=False),
        pa.field("quarantined", pa.int64(), nullable=False),
        pa.field("duplicates", pa.int64(), nullable=False),
        pa.field("reasons_json", pa.string(), nullable=False),
        pa.field("at", INSTANT, nullable=False),
    ]
)

PREDICTIONS = pa.schema(
    [
        pa.field("domain", pa.string(), nullable=False),
        pa.field("score_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("rung", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("probability", pa.float32(), nullable=False),
        pa.field("is_abstained", pa.bool_(), nullable=False),
        pa.field("probabilities_json", pa.string(), nullable=False),
        pa.field("uncertainty", pa.float32()),
        pa.field("cluster", pa.int64(), nullable=False),
        pa.field("cluster_stability", pa.float32()),
        pa.field("anomaly_score", pa.float32(), nullable=False),
        pa.field("is_anomaly", pa.bool_(), nullable=False),
        pa.field("ask", pa.int64()),
        pa.field("at", INSTANT, nullable=False),
    ]
)
"""`rung` is the step of the fallback ladder that answered: champion, prior_and_support, nearest_centroid, abstain.
`uncertainty` is how far the heads of an ensemble disagree, in nats; null: one head answered, or nobody.
`cluster` is -1 for an item in no group; `cluster_stability` is that of all groups of its run together.
`ask` is 1 for the item whose label would help most, 2 for the next, and so on; null: not asked for.
"""

DRIFT = pa.schema(
    [
        pa.field("domain", pa.string(), nullable=False),
        pa.field("drift_id", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("reference_items", pa.int64(), nullable=False),
        pa.field("recent_items", pa.int64(), nullable=False),
        pa.field("is_drifted", pa.bool_(), nullable=False),
        pa.field("why", pa.string(), nullable=False),
        pa.field("views_json", pa.string(), nullable=False),
        pa.field("at", INSTANT, nullable=False),
    ]
)
"""One comparison of a domain's recent items with those its champion was adapted among; `drift_id` digests both."""

PROMOTIONS = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),
        pa.field("alias", pa.string(), nullable=False),
        pa.field("from_version", pa.string()),
        pa.field("to_version", pa.string(), nullable=False),
        pa.field("who", pa.string(), nullable=False),
        pa.field("why", pa.string(), nullable=False),
        pa.field("numbers_json", pa.string(), nullable=False),
        pa.field("at", INSTANT, nullable=False),
    ]
)

OUTBOX = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("event", pa.string(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("payload_json", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("at", INSTANT, nullable=False),
    ]
)
"""Append-only: an event is `pending` until a row with the same key says `delivered`."""

CLAIMS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("holder", pa.string(), nullable=False),
        pa.field("at", INSTANT, nullable=False),
    ]
)
"""Who may do a piece of work: the latest row of a key counts, until its lease runs out."""

CONTRACTS = pa.schema(
    [
        pa.field("domain", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("yaml", pa.string(), nullable=False),
        pa.field("at", INSTANT, nullable=False),
    ]
)
"""The latest row of a domain is the contract in force."""

PLATFORM_TABLES: dict[str, tuple[pa.Schema, tuple[str, ...]]] = {
    "contracts": (CONTRACTS, ("domain",)),
    "embeddings": (EMBEDDINGS, ("domain",)),
    "encoder_states": (ENCODER_STATES, ("domain",)),
    "labels": (LABELS, ("domain",)),
    "quarantine": (QUARANTINE, ("domain",)),
    "batches": (BATCHES, ("domain",)),
    "predictions": (PREDICTIONS, ("domain",)),
    "drift": (DRIFT, ("domain",)),
    "promotions": (PROMOTIONS, ()),
    "outbox": (OUTBOX, ()),
    "claims": (CLAIMS, ()),
}
"""Each shared table's schema and the columns it is partitioned by."""
