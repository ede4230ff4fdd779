"""A home that was copied or moved: MLflow keeps whole paths of artifacts, so they are set to where the home is now."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

_FOLDERS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)
"""Where MLflow 3 keeps them: table and column."""


def follow_home(database: Path, artifacts: str) -> None:
    """Point what an MLflow database says of the artifacts of its home to `artifacts`, the URI of their folder today.

    Otherwise a copy would read the files of its original, and a home that was moved would have lost its models.
    A home's artifacts are known by the name of their folder; those in a folder of another name stay where they are.
    """
    if not database.exists():
        return
    with closing(sqlite3.connect(database)) as connection, connection:
        for before in _folders_before(connection, artifacts):
            for table, column in _FOLDERS:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, length(?) + 1) "
                    f"WHERE {column} = ? OR substr({column}, 1, length(?) + 1) = ? || '/'",
                    (artifacts, *(before,) * 4),
                )


def _folders_before(connection: sqlite3.Connection, artifacts: str) -> set[str]:
    """Return the folders of artifacts, all but that of today, in which experiments of metafuse have been put."""
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone() is None:
        return set()
    locations = connection.execute("SELECT artifact_location FROM experiments WHERE name LIKE 'metafuse/%'").fetchall()
    name = artifacts.rpartition("/")[2]
    found = (re.fullmatch(f"(file://.*/{re.escape(name)})(/.*)?", location) for (location,) in locations)
    return {match[1] for match in found if match} - {artifacts}
