"""Media are found by what they contain; what does not match its name is never handed out."""

import hashlib
from pathlib import Path

import pytest

from data_contracts.errors import LakeCorrupt
from tasks.media import MediaStore


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> MediaStore:
    return MediaStore(str(tmp_path / "media") if request.param == "folder" else f"memory://{tmp_path}")


def test_what_was_put_comes_back_by_its_hash(store: MediaStore):
    sha256 = store.put(b"pixels")
    assert sha256 == hashlib.sha256(b"pixels").hexdigest()
    assert store.put(b"pixels") == sha256
    assert store.get(sha256) == b"pixels"


def test_missing_objects_are_told_apart(store: MediaStore):
    there, absent = store.put(b"there"), hashlib.sha256(b"absent").hexdigest()
    assert store.missing([there, absent]) == {absent}
    with pytest.raises(LakeCorrupt, match="is not there"):
        store.get(absent)


def test_an_object_with_another_content_is_refused(tmp_path: Path):
    store = MediaStore(str(tmp_path))
    sha256 = store.put(b"pixels")
    (path,) = tmp_path.rglob(sha256)
    path.write_bytes(b"pixelz")
    with pytest.raises(LakeCorrupt, match="has the content of"):
        store.get(sha256)


def test_a_cut_off_object_is_written_again_and_nothing_temporary_stays(tmp_path: Path):
    store = MediaStore(str(tmp_path))
    sha256 = store.put(b"pixels")
    (path,) = tmp_path.rglob(sha256)
    path.write_bytes(b"pix")
    assert store.get(store.put(b"pixels")) == b"pixels"
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == [sha256]
