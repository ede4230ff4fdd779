"""Our encoders against bare loops; another's work on the machine may spoil one measurement, not three in a row."""

import pytest
from embedding import measure_image, measure_text

LIMIT = 1.3
ATTEMPTS = 3


@pytest.mark.slow
def test_image_encoder_costs_little_over_a_bare_loop(home):
    assert any(measure_image()["ratio"] <= LIMIT for _ in range(ATTEMPTS))


@pytest.mark.slow
def test_text_encoder_costs_little_over_a_bare_call():
    assert any(measure_text()["ratio"] <= LIMIT for _ in range(ATTEMPTS))
