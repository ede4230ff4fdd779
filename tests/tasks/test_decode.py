"""Media of every allowed format decode to what was put in; hostile ones are refused, alone and without a trace."""

import os
import resource
import struct
import time
import zlib

import numpy as np
import pytest
from clips import clip, noise, picture, saved, sound, tone
from PIL import Image, ImageDraw

from data_contracts.contract import Column, Rules
from data_contracts.errors import MediaRefused
from tasks.decode import MediaLimits, check_media, decode_audio, decode_image, decode_many, decode_video, limits_of
from tasks.decode_worker import confine, reduce_picture

LIMITS = MediaLimits(timeout_s=20)
AUDIO = [("WAV", None), ("WAV", "FLOAT"), ("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)]
VIDEO = [("mp4", "mpeg4"), ("mp4", "libx264"), ("webm", "libvpx"), ("webm", "libvpx-vp9"), ("matroska", "mpeg4")]


def code_of(content: bytes, modality: str, limits: MediaLimits = LIMITS) -> str | None:
    (outcome,) = check_media([content], modality, limits)
    return outcome.code if isinstance(outcome, MediaRefused) else None


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 100_000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_pictures_decode_to_their_colour(kind):
    pixels = decode_image(picture(kind))
    assert pixels.shape == (30, 40, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels.reshape(-1, 3).mean(0), (255, 0, 0), atol=3)


def test_transparency_is_laid_over_white():
    assert decode_image(saved(Image.new("RGBA", (2, 2), (255, 0, 0, 0)))).min() == 255
    half = decode_image(saved(Image.new("RGBA", (2, 2), (0, 0, 0, 128))))
    np.testing.assert_allclose(half, 127, atol=1)
    palette = Image.new("P", (2, 2), 0)
    assert decode_image(saved(palette, "GIF", transparency=0)).min() == 255


def test_grey_pictures_of_16_bits_keep_their_levels():
    ramp = Image.fromarray(np.array([[0, 32_768, 65_535]], np.uint16))
    assert decode_image(saved(ramp))[0, :, 0].tolist() == [0, 128, 255]


def test_pictures_are_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(picture("JPEG", size=(40, 30), exif=exif)).shape == (40, 30, 3)


@pytest.mark.parametrize(("kind", "subtype"), AUDIO, ids=str)
def test_sounds_decode_to_mono_at_16_khz_with_their_pitch(kind, subtype):
    samples, rate_hz = decode_audio(tone(kind, subtype, rate_hz=48_000, pitch_hz=440))
    assert rate_hz == 16_000
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(16_000, rel=0.08)
    spectrum = np.abs(np.fft.rfft(samples[2000:14_000] * np.hanning(12_000)))
    assert np.argmax(spectrum) * 16_000 / 12_000 == pytest.approx(440, abs=2)
    assert samples.std() == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


@pytest.mark.parametrize(("kind", "codec"), VIDEO, ids=str)
def test_videos_decode_to_frames_in_order(kind, codec):
    frames = decode_video(clip(kind, codec), frames=4)
    assert frames.shape == (4, 48, 64, 3)
    np.testing.assert_allclose(frames.mean((1, 2, 3)), [25, 89, 153, 217], atol=15)


def test_a_short_video_repeats_its_pictures():
    assert decode_video(clip(frames=2), frames=6).shape == (6, 48, 64, 3)


def test_checking_says_what_each_file_is():
    (image,) = check_media([picture()], "image", LIMITS)
    (audio,) = check_media([tone(seconds=0.5)], "audio", LIMITS)
    (video,) = check_media([clip()], "video", LIMITS)
    assert (image.kind, image.width, image.height, image.content) == ("PNG", 40, 30, None)
    assert (audio.kind, audio.duration_s) == ("WAV", pytest.approx(0.5, abs=0.01))
    assert (video.kind, video.width, video.height, video.duration_s) == ("MP4", 64, 48, pytest.approx(2.0, abs=0.11))


def test_many_files_come_back_in_order_and_the_bad_one_alone_is_refused():
    files = [picture(colour=(level, 0, 0)) for level in range(60)]
    files[33] = b"not a picture"
    decoded = list(decode_many([(str(row), file) for row, file in enumerate(files)], "image", LIMITS))
    assert decoded[33].code == "unsupported_format"
    assert [content[0, 0, 0] for row, content in enumerate(decoded) if row != 33] == [r for r in range(60) if r != 33]


def test_workers_decode_audio_and_video_too():
    (samples,) = decode_many([("a", tone())], "audio", LIMITS)
    (frames,) = decode_many([("b", clip())], "video", LIMITS)
    assert samples.shape == (16_000,)
    assert frames.shape == (6, 48, 64, 3)


def test_large_pictures_are_averaged_down_before_they_are_handed_out():
    (pixels,) = decode_many([("a", noise((1400, 1000)))], "image", LIMITS)
    assert pixels.shape == (500, 700, 3)
    small = np.zeros((895, 2000, 3), np.uint8)
    assert reduce_picture(small) is small


@pytest.mark.parametrize(("kind", "subtype"), AUDIO, ids=str)
@pytest.mark.parametrize("share", [0.3, 0.7, 0.98])
def test_cut_off_sounds_are_refused(kind, subtype, share):
    whole = tone(kind, subtype, rate_hz=48_000)
    assert code_of(whole, "audio") is None
    assert code_of(whole[: int(len(whole) * share)], "audio") in ("truncated", "undecodable")


@pytest.mark.parametrize(("kind", "codec"), VIDEO, ids=str)
@pytest.mark.parametrize("share", [0.3, 0.7, 0.98])
def test_cut_off_videos_are_refused(kind, codec, share):
    whole = clip(kind, codec)
    assert code_of(whole[: int(len(whole) * share)], "video") in ("truncated", "undecodable")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.98])
