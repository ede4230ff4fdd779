"""Read a domain's source: its table as text, its media as files that have been found and hashed, nothing decoded yet.

A row that cannot be read is kept with its place and reason, like any other row that breaks its contract. Media paths
are hostile too: they are relative to the table's own folder and may not leave it, be it by `..` or by a link.
"""

import csv
import hashlib
import json
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts.arrow_schema import source_schema
from data_contracts.contract import Column, Contract
from data_contracts.errors import BatchRefused, MediaRefused, SourceNotFound
from tasks.decode import limits_of
from tasks.decode_worker import MediaLimits, refused

MAX_CELL_CHARACTERS = 16 * 1024**2
MOST_UNUSED, LONGEST_NAME = 100, 100
"""Names of unused columns, and characters of one, that are told."""

Cells = Mapping[str, str | None]


@dataclass(frozen=True)
class Unreadable:
    """A row that is no row of the table: where it is, why, and what is there."""

    locator: str
    reason: str
    payload: Mapping[str, Any]


@dataclass(frozen=True)
class MediaFile:
    """The bytes of one media cell, by their hash; read again when they are needed."""

    sha256: str
    path: Path | None = None
    content: bytes | None = field(default=None, repr=False)

    def read(self) -> bytes:
        """Return the bytes.

        Raises:
            MediaRefused: the file is gone, or has changed since it was hashed.
        """
        try:
            content = self.content if self.path is None else self.path.read_bytes()
        except OSError as exc:
            raise refused("not_found", f"cannot be read any more ({exc.strerror})") from exc
        if content is None or hashlib.sha256(content).hexdigest() != self.sha256:
            raise refused("changed", "was changed while it was ingested")
        return content


Media = MediaFile | MediaRefused | None


@dataclass(frozen=True)
class SourceBatch:
    """Everything a source holds; `rows`, `locators` and each list of `media` are aligned."""

    source: str
    rows: pa.Table
    locators: tuple[str, ...]
    unreadable: tuple[Unreadable, ...]
    media: Mapping[str, Sequence[Media]]
    sha256: str
    """Hash of the table's bytes and of every media file it names."""
    unused_columns: tuple[str, ...]
    """Columns of the table that the contract does not name, the first `MOST_UNUSED` of them, fit to be shown."""

    def __len__(self) -> int:
        return len(self.rows) + len(self.unreadable)


@dataclass
class _TableFile:
    """One file of the table."""

    path: Path
    name: str
    sha256: str
    columns: dict[str, list[str | None]] = field(default_factory=dict)
    locators: list[str] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    rows: pa.Table | None = None
    found: dict[str, None] = field(default_factory=dict)
    """Names of its columns, in their order, whether they are read or not."""

    def refuse(self, number: int, reason: str, /, **payload: Any) -> None:
        """Note a row that cannot be read."""
        self.unreadable.append(Unreadable(self.locator(number), f"row:{reason}", payload))

    def accept(self, number: int, cells: Cells) -> None:
        """Add a row of text."""
        if not all(value is None or is_unicode(value) for value in cells.values()):
            self.refuse(number, "encoding", **{name: _printable(value) for name, value in cells.items()})
            return
        self.locators.append(self.locator(number))
        for name, values in self.columns.items():
            values.append(cells.get(name))

    def locator(self, number: int) -> str:
        """Name the place of a row: the file and, from 1, its line (its row in Parquet)."""
        return f"{self.name}:{number}"


def read_source(contract: Contract, source_dir: Path) -> SourceBatch:
    """Read the table that `contract.server` names, relative to `source_dir`, and hash the media it names.

    Raises:
        SourceNotFound: there is no such file.
        BatchRefused: a file of the table cannot be read at all.
    """
    readers = {"csv": _read_csv, "jsonl": _read_jsonl, "parquet": _read_parquet}
    names = [column.name for column in contract.columns]
    files = [_open(path, source_dir) for path in table_files(contract, source_dir)]
    for file in files:
        readers[contract.server.format](file, names)
    rows = _concatenate(files, contract)
    found = {name: None for file in files for name in file.found}
    media = {column.name: _find_media(column, rows, files) for column in contract.media_columns}
    return SourceBatch(
        source=str(source_dir.absolute() / contract.server.path),
        rows=rows,
        locators=tuple(locator for file in files for locator in file.locators),
        unreadable=tuple(row for file in files for row in file.unreadable),
        media=media,
        sha256=_fingerprint(files, media),
        unused_columns=tuple(_shown_name(name) for name in islice((n for n in found if n not in names), MOST_UNUSED)),
    )


