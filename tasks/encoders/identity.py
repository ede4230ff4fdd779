"""Names of encoders: equal names promise equal vectors."""

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path


def encoder_id(model: str, package: str, files: Sequence[Path], preprocessing: int) -> str:
    """Return a name for `model` from its package's version, the bytes of its files and our preprocessing's version."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"{model}-{version(package)}-{digest.hexdigest()[:12]}-p{preprocessing}"