def test_cut_off_pictures_are_refused(kind, share):
    whole = noise(kind=kind)
    assert code_of(whole, "image") is None
    assert code_of(whole[: int(len(whole) * share)], "image") in ("truncated", "undecodable")


def test_a_playlist_named_like_a_video_opens_no_other_file(tmp_path):
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(clip())
    playlist = f"ffconcat version 1.0\nfile {secret}\n".encode()
    assert code_of(playlist, "video") == "unsupported_format"
    assert code_of(b"#EXTM3U\n#EXTINF:1,\n" + str(secret).encode(), "video") == "unsupported_format"


def test_a_wav_of_no_numbers_is_refused():
    samples = np.zeros(1000, np.float32)
    samples[500] = np.nan
    assert code_of(sound(samples, subtype="FLOAT"), "audio") == "not_finite"


def test_a_wav_that_claims_four_gigabytes_is_refused():
    wav = bytearray(tone())
    struct.pack_into("<I", wav, 4, 0xFFFFFFFF)
    struct.pack_into("<I", wav, wav.index(b"data") + 4, 0xFFFFFFDB)
    assert code_of(bytes(wav), "audio") == "truncated"
    struct.pack_into("<I", wav, 4, len(wav) - 8)
    assert code_of(bytes(wav), "audio") == "truncated"


def test_a_decompression_bomb_is_refused_before_it_is_read():
    started = time.perf_counter()
    assert code_of(png_claiming(60_000, 60_000), "image") == "too_many_pixels"
    assert time.perf_counter() - started < 5


def test_what_needs_more_memory_than_a_worker_has_is_refused():
    limits = MediaLimits(max_pixels=10**10, timeout_s=20)
    assert code_of(png_claiming(40_000, 40_000), "image", limits) in ("out_of_memory", "undecodable")
    assert code_of(picture(), "image") is None


@pytest.mark.parametrize(
    ("content", "modality", "limits", "code"),
    [
        (b"", "image", {}, "empty"),
        (picture(), "audio", {}, "unsupported_format"),
        (tone(), "image", {}, "unsupported_format"),
        (picture(size=(50, 50)), "image", {"max_pixels": 2499}, "too_many_pixels"),
        (clip(size=(64, 48)), "video", {"max_pixels": 64 * 48 - 1}, "too_many_pixels"),
        (picture(), "image", {"max_bytes": 10}, "too_many_bytes"),
        (tone(seconds=1), "audio", {"max_duration_s": 0.9}, "too_long"),
        (clip(frames=20), "video", {"max_duration_s": 1.5}, "too_long"),
        (b"GIF89a" + b"\xff" * 50 + b";", "image", {}, "undecodable"),
        (sound(np.empty(0)), "audio", {}, "empty"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "image", {}, "unsupported_format"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else str(value),
)
def test_each_limit_has_its_own_code(content, modality, limits, code):
    assert code_of(content, modality, MediaLimits(timeout_s=20, **limits)) == code


def test_a_file_that_takes_too_long_is_refused_and_its_neighbours_are_not():
    slow = saved(Image.new("RGBA", (6000, 6000), (9, 9, 9, 9)), compress_level=1)
    list(check_media([picture()] * 2, "image", LIMITS))  # the workers are up
    files = [picture(), slow, picture(), noise()]
    outcomes = list(check_media(files, "image", MediaLimits(timeout_s=0.4)))
    assert [getattr(outcome, "code", None) for outcome in outcomes] == [None, "timeout", None, None]


def test_no_worker_can_write_a_file(tmp_path):
    from tasks.decode import _pool

    with pytest.raises(OSError, match="File too large"):
        _pool(os.getpid()).schedule((tmp_path / "written").write_bytes, (b"x",)).result()


def test_a_worker_that_dies_takes_only_its_file_with_it():
    from pebble import ProcessExpired

    from tasks.decode import _pool

    with pytest.raises(ProcessExpired):
        _pool(os.getpid()).schedule(os.abort).result()
    assert code_of(picture(), "image") is None


def test_a_picture_with_drawing_survives_palette_and_grey_modes():
    image = Image.new("L", (20, 20), 0)
    ImageDraw.Draw(image).rectangle((5, 5, 14, 14), fill=255)
    for mode in ("L", "P", "1", "LA"):
        pixels = decode_image(saved(image.convert(mode)))
        assert pixels[0, 0].tolist() == [0, 0, 0]
        assert pixels[10, 10].min() == 255


def test_limits_come_from_the_contract_and_else_from_the_platform():
    column = Column(name="p", logical_type="string", role="image", rules=Rules(max_pixels=9, max_bytes=8))
    assert limits_of(column) == MediaLimits(max_pixels=9, max_bytes=8)


def test_a_system_that_cannot_limit_memory_still_decodes(monkeypatch: pytest.MonkeyPatch):
    given = []

    def setrlimit(limit: int, values: tuple[int, int]) -> None:
        if limit == resource.RLIMIT_AS:
            raise ValueError("current limit exceeds maximum limit")  # as on macOS
        given.append(limit)

    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    monkeypatch.setattr(os, "dup2", lambda source, target: None)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    confine(2**31)
    assert given == [resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_CORE]
