"""The titles of a domain, spoken: sound for items that have none, by the speech synthesiser espeak-ng.

Voice, speed and pitch are drawn for each item from its id. The sounds are a source like any other: the platform decodes
them and hears both of its audio views in them, and keeps the vectors in the lake of a home.
"""

import hashlib
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

import torch

from data_contracts.contract import Column, Contract, Server
from data_contracts.odcs import dump_contract
from data_contracts.settings import get_settings, use_home
from deployments.samples.tables import write_table
from models.features import DomainData
from tasks.contracts import contract_in_force
from tasks.embed import embed_domain
from tasks.features import load_domain
from tasks.ingest import ingest
from tasks.lake import Lake, open_lake
from tasks.media import open_media

FIELD = "spoken"
VOICES = {"ru": "ru", "zh": "cmn"}
"""Name of a language to that of its voice."""
SPEAKERS = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4", "f5")

Speak = Callable[[str, str, str, Path], None]
"""Writes a text in a language, spoken in the manner of an item, as a file."""


def speak(text: str, language: str, item: str, path: Path) -> None:
    """Speak with espeak-ng."""
    speaker, words_per_minute, pitch = manner(item)
    options = ["-v", f"{VOICES[language]}+{speaker}", "-s", str(words_per_minute), "-p", str(pitch), "-w", str(path)]
    try:
        subprocess.run(["espeak-ng", "--stdin", "-b", "1", *options], input=text.encode(), check=True)
    except FileNotFoundError as exc:
        raise SystemExit("This needs the speech synthesiser espeak-ng: apt-get install espeak-ng.") from exc


def manner(item: str) -> tuple[str, int, int]:
    """Return who speaks an item, how fast (words a minute) and how high (0 to 99), always the same."""
    draw = Random(item)
    return draw.choice(SPEAKERS), draw.randint(130, 200), draw.randint(30, 70)


def load_spoken(cache: Path, domain: str, titles: Mapping[str, str], language: str, speak: Speak = speak) -> DomainData:
    """Return the titles (by item) as a domain of sound; `cache` is a home, where a second call finds all vectors."""
    use_home(cache)
    contract = write_source(cache / "sources" / domain, titles, language, speak)
    lake, media = open_lake(), open_media()
    ingest(contract, None, lake, media, get_settings().docs, domain=domain)
    embed_domain(lake, media, contract_in_force(lake, domain))
    return load_domain(lake, domain)


def write_source(folder: Path, titles: Mapping[str, str], language: str, speak: Speak) -> Path:
    """Write a table, the sounds that are not there yet and a contract; returns the contract."""
    contract = Contract(
        domain=folder.name,
        version="1.0.0",
        server=Server(path="items.jsonl", format="jsonl"),
        columns=(
            Column(name="item_id", logical_type="string", role="id"),
            Column(name=FIELD, logical_type="string", role="audio"),
        ),
    )
    (folder / "sounds").mkdir(parents=True, exist_ok=True)
    rows = []
    for item, title in titles.items():
        path = folder / "sounds" / f"{hashlib.sha256(f'{item} {title}'.encode()).hexdigest()[:16]}.wav"
        if not path.exists():
            speak(title, language, item, path.with_suffix(".part"))
            path.with_suffix(".part").rename(path)
        rows.append({"item_id": item, FIELD: str(path.relative_to(folder))})
    write_table(folder, contract, rows)
    (folder / "contract.yaml").write_text(dump_contract(contract), encoding="utf-8")
    return folder / "contract.yaml"


def titles_of(lake: Lake, domain: str) -> dict[str, str]:
    """Return the title of each current item that has one."""
    items = lake.current_items(domain).sort_by("item_id")
    pairs = zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True)
    return {item: title for item, title in pairs if title}


def with_sound(domain: DomainData, sounds: DomainData) -> DomainData:
    """Return the same items with the views of those sounds that are theirs."""
    row_of = {item: row for row, item in enumerate(sounds.item_ids)}
    rows = torch.tensor([row_of.get(item, -1) for item in domain.item_ids])
    presence = sounds.presence[rows] & (rows >= 0)[:, None]
    heard = {
        view.name: sounds.features[view.name][rows] * presence[:, number, None]
        for number, view in enumerate(sounds.views)
    }
    return replace(
        domain,
        views=(*domain.views, *sounds.views),
        features={**domain.features, **heard},
        presence=torch.cat([domain.presence, presence], dim=1),
    )
