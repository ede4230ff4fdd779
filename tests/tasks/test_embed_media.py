"""All five modalities through the media store, the decoders and the encoders."""

import hashlib

import numpy as np
import pytest
from clips import clip, picture, tone
from lake_of import CLIP, FILM, PICTURE, TITLE, YEAR, add_items, contract_of

from tasks.embed import embed_domain
from tasks.encoders import default_encoders
from tasks.features import load_domain
from tasks.lake import Lake
from tasks.media import MediaStore

COLUMNS = (TITLE, YEAR, PICTURE, CLIP, FILM)


@pytest.fixture
def lake(home):
    return Lake(str(home / "lake"))


@pytest.fixture
def media(home):
    return MediaStore(str(home / "media"))


def put(media: MediaStore, **files: bytes) -> dict[str, str]:
    return {f"{column}_sha256": media.put(content) for column, content in files.items()}


def test_all_five_modalities_of_an_item_become_views(lake, media):
    red = put(media, picture=picture(colour="red"), clip=tone(pitch_hz=440), film=clip(frames=5))
    blue = put(media, picture=picture(colour="blue"), clip=tone("OGG", pitch_hz=880), film=clip("webm", "vp9"))
    rows = {
        "1": {"title": "red", "year": 2010, **red},
        "2": {"title": "blue", "year": 2014, **blue},
        "3": {"title": "nothing to see or hear"},
    }
    contract = add_items(lake, contract_of("all", *COLUMNS), rows)
    report = embed_domain(lake, media, contract)
    assert {view: (counts.encoded, counts.refused) for view, counts in report.views.items()} == {
        "title": (3, 0),
        "picture": (2, 0),
        "clip.spectrum": (2, 0),
        "clip.speech": (2, 0),
        "film": (2, 0),
        "tabular": (2, 0),
    }
    data = load_domain(lake, "all")
    assert {view.name: (view.modality, view.dim) for view in data.views} == {
        "title": ("text", 512),
        "picture": ("image", 1280),
        "clip.spectrum": ("audio", 168),
        "clip.speech": ("audio", 192),
        "film": ("video", 2560),
        "tabular": ("tabular", 3),
    }
    for view in data.views:
        red, blue = data.features[view.name][:2]
        assert red.isfinite().all()
        assert (red - blue).norm() > 0.1
    assert data.presence[2].tolist() == [view.name == "title" for view in data.views]
    assert {counts.present for counts in embed_domain(lake, media, contract).views.values()} == {3, 2}


def test_stored_vector_is_what_the_encoder_says(lake, media):
    contract = add_items(
        lake, contract_of("one", PICTURE), {"1": put(media, picture=picture(size=(64, 48), colour="#0ac81e"))}
    )
    embed_domain(lake, media, contract)
    pixels = np.full((48, 64, 3), (10, 200, 30), np.uint8)
    expected = default_encoders("image")[0].encode([pixels])[0]
    np.testing.assert_allclose(load_domain(lake, "one").features["picture"][0], expected, atol=1e-6)


def test_picture_shared_by_domains_is_encoded_once(lake, media):
    shared = put(media, picture=picture())
    for domain in ("first", "second"):
        contract = add_items(lake, contract_of(domain, PICTURE), {"1": shared})
        report = embed_domain(lake, media, contract)
    assert (report.views["picture"].reused, report.views["picture"].encoded) == (1, 0)


def test_file_that_cannot_be_decoded_leaves_the_others_alone(lake, media):
    whole = picture()
    rows = {
        "1": put(media, picture=whole),
        "2": put(media, picture=whole[:60]),
        "3": put(media, picture=b"not a picture"),
    }
    contract = add_items(lake, contract_of("torn", PICTURE), rows)
    counts = embed_domain(lake, media, contract).views["picture"]
    assert (counts.encoded, counts.refused) == (1, 2)
    assert load_domain(lake, "torn").presence.tolist() == [[True], [False], [False]]
    assert hashlib.sha256(whole).hexdigest() == rows["1"]["picture_sha256"]
