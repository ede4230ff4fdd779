"""Spoken titles as a domain of sound, with tones in place of speech."""

import numpy as np
import pytest
import soundfile
import torch
from spoken_titles import SPEAKERS, load_spoken, manner, with_sound
from synthetic import make_domain

from tasks.lake import open_lake

DOMAIN = make_domain("toys", classes=2, per_class=3)
TITLES = {DOMAIN.item_ids[0]: "low", DOMAIN.item_ids[2]: "high", "toys-elsewhere": "nowhere"}
HERTZ = {"low": 220, "high": 880, "nowhere": 440}


def hum(text, language, item, path):
    """Hum as high as the text says."""
    tone = np.sin(2 * np.pi * HERTZ[text] * np.arange(8_000) / 16_000)
    soundfile.write(path, 0.3 * tone, 16_000, format="WAV")


def refuse(text, language, item, path):
    pytest.fail(f"{text!r} is spoken again")


def test_titles_are_spoken_once_and_heard_in_both_views_of_sound(home):
    sounds = load_spoken(home, "toys", TITLES, "en", hum)
    assert sounds.item_ids == tuple(sorted(TITLES))
    assert [view.name for view in sounds.views] == ["spoken.spectrum", "spoken.speech"]
    assert {view.modality for view in sounds.views} == {"audio"}
    assert sounds.presence.all()
    written = open_lake().version("embeddings")
    again = load_spoken(home, "toys", TITLES, "en", refuse)
    assert open_lake().version("embeddings") == written
    assert all(torch.equal(again.features[name], matrix) for name, matrix in sounds.features.items())

    joined = with_sound(DOMAIN, sounds)
    heard = [row for row, item in enumerate(DOMAIN.item_ids) if item in TITLES]
    for number, view in enumerate(joined.views[len(DOMAIN.views) :], start=len(DOMAIN.views)):
        assert joined.presence[:, number].nonzero().flatten().tolist() == heard == [0, 2]
        assert torch.equal(joined.features[view.name].any(1), joined.presence[:, number])
        for row in heard:
            place = sounds.item_ids.index(DOMAIN.item_ids[row])
            assert torch.equal(joined.features[view.name][row], sounds.features[view.name][place])


def test_manner_of_speaking_is_the_items_own():
    manners = [manner(f"item-{number}") for number in range(50)]
    assert manners == [manner(f"item-{number}") for number in range(50)]
    assert len(set(manners)) == 50
    assert {speaker for speaker, _, _ in manners} == set(SPEAKERS)
