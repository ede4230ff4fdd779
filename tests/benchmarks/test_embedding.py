import pytest
from embedding import measure_image, measure_text

LIMIT = 1.3


@pytest.mark.slow
def test_image_encoder_costs_little_over_a_bare_loop(home):
    assert measure_image()["ratio"] <= LIMIT


@pytest.mark.slow
def test_text_encoder_costs_little_over_a_bare_call():
    assert measure_text()["ratio"] <= LIMIT
