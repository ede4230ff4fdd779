"""Media bytes by their SHA-256, in a folder or an object store; nobody else's path is ever kept."""

import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from data_contracts.errors import LakeCorrupt
from data_contracts.settings import get_settings


class MediaStore:
    """Objects named `sha256/ab/cd/abcd…` after their content; one that exists is never written again."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self._is_local = "://" not in self.uri
        self._filesystem: Any
        self._filesystem, self._root = url_to_fs(self.uri)

    def put(self, content: bytes) -> str:
        """Store `content` and return its SHA-256; another process sees the whole object or none."""
        sha256 = hashlib.sha256(content).hexdigest()
        path = self._path(sha256)
        if self._is_local:
            _write_once(Path(path), content)
        elif not self._filesystem.exists(path):
            self._filesystem.pipe_file(path, content)
        return sha256

    def get(self, sha256: str) -> bytes:
        """Return the object.

        Raises:
            LakeCorrupt: there is no such object, or its content has another hash.
        """
        try:
            content = bytes(self._filesystem.cat_file(self._path(sha256)))
        except FileNotFoundError as exc:
            raise self._corrupt(sha256, "is not there") from exc
        found = hashlib.sha256(content).hexdigest()
        if found != sha256:
            raise self._corrupt(sha256, f"has the content of {found}")
        return content

    def missing(self, wanted: Iterable[str]) -> set[str]:
        """Return those of the wanted objects that are not there."""
        if self._is_local:
            return {sha256 for sha256 in wanted if not Path(self._path(sha256)).exists()}
        return set(wanted) - {name.rpartition("/")[2] for name in self._filesystem.find(f"{self._root}/sha256")}

    def _path(self, sha256: str) -> str:
        return f"{self._root}/sha256/{sha256[:2]}/{sha256[2:4]}/{sha256}"

    def _corrupt(self, sha256: str, problem: str) -> LakeCorrupt:
        return LakeCorrupt(
            f"The object {sha256} of the media store {self.uri} {problem}. Restore it from a backup, or remove "
            "what is left of it and ingest the source it came from again.",
            sha256=sha256,
            uri=self.uri,
        )


def open_media() -> MediaStore:
    """Return the media store of this home."""
    return MediaStore(get_settings().media)


def _write_once(path: Path, content: bytes) -> None:
    """Write under a temporary name, flush to the disk, rename; a file of the right size is taken as written."""
    if path.exists() and path.stat().st_size == len(content):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
