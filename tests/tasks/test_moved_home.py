import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
import pytest

from data_contracts.errors import ModelRefused
from data_contracts.settings import use_home
from tasks.moved_home import follow_home
from tasks.registry import load_domain_model, read_package, resolve
from tasks.tracking import tracked_run


def files_of(run_id: str) -> Path:
    return Path(mlflow.MlflowClient().get_run(run_id).info.artifact_uri.removeprefix("file://"))


@pytest.fixture
def original(home_with_champion: Path, home: Path, tmp_path: Path) -> Path:
    """A home with a champion, none of whose files lie where they were written first."""
    shutil.copytree(home_with_champion, home, dirs_exist_ok=True)
    resolve("metafuse.two")
    return home


def test_home_that_was_moved_keeps_its_models_and_takes_new_runs(original: Path, tmp_path: Path):
    moved = use_home(Path(shutil.move(original, tmp_path / "a home's new place"))).home
    model, _ = load_domain_model("two")
    assert model.classes
    with tracked_run("adapt", "next", {}, {}) as run:
        run.text("note.txt", "here")
    assert files_of(run.run_id).is_relative_to(moved.as_uri().removeprefix("file://"))
    assert [path.read_text() for path in moved.rglob("note.txt")] == ["here"]
    assert not original.exists()


def test_copy_reads_its_own_files_and_leaves_the_original_alone(original: Path, tmp_path: Path):
    use_home(Path(shutil.copytree(original, tmp_path / "copy")))
    for weights in (original / "mlartifacts").rglob("weights.safetensors"):
        weights.write_bytes(b"")
    assert read_package(resolve("metafuse.two")).weights
    use_home(original)
    with pytest.raises(ModelRefused):
        read_package(resolve("metafuse.two"))


def test_artifacts_that_were_in_no_home_stay_where_they_are(original: Path):
    database = original / "mlflow.db"
    places = {"elsewhere": "s3://bucket/mlartifacts", "near": "file:///srv/mlartifacts-of-others/3"}
    with closing(sqlite3.connect(database)) as connection, connection:
        for name, place in places.items():
            connection.execute(
                "INSERT INTO experiments (name, artifact_location, lifecycle_stage) VALUES (?, ?, 'active')",
                (f"metafuse/{name}", place),
            )
    follow_home(database, "file:///new/mlartifacts")
    with closing(sqlite3.connect(database)) as connection:
        found = dict(connection.execute("SELECT name, artifact_location FROM experiments").fetchall())
    assert {name: found[f"metafuse/{name}"] for name in places} == places
    assert found["metafuse/adapt"] == "file:///new/mlartifacts"


def test_database_that_is_not_there_or_has_no_tables_yet_is_left_alone(tmp_path: Path):
    database = tmp_path / "mlflow.db"
    follow_home(database, "file:///new/mlartifacts")
    assert not database.exists()
    database.touch()
    follow_home(database, "file:///new/mlartifacts")
    assert database.read_bytes() == b""
