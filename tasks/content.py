"""The content of one field of an item: what an encoder is fed, and the hash its vector is stored under."""

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from data_contracts.arrow_schema import media_hash_column
from data_contracts.contract import View

Content = str | Mapping[str, Any]
"""A text, or a row of table columns; media are looked up by their hash."""


def content_hashes(items: pa.Table, field: View) -> list[str | None]:
    """Return the SHA-256 of `field` for each item, None where the item does not have it."""
    if field.modality not in ("text", "tabular"):
        hashes: list[str | None] = items.column(media_hash_column(field.name)).to_pylist()
        return hashes
    return [None if content is None else content_hash(content) for content in contents(items, field)]


def contents(items: pa.Table, field: View) -> Sequence[Content | None]:
    """Return the text or the table row of each item, None where it is missing."""
    if field.modality == "text":
        return [clean_text(text) for text in items.column(field.name).cast(pa.string()).to_pylist()]
    rows: list[dict[str, Any]] = items.select(list(field.columns)).to_pylist()
    return [row if any(value is not None for value in row.values()) else None for row in rows]


def clean_text(text: str | None) -> str | None:
    """Return `text` in Unicode's composed form without outer blanks; None if nothing is left."""
    return unicodedata.normalize("NFC", text or "").strip() or None


def content_hash(content: Content) -> str:
    """Return the SHA-256 of a text or of a table row; the order of its columns does not matter."""
    text = content if isinstance(content, str) else json.dumps(dict(content), sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
