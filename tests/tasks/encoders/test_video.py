import numpy as np
import pytest

from tasks.encoders import default_encoders


@pytest.fixture(scope="module")
def encoder(encoder_cache):
    return default_encoders("video")[0]


def test_clip_is_mean_and_spread_of_its_frames(encoder):
    clip = np.random.default_rng(0).integers(0, 256, (4, 48, 64, 3), dtype=np.uint8)
    frames = default_encoders("image")[0].encode(list(clip))
    vector = encoder.encode([clip])[0]
    np.testing.assert_allclose(vector, np.concatenate([frames.mean(0), frames.std(0)]), atol=1e-6)


def test_still_clip_has_no_spread(encoder):
    frame = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    vectors = encoder.encode([frame[None], np.stack([frame] * 3)])
    np.testing.assert_allclose(vectors[:, 1280:], 0, atol=1e-5)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)


def test_name_changes_with_the_image_encoder(encoder):
    assert default_encoders("image")[0].encoder_id in encoder.encoder_id