def locate(folder: Path, value: str, limits: MediaLimits) -> Path:
    """Return the file that the cell `value` of a table in `folder`, a path without links, names.

    Raises:
        MediaRefused: it is outside the folder, not a plain file, or larger than allowed.
    """
    try:
        path = (folder / value).resolve()
        is_inside = path.is_relative_to(folder)
        status = path.stat() if is_inside else None
    except (OSError, ValueError, RuntimeError) as exc:
        raise refused("not_found", f"{value[:200]!r} is not there") from exc
    if status is None:
        raise refused("outside_source", f"{value[:200]!r} is outside the folder of its table")
    if not stat.S_ISREG(status.st_mode):
        raise refused("not_found", f"{value[:200]!r} is not a file")
    if status.st_size > limits.max_bytes:
        raise refused("too_many_bytes", f"has {status.st_size:,} bytes, at most {limits.max_bytes:,} are allowed")
    return path


def _open(path: Path, source_dir: Path) -> _TableFile:
    name = path.relative_to(source_dir) if path.is_relative_to(source_dir) else path
    return _TableFile(path, str(name), _sha256_of(path))


def table_files(contract: Contract, source_dir: Path) -> list[Path]:
    """Return the files of the table that `contract.server` names, relative to `source_dir`.

    Raises:
        SourceNotFound: there is none.
    """
    pattern = contract.server.path
    if "://" in pattern:
        raise SourceNotFound(
            f"The source of {contract.domain} is {pattern}, but sources are read from this machine's folders. Copy or "
            "mount it, and give its path in the contract.",
            path=pattern,
        )
    exact = source_dir / pattern
    files = sorted(path for path in _matches(source_dir, pattern) if path.is_file())
    if not files:
        raise SourceNotFound(
            f"The source of {contract.domain} is not there: no file matches {exact}. The path in the contract is "
            "relative to the contract's folder, or to --source if it is given.",
            path=str(exact),
        )
    return files


def _matches(source_dir: Path, pattern: str) -> list[Path]:
    """Return what `pattern` matches; one that is no pattern (`a**b`) matches nothing."""
    exact = source_dir / pattern
    if exact.exists() or Path(pattern).is_absolute():
        return [exact]
    try:
        return list(source_dir.glob(pattern))
    except (ValueError, NotImplementedError, OSError):
        return []


def _read_csv(file: _TableFile, names: Sequence[str]) -> None:
    """Read comma-separated text; a quote that is never closed would swallow the rest, so it refuses the batch."""
    csv.field_size_limit(MAX_CELL_CHARACTERS)
    with file.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        reader = csv.reader(text, strict=True)
        header = _header(file, reader)
        if not set(names) & set(header):
            found = ", ".join(map(_shown_name, header))[:200]
            raise _unreadable(file.path, f"its first line names no column of the contract: {found}")
        file.found = dict.fromkeys(header)
        file.columns = {name: [] for name in names if name in header}
        for line, cells in _csv_rows(file, reader):
            if len(cells) == len(header):
                file.accept(line, dict(zip(header, cells, strict=True)))
            elif cells:
                file.refuse(line, "columns", cells=[_printable(cell) for cell in cells], needed=len(header))


def _header(file: _TableFile, reader: Any) -> list[str]:
    try:
        header: list[str] = next(reader, [])
    except csv.Error as exc:
        raise _unreadable(file.path, f"line 1: {exc}") from exc
    if not header or len(set(header)) < len(header):
        raise _unreadable(file.path, "its first line must name the columns, each once")
    return header


def _csv_rows(file: _TableFile, reader: Any) -> Iterator[tuple[int, list[str]]]:
    while True:
        line = reader.line_num + 1
        try:
            yield line, next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            if "unexpected end of data" in str(exc):
                raise _unreadable(file.path, f"a quote opened in line {line} is never closed") from exc
            file.refuse(line, "malformed", problem=str(exc))


def _read_jsonl(file: _TableFile, names: Sequence[str]) -> None:
    """Read one JSON object a line; numbers and booleans become the text the row mask judges."""
    file.columns = {name: [] for name in names}
    with file.path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                _read_json_line(file, number, line, names)


