"""Decode one hostile media file to an array, and the process that is not trusted while it does.

`tasks.decode` runs this in processes it can kill. Only what decoding needs is imported here: each of them pays for it.
"""

import io
import os
import resource
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageFile, ImageOps

from data_contracts.errors import MediaRefused
from tasks.media_formats import FORMATS, MediaFormat, is_whole, sniff

MediaModality = Literal["image", "audio", "video"]
Pixels = UInt8[np.ndarray, "height width 3"]

SAMPLE_RATE_HZ = 16_000
FRAMES = 6
"""Frames a video is sampled at, unless said otherwise."""
HANDED_OUT_SIDE = 448
"""Pictures at least twice this side are averaged down by a whole factor before they leave the process."""
CODECS = frozenset({"h264", "hevc", "vp8", "vp9", "av1", "mpeg4"})
MAX_CHANNELS = 32

MALFORMED = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    ZeroDivisionError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What the image decoders raise on damaged files."""


@dataclass(frozen=True)
class MediaLimits:
    """What one file may cost; beyond that it is refused."""

    max_bytes: int = 256 * 1024**2
    max_pixels: int = 50_000_000
    max_duration_s: float = 3600.0
    timeout_s: float = 30.0


DEFAULT_LIMITS = MediaLimits()


@dataclass(frozen=True)
class Decoded:
    """A file that decoded: its pixels, samples or frames (None if only asked to check), and what it is."""

    content: np.ndarray[Any, Any] | None
    kind: MediaFormat
    width: int | None = None
    height: int | None = None
    duration_s: float | None = None


def decode_image(content: bytes, limits: MediaLimits = DEFAULT_LIMITS) -> Pixels:
    """Return RGB pixels, upright, transparency over white; of an animation the first picture.

    Raises:
        MediaRefused: see `decode`.
    """
    kind = _check_file(content, "image", limits)
    try:
        with Image.open(io.BytesIO(content), formats=[kind]) as picture:
            _check_pixels(picture.width, picture.height, limits)
            return _to_rgb(ImageOps.exif_transpose(picture))
    except MALFORMED as exc:
        raise refused("undecodable", f"is not a readable {kind}: {_first_line(exc)}") from exc


def decode_audio(content: bytes, limits: MediaLimits = DEFAULT_LIMITS) -> tuple[Float32[np.ndarray, " sample"], int]:
    """Return mono samples between -1 and 1, and their rate, 16 kHz whatever the file's was.

    Raises:
        MediaRefused: see `decode`.
    """
    import soundfile

    kind = _check_file(content, "audio", limits)
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            samples, rate_hz = _read_samples(file, kind, limits), file.samplerate
    except (soundfile.SoundFileError, ValueError, TypeError) as exc:
        raise refused("undecodable", f"is not a readable {kind}: {_first_line(exc)}") from exc
    return np.clip(_resample(samples, rate_hz), -1, 1), SAMPLE_RATE_HZ


def decode_video(
    content: bytes, frames: int = FRAMES, limits: MediaLimits = DEFAULT_LIMITS
) -> UInt8[np.ndarray, "frame height width 3"]:
    """Return RGB pictures from the middles of `frames` equal parts of the video; a shorter one repeats pictures.

    Raises:
        MediaRefused: see `decode`.
    """
    return _decode_video(content, frames, limits)[0]


def decode(content: bytes, modality: MediaModality, limits: MediaLimits = DEFAULT_LIMITS) -> Decoded:
    """Decode one file.

    Raises:
        MediaRefused: its `code` is empty, too_many_bytes, unsupported_format, truncated, undecodable, too_many_pixels,
            too_long, not_finite or out_of_memory.
    """
    kind = _check_file(content, modality, limits)
    try:
        match modality:
            case "image":
                pixels = decode_image(content, limits)
                return Decoded(pixels, kind, width=pixels.shape[1], height=pixels.shape[0])
            case "audio":
                samples, rate_hz = decode_audio(content, limits)
                return Decoded(samples, kind, duration_s=len(samples) / rate_hz)
            case "video":
                frames, duration_s = _decode_video(content, FRAMES, limits)
                return Decoded(frames, kind, width=frames.shape[2], height=frames.shape[1], duration_s=duration_s)
    except MemoryError as exc:
        raise refused("out_of_memory", "needs more memory than a decoder may use") from exc


def decode_chunk(
    contents: Sequence[bytes], modality: MediaModality, limits: MediaLimits, *, keep: bool
) -> list[Decoded | MediaRefused]:
    """Decode several files, one outcome each; `keep` false leaves the decoded content behind."""
    return [_outcome(content, modality, limits, keep=keep) for content in contents]


def confine(memory_bytes: int) -> None:
    """Limit this process: memory, no files written, few opened, no core dumps; decoders' warnings go nowhere.

    Memory is limited on Linux only; elsewhere the limits on bytes, pixels and time have to do.
    """
    with suppress(ValueError):  # macOS refuses any limit below what it maps at the start
        _lower(resource.RLIMIT_AS, memory_bytes)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_NOFILE, 64)
    _lower(resource.RLIMIT_CORE, 0)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)
    Image.MAX_IMAGE_PIXELS = None  # the limit of each file is checked before its pixels are read
    ImageFile.LOAD_TRUNCATED_IMAGES = False


def refused(code: str, problem: str) -> MediaRefused:
    """Return the error for one file; `problem` goes on from "The file"."""
    return MediaRefused(
        f"The file {problem}. Its row goes to quarantine; replace the file and ingest again.", code=code
    )


def _outcome(content: bytes, modality: MediaModality, limits: MediaLimits, *, keep: bool) -> Decoded | MediaRefused:
    try:
        decoded = decode(content, modality, limits)
    except MediaRefused as refusal:
        return refusal
    return replace(decoded, content=_handed_out(decoded.content, modality) if keep else None)


def _handed_out(content: Any, modality: MediaModality) -> Any:
    match modality:
        case "image":
            return reduce_picture(content)
        case "video":
            return np.stack([reduce_picture(frame) for frame in content])
        case _:
            return content


def reduce_picture(pixels: Pixels) -> Pixels:
    """Average a large picture down by a whole factor, keeping its shorter side at or above `HANDED_OUT_SIDE`."""
    factor = min(pixels.shape[:2]) // HANDED_OUT_SIDE
    return pixels if factor < 2 else np.asarray(Image.fromarray(pixels).reduce(factor))


def _check_file(content: bytes, modality: MediaModality, limits: MediaLimits) -> MediaFormat:
    if not content:
        raise refused("empty", "is empty")
    if len(content) > limits.max_bytes:
        raise refused("too_many_bytes", f"has {len(content):,} bytes, at most {limits.max_bytes:,} are allowed")
    kind = sniff(content)
    if kind is None or kind not in FORMATS[modality]:
        allowed = ", ".join(sorted(FORMATS[modality]))
        raise refused("unsupported_format", f"is {kind or 'of no known format'}; {modality} must be one of {allowed}")
    if not is_whole(kind, content):
        raise refused("truncated", f"is a {kind} that is shorter than it says, or has no end")
    return kind


def _check_pixels(width: int, height: int, limits: MediaLimits) -> None:
    if width * height > limits.max_pixels:
        problem = f"has {width} x {height} pixels, at most {limits.max_pixels:,} are allowed"
        raise refused("too_many_pixels", problem)


def _check_duration(duration_s: float, limits: MediaLimits) -> None:
    if duration_s > limits.max_duration_s:
        raise refused("too_long", f"lasts {duration_s:.1f} s, at most {limits.max_duration_s:g} s are allowed")


def _to_rgb(picture: Image.Image) -> Pixels:
    if picture.mode.startswith("I"):
        levels = (np.asarray(picture).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(levels[:, :, None], 3, axis=2)
    if picture.has_transparency_data:
        layered = picture.convert("RGBA")
        paper = Image.new("RGBA", layered.size, "white")
        picture = Image.alpha_composite(paper, layered)
    return np.asarray(picture.convert("RGB"))


def _read_samples(file: Any, kind: MediaFormat, limits: MediaLimits) -> Float32[np.ndarray, " sample"]:
    """Mix to mono block by block, so that a file of many channels costs no more memory than a long one."""
    if kind not in (file.format, {"WAVEX": "WAV"}.get(file.format)) or file.channels > MAX_CHANNELS:
        raise refused("undecodable", f"is not a plain {kind} but {file.format} with {file.channels} channels")
    _check_duration(file.frames / file.samplerate, limits)
    samples = np.concatenate([np.empty(0, np.float32), *_mono_blocks(file)])
    if len(samples) == 0:
        raise refused("empty", "has no samples")
    if len(samples) < file.frames:
        raise refused("truncated", f"says {file.frames:,} samples and has {len(samples):,}")
    if not np.isfinite(samples).all():
        raise refused("not_finite", "has samples that are not numbers")
    return samples


def _mono_blocks(file: Any) -> Iterator[Float32[np.ndarray, " sample"]]:
    """Yield until nothing is left; `SoundFile.blocks` trusts the header and pads a short file with stray memory."""
    while len(block := file.read(65_536, dtype="float32", always_2d=True)):
        yield block.mean(axis=1)


def _resample(samples: Float32[np.ndarray, " sample"], rate_hz: int) -> Float32[np.ndarray, " resampled"]:
    import av

    if rate_hz == SAMPLE_RATE_HZ:
        return samples
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
    frame = av.AudioFrame.from_ndarray(samples[None, :], format="flt", layout="mono")
    frame.sample_rate = rate_hz
    parts = [part.to_ndarray()[0] for part in (*resampler.resample(frame), *resampler.resample(None))]
    return np.concatenate([np.empty(0, np.float32), *parts])


def _decode_video(content: bytes, frames: int, limits: MediaLimits) -> tuple[UInt8[np.ndarray, "f h w 3"], float]:
    """Return the sampled frames and the duration.

    The demuxer is always named and may open nothing else: FFmpeg would follow a playlist to other files.
    """
    import av

    kind = _check_file(content, "video", limits)
    demuxer = "matroska" if kind == "MATROSKA" else "mp4"
    try:
        with av.open(io.BytesIO(content), format=demuxer, options={"protocol_whitelist": "none"}) as container:
            stream = _video_stream(container, limits)
            times = _packet_times(container, stream)
            duration_s = _duration(container, stream, times)
            _check_duration(duration_s, limits)
            moments = [times[(2 * part + 1) * len(times) // (2 * frames)] for part in range(frames)]
            return np.stack(list(_frames_at(container, stream, moments, limits))), duration_s
    except (av.FFmpegError, *MALFORMED) as exc:
        raise refused("undecodable", f"is not a readable {kind}: {_first_line(exc)}") from exc


def _video_stream(container: Any, limits: MediaLimits) -> Any:
    if not container.streams.video:
        raise refused("undecodable", "has no pictures")
    stream = container.streams.video[0]
    codec = stream.codec_context.codec.canonical_name
    if codec not in CODECS:
        raise refused("unsupported_format", f"is coded as {codec}; supported are {', '.join(sorted(CODECS))}")
    _check_pixels(stream.codec_context.width, stream.codec_context.height, limits)
    stream.codec_context.thread_count = 1
    return stream


def _packet_times(container: Any, stream: Any) -> list[int]:
    """Return when each frame is shown, in order, without decoding any."""
    times = sorted(packet.pts for packet in container.demux(stream) if packet.size and packet.pts is not None)
    if not times:
        raise refused("empty", "has no frames")
    if len(times) < stream.frames:
        raise refused("truncated", f"says {stream.frames} frames and has {len(times)}")
    return times


def _duration(container: Any, stream: Any, times: Sequence[int]) -> float:
    declared = (container.duration or 0) / 1_000_000
    return max(declared, float((times[-1] - times[0]) * stream.time_base))


def _frames_at(container: Any, stream: Any, moments: Sequence[int], limits: MediaLimits) -> Iterator[Pixels]:
    size: dict[str, int] = {}
    for moment in moments:
        container.seek(moment, stream=stream)
        frame = next((f for f in container.decode(stream) if f.pts is not None and f.pts >= moment), None)
        if frame is None or frame.is_corrupt:
            raise refused("undecodable", f"cannot be decoded at {float(moment * stream.time_base):.2f} s")
        _check_pixels(frame.width, frame.height, limits)
        size = size or {"width": frame.width, "height": frame.height}
        yield frame.reformat(**size).to_ndarray(format="rgb24")


def _lower(limit: int, value: int) -> None:
    """Lower a limit of this process; never above what it was started with."""
    _, hard = resource.getrlimit(limit)
    allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (allowed, allowed))


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0].rstrip(".")
