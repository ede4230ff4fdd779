"""Small real media files, made on the spot."""

import io

import av
import numpy as np
import soundfile
from PIL import Image


def picture(kind: str = "PNG", size: tuple[int, int] = (40, 30), colour: str = "red", **options: object) -> bytes:
    return saved(Image.new("RGB", size, colour), kind, **options)


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(size: tuple[int, int] = (64, 64), kind: str = "PNG", seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return saved(Image.fromarray(pixels), kind)


def tone(
    kind: str = "WAV", subtype: str | None = None, *, rate_hz: int = 44_100, seconds: float = 1.0, pitch_hz: float = 440
) -> bytes:
    """A stereo sine at half of full scale."""
    moments = np.arange(int(rate_hz * seconds)) / rate_hz
    return sound(0.5 * np.sin(2 * np.pi * pitch_hz * moments), kind, subtype, rate_hz=rate_hz)


def sound(samples: np.ndarray, kind: str = "WAV", subtype: str | None = None, *, rate_hz: int = 16_000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.stack([samples, samples], axis=1), rate_hz, format=kind, subtype=subtype)
    return file.getvalue()


def clip(kind: str = "mp4", codec: str = "mpeg4", *, frames: int = 20, size: tuple[int, int] = (64, 48)) -> bytes:
    """Ten frames a second, each a little brighter than the one before."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(frames):
            pixels = np.full((size[1], size[0], 3), 255 * number // frames, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()
