"""A home directory of its own for every test of the command line, and a small source to feed it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prefect_servers import prefect_of
from typer.testing import CliRunner

from data_contracts.settings import get_settings
from deployments.cli.app import app

CONTRACT = """\
apiVersion: v3.1.0
kind: DataContract
id: urn:test:toys
name: toys
version: 1.0.0
status: active
servers:
  - {server: local, type: local, path: items.csv, format: csv}
schema:
  - name: items
    logicalType: object
    properties:
      - {name: item_id, logicalType: string, required: true, unique: true, primaryKey: true}
      - name: title
        logicalType: string
        logicalTypeOptions: {maxLength: 40}
        customProperties: [{property: modality, value: text}, {property: language, value: en}]
      - name: weight
        logicalType: number
        logicalTypeOptions: {minimum: 0}
        customProperties: [{property: modality, value: tabular}]
      - name: label
        logicalType: string
        customProperties: [{property: modality, value: label}]
"""
WORDS = {
    "animal": ("cat", "dog", "horse", "cow", "pig", "sheep", "goat", "mouse"),
    "food": ("bread", "cheese", "apple", "soup", "rice", "pear", "butter", "honey"),
    "tool": ("hammer", "saw", "drill", "pliers", "wrench", "chisel", "file", "screwdriver"),
    "colour": ("red", "blue", "green", "yellow", "purple", "orange", "brown", "pink"),
    "weather": ("rain", "snow", "wind", "fog", "hail", "storm", "sunshine", "thunder"),
    "body": ("hand", "foot", "nose", "ear", "arm", "knee", "tooth", "shoulder"),
    "music": ("drum", "violin", "piano", "flute", "trumpet", "guitar", "harp", "organ"),
    "place": ("school", "church", "bridge", "castle", "hospital", "station", "museum", "harbour"),
    "vehicle": ("car", "bus", "train", "bicycle", "ship", "lorry", "tram", "aeroplane"),
}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A fresh home; the environment is put back afterwards, because the command line sets it."""
    before = dict(os.environ)
    yield tmp_path / "home"
    os.environ.clear()
    os.environ.update(before)
    get_settings.cache_clear()


def write_toys(folder: Path, domain: str = "toys", phrase: str = "a {}") -> Path:
    """Write a source of 72 good rows in nine classes and two bad rows; returns its contract."""
    folder.mkdir()
    rows = [
        f"{label}-{index},{phrase.format(word)},{len(word) + index},{label}"
        for label, words in WORDS.items()
        for index, word in enumerate(words)
    ]
    rows += ["heavy,an anvil,much,tool", "light,a feather,-1,tool"]
    (folder / "items.csv").write_text("\n".join(["item_id,title,weight,label", *rows]) + "\n")
    contract = folder / "contract.yaml"
    contract.write_text(CONTRACT.replace("name: toys", f"name: {domain}"))
    return contract


@pytest.fixture
def toys(tmp_path: Path) -> Path:
    """The contract of the domain toys."""
    return write_toys(tmp_path / "toys")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Metafuse"]:
    """One home for the tests of a module that build on one another's data: the domains toys and juguetes.

    `run` lets commands report to one Prefect server, which spares each of them one of its own; `by_itself` does not.
    """
    folder = tmp_path_factory.mktemp("shared")
    with prefect_of(folder / "home") as server:
        metafuse = Metafuse(folder / "home", server)
        for domain, phrase in (("toys", "a {}"), ("juguetes", "a drawn {}")):
            ran = metafuse.run("ingest", domain, "--contract", write_toys(folder / domain, domain, phrase))
            assert ran.code == 0, ran.err
        yield metafuse


@dataclass(frozen=True)
class Ran:
    """How one command ended."""

    code: int
    out: str
    err: str

    @property
    def facts(self) -> dict:
        """What `--json` printed; fails if there was anything else on standard output."""
        assert self.code == 0, self.err
        assert self.out.count("\n") == 1
        return json.loads(self.out)

    @property
    def refusal(self) -> str:
        """The one paragraph on standard error that goes with exit code 2, on one line."""
        assert self.code == 2, self.err
        assert "Traceback" not in self.err
        assert self.err.startswith("Error: ")
        assert self.err.count("\n") == 1
        assert len(self.err) < 1200
        return self.err


@dataclass(frozen=True)
class Metafuse:
    """The command line, with a home of its own, and a Prefect server for each command unless one is named."""

    home: Path
    server: str | None = None

    @property
    def by_itself(self) -> "Metafuse":
        """The same home with a server for each command, as its user has without one."""
        return Metafuse(self.home)

    def here(self, *arguments: object) -> Ran:
        """Run in this process: for commands that start neither Prefect nor MLflow."""
        result = CliRunner().invoke(app, ["--home", str(self.home), *map(str, arguments)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    def run(self, *arguments: object) -> Ran:
        """Run as a user does, in a process of its own."""
        environment = {**os.environ, "METAFUSE_HOME": str(self.home), "COLUMNS": "200", "NO_COLOR": "1"}
        if self.server is not None:
            environment["PREFECT_API_URL"] = self.server
        command = [Path(sys.executable).parent / "metafuse", *map(str, arguments)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
        return Ran(result.returncode, result.stdout, result.stderr)


@pytest.fixture
def metafuse(home: Path) -> Metafuse:
    return Metafuse(home)
