"""Debian's package catalogue as few-label domains: a language each, an item a package, its label the package's section.

A package has a short and a long description in the domain's language and a row of numbers about itself: sizes, and how
many packages it needs, suggests or replaces. Neither names nor versions nor what it depends on are used: they tell the
section. Catalogue and translations come from the Debian release that this machine installs from, by its own apt.
"""

import hashlib
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_contracts.contract import Column, Contract, LogicalType, Role, Rules, Server
from data_contracts.odcs import dump_contract
from data_contracts.settings import get_settings, use_home
from deployments.samples.tables import write_table
from models.features import DomainData
from tasks.contracts import contract_in_force
from tasks.embed import embed_domain
from tasks.features import load_domain
from tasks.ingest import ingest
from tasks.lake import open_lake
from tasks.media import open_media

TRAINING = ("debian-en", "debian-de", "debian-fr", "debian-it", "debian-ja", "debian-pt-br")
HELD_OUT = ("debian-ru", "debian-ko")

CLASS_SIZES = range(10, 41)
"""A section with fewer packages in a language is left out there; of larger ones the first of these many are taken."""
MOST_DETAILS = 200
"""Characters of the long description that are kept."""

Stanza = Mapping[str, str]

_COUNTED = {"depends": "Depends", "recommends": "Recommends", "suggests": "Suggests", "provides": "Provides"}
_TYPES: dict[str, LogicalType] = {
    "installed_kib": "integer",
    "archive_bytes": "integer",
    **dict.fromkeys([*_COUNTED, "displaced", "tags"], "integer"),
    "is_same_everywhere": "boolean",
    "is_own_source": "boolean",
    "has_homepage": "boolean",
    "multi_arch": "string",
}


def split(seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the languages to train on and those to test on, always the same: the protocol draws sections."""
    return TRAINING, HELD_OUT


def load(cache: Path, names: Sequence[str]) -> dict[str, DomainData]:
    """Return the domains of that name; `cache` is a home, which gets the sources and a lake at the first call."""
    use_home(cache)
    lake, media = open_lake(), open_media()
    for folder in write_sources(cache / "sources", names):
        ingest(folder / "contract.yaml", None, lake, media, get_settings().docs, domain=folder.name)
        embed_domain(lake, media, contract_in_force(lake, folder.name))
    return {name: load_domain(lake, name) for name in names}


def write_sources(target: Path, names: Sequence[str]) -> list[Path]:
    """Write the domains that are not there yet as a table and a contract each, and return the folder of every one."""
    folders = [target / name for name in names]
    lacking = [folder for folder in folders if not (folder / "contract.yaml").exists()]
    if lacking:
        lists = fetch_lists(target / "apt", [_language(folder.name) for folder in lacking])
        packages = [stanza for path in sorted(lists.glob("*_Packages")) for stanza in read_stanzas(path)]
        for folder in lacking:
            _write_domain(folder, packages, lists)
    return folders


def fetch_lists(folder: Path, languages: Sequence[str]) -> Path:
    """Let apt fetch the catalogue and its translations into `folder`, away from the machine's own lists.

    Raises:
        CalledProcessError: apt could not fetch them.
    """
    if shutil.which("apt-get") is None:
        raise SystemExit("This needs apt-get: run it on Debian, or choose another collection.")
    (folder / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    config = folder / "apt.conf"
    quoted = " ".join(f'"{language}";' for language in languages)
    config.write_text(
        f'#clear Acquire::Languages;\nAcquire::Languages {{ {quoted} }};\nAcquire::GzipIndexes "false";\n'
        f'Dir::State::lists "{(folder / "lists").absolute()}";\nDir::Cache "{folder.absolute()}";\n'
        'APT::Sandbox::User "root";\n',
        encoding="utf-8",
    )
    subprocess.run(["apt-get", "-c", str(config), "-qq", "update"], check=True)
    return folder / "lists"


def read_stanzas(path: Path) -> Iterator[dict[str, str]]:
    """Yield the stanzas of a file in Debian's control format; the lines of a field keep their breaks."""
    for block in re.split(r"\n\n+", path.read_text(encoding="utf-8").strip()):
        fields = re.findall(r"^([^\s:]+):[ \t]*(.*(?:\n[ \t].*)*)", block, re.MULTILINE)
        yield {name: re.sub(r"\n[ \t]", "\n", value) for name, value in fields}


def choose_rows(packages: Iterable[Stanza], translations: Iterable[Stanza], language: str) -> list[dict[str, Any]]:
    """Return one row per package whose description is translated, sections that are too small left out.

    One package per source and section is taken: a source's other packages there are described in nearly the same words.
    """
    texts = {stanza["Description-md5"]: stanza.get(f"Description-{language}") for stanza in translations}
    sections: dict[str, dict[str, Stanza]] = defaultdict(dict)
    for package in sorted(packages, key=lambda package: _digest(package["Package"])):
        if "Section" in package and texts.get(package.get("Description-md5", "")):
            sections[package["Section"].rpartition("/")[2]].setdefault(_source(package), package)
    return [
        _row(package, section, texts[package["Description-md5"]] or "")
        for section, found in sorted(sections.items())
        if len(found) >= CLASS_SIZES.start
        for package in list(found.values())[: CLASS_SIZES.stop - 1]
    ]


def _write_domain(folder: Path, packages: Sequence[Stanza], lists: Path) -> None:
    language = _language(folder.name)
    found = [*lists.glob(f"*_Translation-{language.replace('_', '%5f')}")]
    rows = choose_rows(packages, (stanza for path in sorted(found) for stanza in read_stanzas(path)), language)
    contract = _contract(folder.name)
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder, contract, rows)
    (folder / "contract.yaml").write_text(dump_contract(contract), encoding="utf-8")


