import numpy as np
import pytest

from tasks.encoders import default_encoders, view_name

SPECTRUM, SPEECH = default_encoders("audio")


def tone(frequency_hz: float, seconds: float = 1.0, amplitude: float = 0.3) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * frequency_hz * np.arange(int(16_000 * seconds)) / 16_000)).astype(np.float32)


def noise(seconds: float = 1.0) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, int(16_000 * seconds)).astype(np.float32)


def test_one_clip_is_two_views():
    assert [view_name("clip", encoder) for encoder in default_encoders("audio")] == ["clip.spectrum", "clip.speech"]


@pytest.mark.parametrize("encoder", [SPECTRUM, SPEECH], ids=["spectrum", "speech"])
class TestBothEncoders:
    def test_each_clip_is_encoded_alone_and_in_order(self, encoder):
        clips = [tone(440), noise(2.5), tone(1000, 0.4)]
        together = encoder.encode(clips)
        assert together.shape == (3, encoder.dim)
        assert together.dtype == np.float32
        np.testing.assert_allclose(together, np.concatenate([encoder.encode([c]) for c in clips]), atol=1e-4)

    @pytest.mark.parametrize("samples", [0, 1, 400, 20_000, 800_000], ids=str)
    def test_any_length_gives_finite_numbers(self, encoder, samples):
        assert np.isfinite(encoder.encode([noise(samples / 16_000)])).all()

    def test_silence_gives_finite_numbers(self, encoder):
        assert np.isfinite(encoder.encode([np.zeros(16_000, np.float32)])).all()

    def test_like_sounds_lie_closer_than_unlike_ones(self, encoder):
        low, near, hiss = encoder.encode([tone(440), tone(450), noise()])
        assert np.linalg.norm(low - near) < np.linalg.norm(low - hiss)

    def test_no_clips_give_no_vectors(self, encoder):
        assert encoder.encode([]).shape == (0, encoder.dim)


def test_volume_changes_one_number_of_the_spectrum():
    loud, quiet = SPECTRUM.encode([noise(), noise() / 4])
    assert np.flatnonzero(np.abs(loud - quiet) > 1e-3).tolist() == [128]