def _read_json_line(file: _TableFile, number: int, line: bytes, names: Sequence[str]) -> None:
    try:
        row = json.loads(line.decode("utf-8-sig"), parse_constant=_no_constant)
    except UnicodeDecodeError:
        file.refuse(number, "encoding", line=line.decode("utf-8", "backslashreplace"))
        return
    except (ValueError, RecursionError) as exc:
        file.refuse(number, "not_json", line=line.decode(), problem=str(exc))
        return
    if not isinstance(row, dict):
        file.refuse(number, "not_an_object", line=line.decode())
    elif any(isinstance(row.get(name), (list, dict)) for name in names):
        file.refuse(number, "nested_value", line=line.decode())
    else:
        file.found.update(dict.fromkeys(row))
        file.accept(number, {name: _json_text(row.get(name)) for name in names})


def _json_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _read_parquet(file: _TableFile, names: Sequence[str]) -> None:
    try:
        with pq.ParquetFile(file.path) as parquet:
            present = [name for name in names if name in parquet.schema_arrow.names]
            rows = parquet.read(columns=present).select(present)
            file.found = dict.fromkeys(parquet.schema_arrow.names)
    except (pa.ArrowException, OSError) as exc:
        raise _unreadable(file.path, str(exc).partition("\n")[0]) from exc
    file.rows = pa.table({name: _plain(file.path, name, rows[name]) for name in present})
    file.locators = [file.locator(row) for row in range(1, len(rows) + 1)]


def _plain(path: Path, name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = values.type
    if pa.types.is_dictionary(kind):
        return values.cast(kind.value_type)
    if pa.types.is_nested(kind):
        raise _unreadable(path, f"the column {name} holds {kind}, and a cell must be one value")
    if pa.types.is_float16(kind):
        return values.cast(pa.float32())
    try:
        values.validate(full=True)
    except pa.ArrowInvalid as exc:
        raise _unreadable(path, f"the column {name} is damaged ({exc})") from exc
    return values


def _concatenate(files: Sequence[_TableFile], contract: Contract) -> pa.Table:
    tables = [_as_table(file, contract) for file in files]
    try:
        return pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    except pa.ArrowException as exc:
        raise BatchRefused(
            f"The files of {contract.domain} do not fit together: {exc}. Write the same types to every file.",
            domain=contract.domain,
        ) from exc


def _as_table(file: _TableFile, contract: Contract) -> pa.Table:
    if file.rows is not None:
        return file.rows
    schema = source_schema(contract)
    return pa.table({name: pa.array(values, schema.field(name).type) for name, values in file.columns.items()})


def _find_media(column: Column, rows: pa.Table, files: Sequence[_TableFile]) -> list[Media]:
    """Find and hash what each cell of a media column names; a file named twice is read once."""
    if column.name not in rows.column_names:
        return []
    limits = limits_of(column)
    folders = [folder for file in files for folder in [file.path.parent.resolve()] * len(file.locators)]
    known: dict[tuple[Path, Any], Media] = {}
    found = []
    for folder, cell in zip(folders, rows[column.name].to_pylist(), strict=True):
        key = (folder, cell)
        if key not in known:
            known[key] = _media_of(folder, cell, limits)
        found.append(known[key])
    return found


def _media_of(folder: Path, cell: Any, limits: MediaLimits) -> Media:
    """Return what one cell holds: nothing, bytes, or the path of a file."""
    if cell in (None, "", b""):
        return None
    if isinstance(cell, bytes):
        return MediaFile(hashlib.sha256(cell).hexdigest(), content=cell)
    try:
        path = locate(folder, str(cell), limits)
        return MediaFile(_sha256_of(path), path)
    except MediaRefused as refusal:
        return refusal
    except SourceNotFound:
        return refused("not_found", f"{str(cell)[:200]!r} cannot be read")


def _sha256_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise SourceNotFound(f"{path} cannot be read: {exc.strerror}. Check its permissions.", path=str(path)) from exc


def _fingerprint(files: Sequence[_TableFile], media: Mapping[str, Sequence[Media]]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"table {file.path.name} {file.sha256}\n".encode())
    for column in sorted(media):
        for found in media[column]:
            state = found.code if isinstance(found, MediaRefused) else found and found.sha256
            digest.update(f"{column} {state}\n".encode())
    return digest.hexdigest()


def is_unicode(text: str) -> bool:
    """Say whether a text holds no halves of pairs, which nothing can encode."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _printable(text: str | None) -> str | None:
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()


def _shown_name(name: str) -> str:
    """Return a name from a source with what a terminal would obey written out, and cut short."""
    plain = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in name)
    return plain[:LONGEST_NAME] or "(no name)"


def _unreadable(path: Path, problem: str) -> BatchRefused:
    return BatchRefused(
        f"{path} cannot be read as a table: {problem}. Nothing was written. Correct the file, or the format in the "
        "contract, and ingest again.",
        path=str(path),
    )
