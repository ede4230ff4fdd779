"""Values that arrive as text: domains, comma lists, and files with one class a line."""

import json
from pathlib import Path

import typer

from data_contracts.errors import ContractInvalid, SourceNotFound


def names(text: str) -> tuple[str, ...]:
    """Split a comma list, dropping blanks and repeats; order stays."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def check_ingested(*domains: str) -> None:
    """Check that domains were ingested: a flow would say so too, but only once Prefect has started.

    Raises:
        ContractInvalid: no domain can have such a name.
        UnknownDomain: one was never ingested.
    """
    from tasks.contracts import contract_in_force
    from tasks.lake import open_lake

    for domain in domains:
        contract_in_force(open_lake(), domain)


def learner_names(text: str) -> tuple[str, ...]:
    """Split a comma list of learners, `all` standing for every one.

    Raises:
        ModelError: there is no learner of such a name, or none is named.
    """
    from models.catalogue import named_learners

    return named_learners(names(text))


def numbers(text: str, *, least: int = 0) -> tuple[int, ...]:
    """Split a comma list of whole numbers, none below `least`."""
    parts = names(text)
    if not parts or not all(part.isascii() and part.isdigit() and int(part) >= least for part in parts):
        raise typer.BadParameter(f"{text!r} is not a comma list of whole numbers from {least} up, such as 1,5")
    return tuple(int(part) for part in parts)


def read_classes(path: Path) -> tuple[str, ...]:
    """Read class names from a file: one a line, or a JSON list.

    Raises:
        SourceNotFound: there is no such file.
        ContractInvalid: it is not text, or names no class.
    """
    try:
        text = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as exc:
        raise ContractInvalid(f"{path} is not UTF-8 text; write one class name a line.", path=str(path)) from exc
    except OSError as exc:
        raise SourceNotFound(
            f"Cannot read the class list {path}: {exc.strerror}. Give a file with one class name a line.",
            path=str(path),
        ) from exc
    classes = _classes_in(text, path)
    if not classes:
        raise ContractInvalid(f"{path} names no class; write one class name a line.", path=str(path))
    return classes


def _classes_in(text: str, path: Path) -> tuple[str, ...]:
    if not text.startswith("["):
        return tuple(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    try:
        listed = json.loads(text)
    except json.JSONDecodeError as exc:
        raise ContractInvalid(
            f"{path} starts like a JSON list but is not one (line {exc.lineno}: {exc.msg}); "
            'write ["a", "b"], or one class name a line.',
            path=str(path),
        ) from exc
    return tuple(str(item) for item in listed)
