"""What a media file is, by its first bytes, and whether it is all there; a file's name is never asked.

Decoders accept more formats than anyone vetted, and many damaged files decode without a word: a WAV cut in half is a
shorter WAV. So the format comes from an allow-list, and the sizes a container declares are added up before decoding.
"""

import struct
from collections.abc import Callable, Iterator
from typing import Literal

MediaFormat = Literal["PNG", "JPEG", "WEBP", "GIF", "WAV", "FLAC", "OGG", "MP3", "MP4", "MATROSKA"]

FORMATS: dict[str, frozenset[MediaFormat]] = {
    "image": frozenset({"PNG", "JPEG", "WEBP", "GIF"}),
    "audio": frozenset({"WAV", "FLAC", "OGG", "MP3"}),
    "video": frozenset({"MP4", "MATROSKA"}),
}
"""Formats that are decoded, by modality; Matroska includes WebM."""

_EBML = b"\x1aE\xdf\xa3"
_SEGMENT = b"\x18S\x80g"
_OGG_LAST_PAGE = 4


def sniff(content: bytes) -> MediaFormat | None:
    """Return the format of `content`, None if it is not on the allow-list."""
    match content[:4]:
        case b"RIFF":
            kinds: dict[bytes, MediaFormat] = {b"WAVE": "WAV", b"WEBP": "WEBP"}
            return kinds.get(content[8:12])
        case b"fLaC":
            return "FLAC"
        case b"OggS":
            return "OGG"
        case head if head == _EBML:
            return "MATROSKA"
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if content.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if content[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if content[4:8] == b"ftyp":
        return "MP4"
    return "MP3" if content[:3] == b"ID3" or _is_mp3_frame(content) else None


def is_whole(kind: MediaFormat, content: bytes) -> bool:
    """Whether every part that the container declares is there; True where only decoding can tell."""
    try:
        return kind not in _CHECKS or _CHECKS[kind](content)
    except (struct.error, IndexError):
        return False


def _is_mp3_frame(content: bytes) -> bool:
    """Whether it starts with an MPEG layer III frame header: sync, a bit rate and a sample rate that exist."""
    if len(content) < 4 or content[0] != 0xFF or content[1] & 0xE6 != 0xE2:
        return False
    return content[2] >> 4 not in (0, 15) and content[2] >> 2 & 3 != 3


def _is_whole_riff(content: bytes) -> bool:
    """Walk the chunks; a writer that never came back to fill in sizes leaves them near 4 GB."""
    (declared,) = struct.unpack_from("<I", content, 4)
    offset = 12
    while offset + 8 <= min(len(content), declared + 8):
        (size,) = struct.unpack_from("<I", content, offset + 4)
        offset += 8 + size + size % 2
    return declared + 8 <= len(content) and offset <= len(content) + 1


def _is_whole_png(content: bytes) -> bool:
    offset = 8
    while offset + 12 <= len(content):
        (size,) = struct.unpack_from(">I", content, offset)
        if content[offset + 4 : offset + 8] == b"IEND":
            return True
        offset += 12 + size
    return False


def _is_whole_gif(content: bytes) -> bool:
    return content.rstrip(b"\0").endswith(b";")


def _is_whole_jpeg(content: bytes) -> bool:
    return content.rfind(b"\xff\xd9") > content.rfind(b"\xff\xda")


def _is_whole_ogg(content: bytes) -> bool:
    """Whether the last page ends the stream and is complete."""
    offset = content.rfind(b"OggS")
    segments = content[offset + 27 : offset + 27 + content[offset + 26]]
    is_last = bool(content[offset + 5] & _OGG_LAST_PAGE)
    return is_last and offset + 27 + len(segments) + sum(segments) <= len(content)


def _is_whole_mp4(content: bytes) -> bool:
    boxes = dict(_boxes(content))
    is_complete = all(end <= len(content) for end in boxes.values())
    return is_complete and b"moov" in boxes and (b"mdat" in boxes or b"moof" in boxes)


def _boxes(content: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield the type and the declared end of every outermost box."""
    offset = 0
    while offset + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, offset)
        if size == 1:
            (size,) = struct.unpack_from(">Q", content, offset + 8)
        elif size == 0:
            size = len(content) - offset
        offset += max(size, 8)
        yield kind, offset


def _is_whole_matroska(content: bytes) -> bool:
    """Whether the segment is as long as it says; a live stream does not say."""
    size, offset = _ebml_size(content, 4)
    offset += size or 0
    if content[offset : offset + 4] != _SEGMENT:
        return False
    size, offset = _ebml_size(content, offset + 4)
    return size is None or offset + size <= len(content)


def _ebml_size(content: bytes, offset: int) -> tuple[int | None, int]:
    """Read a variable-length size (None: unknown) and return where it ends."""
    length = 9 - content[offset].bit_length()
    value = int.from_bytes(content[offset : offset + length]) & (1 << 7 * length) - 1
    return None if value == (1 << 7 * length) - 1 else value, offset + length


_CHECKS: dict[MediaFormat, Callable[[bytes], bool]] = {
    "PNG": _is_whole_png,
    "JPEG": _is_whole_jpeg,
    "GIF": _is_whole_gif,
    "WEBP": _is_whole_riff,
    "WAV": _is_whole_riff,
    "OGG": _is_whole_ogg,
    "MP4": _is_whole_mp4,
    "MATROSKA": _is_whole_matroska,
}
