"""Answer a request of raw values (texts, base64 media, table columns) with a registered domain model.

The same encoders and the same decoding limits as at ingest; what an encoder was fitted with travels in the model's own
`config.json`. MLflow's pyfunc (`tasks.serving_entry`) is a thin wrapper over `Scorer`.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa

from data_contracts.arrow_schema import source_schema
from data_contracts.contract import MEDIA_ROLES, Contract, Rules, View
from data_contracts.errors import ContractError, MediaRefused, ModelRefused
from tasks.source import is_unicode

if TYPE_CHECKING:
    from torch import Tensor

    from models.features import DomainData, ViewSpec
    from models.learner import DomainModel
    from tasks.encoders import Encoder

Row = Mapping[str, Any]
"""Column name to raw value; media as base64."""

LARGEST_WHOLE = 2**53
"""Up to this a float holds every whole number."""

_WORDS = {
    "integer": "a whole number",
    "number": "a finite number",
    "boolean": "true or false",
    "date": "a date such as 2026-02-28",
    "timestamp": "an instant such as 2026-02-28T12:00:00Z",
}


@dataclass(frozen=True)
class Scorer:
    """A domain model with everything it needs to answer from raw values."""

    model: "DomainModel"
    contract: Contract
    encoder_states: Mapping[str, str]

    @classmethod
    def read(cls, config: Path, weights: Path) -> "Scorer":
        """Build the scorer from the two files of a registered version."""
        from safetensors.torch import load_file

        from models.catalogue import load_domain_model

        document = json.loads(config.read_text(encoding="utf-8"))
        context = document["context"]
        model = load_domain_model(document["model"], load_file(weights))
        return cls(model, Contract.model_validate(context["contract"]), context["encoder_states"])

    def answer(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Return label, probability and all probabilities of each row; a row without any view gets equal ones.

        Raises:
            ContractError: a cell holds several values or is no Unicode, a table column is not of its type, or media is
                no base64.
            MediaRefused: media cannot be decoded.
        """
        self._check_cells(rows)
        probabilities = self.model.predict(self.features(rows)).tolist()
        return [self._answer(row) for row in probabilities]

    def check_columns(self, given: Collection[str]) -> None:
        """Check that a request has some column that the model looks at.

        Raises:
            ContractError: it has none, so that every row would get the same answer.
        """
        fields = {name.partition(".")[0] for name in self._specs}
        known = [name for field in self.contract.columns_to_encode if field.name in fields for name in field.columns]
        if not set(known) & set(given):
            raise ContractError(
                f"the request has no column that the model of {self.contract.domain!r} looks at: {', '.join(known)}. "
                "Name at least one of them as the contract does.",
                columns=known,
            )

    def _check_cells(self, rows: Sequence[Row]) -> None:
        names = [name for field in self.contract.columns_to_encode for name in field.columns]
        for number, row in enumerate(rows):
            for name in names:
                value = row.get(name)
                if pd.api.types.is_list_like(value):
                    raise _wrong_cell(name, number, "one value", value)
                if isinstance(value, str) and not is_unicode(value):
                    raise _wrong_cell(name, number, "text in Unicode", value)

    def features(self, rows: Sequence[Row]) -> "DomainData":
        """Encode every field the model looks at."""
        import torch

        from models.features import DomainData

        columns: dict[str, tuple[Tensor, Tensor]] = {}
        for field in self.contract.columns_to_encode:
            encoders = self._encoders(field)
            contents = self._contents(rows, field) if encoders else []
            for spec, encoder in encoders:
                columns[spec.name] = _encode(contents, encoder, spec)
        views = self.model.views
        return DomainData(
            domain=self.contract.domain,
            views=views,
            features={view.name: columns[view.name][0] for view in views},
            presence=torch.stack([columns[view.name][1] for view in views], dim=1),
            labels=torch.full((len(rows),), -1),
            classes=self.model.classes,
            item_ids=tuple(str(row.get(self.contract.id_column, number)) for number, row in enumerate(rows)),
        )

    def _answer(self, probabilities: Sequence[float]) -> dict[str, Any]:
        named = dict(zip(self.model.classes, probabilities, strict=True))
        label = max(named, key=lambda name: named[name])
        return {"label": label, "probability": named[label], "probabilities": named}

    def _encoders(self, field: View) -> "list[tuple[ViewSpec, Encoder]]":
        """Return the views the model makes of a field, each with its encoder.

        Raises:
            ModelRefused: this installation would encode differently from how the model was trained.
        """
        from tasks.encoders import default_encoders, view_name
        from tasks.encoders.tabular import TabularEncoder

        if field.modality == "tabular":
            states = [self.encoder_states[name] for name in self._specs if name == field.name]
            encoders: tuple[Encoder, ...] = tuple(map(TabularEncoder.from_state, states))
        else:
            encoders = default_encoders(field.modality)
        pairs = [
            (self._specs[name], encoder)
            for encoder in encoders
            if (name := view_name(field.name, encoder)) in self._specs
        ]
        for spec, encoder in pairs:
            if spec.encoder_id != encoder.encoder_id:
                raise ModelRefused(
                    f"the model of {self.contract.domain!r} reads view {spec.name!r} as encoded by "
                    f"{spec.encoder_id!r}, but this installation has {encoder.encoder_id!r}. "
                    "Adapt the domain again with this installation.",
                    view=spec.name,
                )
        return pairs

    @cached_property
    def _specs(self) -> "dict[str, ViewSpec]":
        return {spec.name: spec for spec in self.model.views}

    def _contents(self, rows: Sequence[Row], field: View) -> list[Any]:
        """Return what an encoder takes for each row, None where the field is missing."""
        if field.modality == "text":
            from tasks.content import clean_text

            return [clean_text(_text(row.get(field.name))) for row in rows]
        if field.modality in MEDIA_ROLES:
            return self._decoded([row.get(field.name) for row in rows], field)
        table = self._table(rows).select(list(field.columns)).to_pylist()
        return [cells if any(cell is not None for cell in cells.values()) else None for cells in table]

    def _table(self, rows: Sequence[Row]) -> pa.Table:
        """Return the table columns of each row, typed as ingest types them.

        Raises:
            ContractError: a cell is not of its column's type.
        """
        from tasks.validate import mask_rows, type_rows

        contract = self._table_contract
        cells = {column.name: [_text(row.get(column.name)) for row in rows] for column in contract.columns}
        cells[contract.id_column] = [str(number) for number in range(len(rows))]
        batch = pa.table(cells, source_schema(contract))
        for number, reasons in enumerate(mask_rows(batch, contract)["reasons"].to_pylist()):
            for reason in reasons:
                column = contract.column(reason.partition(":")[0])
                raise _wrong_cell(column.name, number, _WORDS[column.logical_type], rows[number][column.name])
        return type_rows(batch, contract)

    @cached_property
    def _table_contract(self) -> Contract:
        """What a contract says of the types of its table columns, and of nothing else."""
        columns = [column for column in self.contract.columns if column.role in ("id", "tabular")]
        free = tuple(column.model_copy(update={"rules": Rules()}) for column in columns)
        return self.contract.model_copy(update={"columns": free, "batch_rules": ()})

    def _decoded(self, values: Sequence[Any], field: View) -> list[Any]:
        from tasks.decode import MediaModality, decode_many, limits_of

        present = {number: _from_base64(value, field.name) for number, value in enumerate(values) if _is_given(value)}
        refs = [(hashlib.sha256(content).hexdigest(), content) for content in present.values()]
        limits = limits_of(self.contract.column(field.name))
        decoded = decode_many(refs, cast(MediaModality, field.modality), limits)
        contents: list[Any] = [None] * len(values)
        for number, content in zip(present, decoded, strict=True):
            if isinstance(content, MediaRefused):
                raise content
            contents[number] = content
        return contents