def _row(package: Stanza, section: str, text: str) -> dict[str, Any]:
    title, _, details = text.partition("\n")
    details = " ".join(re.sub(r"^ *\.$", "", details, flags=re.MULTILINE).split())
    return {
        "item_id": _digest(package["Package"]),
        "title": title.strip(),
        "details": details[:MOST_DETAILS] or None,
        "installed_kib": int(package["Installed-Size"]) if "Installed-Size" in package else None,
        "archive_bytes": int(package["Size"]),
        **{name: _listed(package, field) for name, field in _COUNTED.items()},
        "displaced": _listed(package, "Conflicts") + _listed(package, "Breaks") + _listed(package, "Replaces"),
        "tags": _listed(package, "Tag") or None,
        "is_same_everywhere": package["Architecture"] == "all",
        "is_own_source": _source(package) == package["Package"],
        "has_homepage": "Homepage" in package,
        "multi_arch": package.get("Multi-Arch", "no"),
        "label": section,
    }


def _contract(domain: str) -> Contract:
    language = _language(domain).partition("_")[0]
    return Contract(
        domain=domain,
        version="1.0.0",
        description=f"Debian packages described in the language {language!r}, labelled with their section.",
        server=Server(path="items.jsonl", format="jsonl"),
        columns=(
            _column("item_id", "id", required=True, unique=True),
            _column("title", "text", language=language),
            _column("details", "text", language=language),
            *(_column(name, "tabular", logical_type) for name, logical_type in _TYPES.items()),
            _column("label", "label"),
        ),
    )


def _column(
    name: str, role: Role, logical_type: LogicalType = "string", *, language: str | None = None, **rules: object
) -> Column:
    return Column(name=name, logical_type=logical_type, role=role, language=language, rules=Rules.model_validate(rules))


def _language(domain: str) -> str:
    """Return the language of a domain as Debian writes it: `pt_BR` for `debian-pt-br`."""
    language, _, country = domain.removeprefix("debian-").partition("-")
    return f"{language}_{country.upper()}" if country else language


def _listed(package: Stanza, field: str) -> int:
    return len([entry for entry in package.get(field, "").split(",") if entry.strip()])


def _source(package: Stanza) -> str:
    return package.get("Source", package["Package"]).partition(" ")[0]


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:12]