def _encode(contents: Sequence[Any], encoder: "Encoder", spec: "ViewSpec") -> "tuple[Tensor, Tensor]":
    import torch

    is_present = np.array([content is not None for content in contents])
    matrix = np.zeros((len(contents), spec.dim), np.float32)
    if is_present.any():
        matrix[is_present] = encoder.encode([content for content in contents if content is not None])
    return torch.from_numpy(matrix), torch.from_numpy(is_present)


def _is_given(value: Any) -> bool:
    """Say whether a value is there; a data frame has several ways to say that it is not."""
    return not (isinstance(value, str) and value == "") and not pd.isna(value)


def _text(value: Any) -> str | None:
    """Return a value as the text that ingest would read in its place.

    A whole number is written without a fraction: a data frame makes a float of one that is beside a missing one.
    """
    if not _is_given(value):
        return None
    if isinstance(value, bool | np.bool_):
        return str(value).lower()
    if isinstance(value, float | np.floating) and float(value).is_integer() and abs(float(value)) < LARGEST_WHOLE:
        return str(int(value))
    return str(value)


def _wrong_cell(column: str, row: int, needed: str, value: Any) -> ContractError:
    return ContractError(
        f"column {column!r} of row {row} of the request must be {needed}, but it is {value!r:.200}.",
        column=column,
        row=row,
    )


def _from_base64(value: Any, column: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError) as exc:
        raise ContractError(
            f"column {column!r} of the request must hold the bytes of a file as base64, but it does not ({exc}).",
            column=column,
        ) from exc
