"""Encoders: one field of an item in, one vector out. Frozen, offline, named after everything that shapes the output.

An encoder takes decoded values (a string, a picture's pixels, a clip's samples, a video's frames, a table row) and
never reads an item's file, the lake or the network. Which items are encoded, and where vectors go, is `tasks.embed`.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float32

from data_contracts.names import Modality


class Encoder(Protocol):
    """Maps decoded values of one modality to vectors of one size."""

    @property
    def encoder_id(self) -> str:
        """Name that changes whenever the output would: model, version, digest of the weights, preprocessing."""

    @property
    def modality(self) -> Modality:
        """What it encodes."""

    @property
    def facet(self) -> str | None:
        """What sets it apart from other encoders of the same column; None if it is the only one."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    @property
    def batch_size(self) -> int:
        """How many decoded values to hold in memory at once."""

    def encode(self, items: Sequence[Any]) -> Float32[np.ndarray, "item dim"]:
        """Return one vector per item, in order; a vector never depends on the other items."""


def view_name(column: str, encoder: Encoder) -> str:
    """Name of the view that `encoder` makes of `column`: the column, or `column.facet` if it is encoded twice."""
    return column if encoder.facet is None else f"{column}.{encoder.facet}"


@cache
def default_encoders(modality: Modality) -> tuple[Encoder, ...]:
    """Return the encoders that need no fitting for `modality`: none for `tabular`, which is fitted per domain."""
    from tasks.encoders.audio import SpectrumEncoder, SpeechEncoder
    from tasks.encoders.image import ImageEncoder
    from tasks.encoders.text import TextEncoder
    from tasks.encoders.video import VideoEncoder

    kinds: dict[Modality, tuple[type[Encoder], ...]] = {
        "text": (TextEncoder,),
        "image": (ImageEncoder,),
        "audio": (SpectrumEncoder, SpeechEncoder),
        "video": (VideoEncoder,),
        "tabular": (),
    }
    return tuple(kind() for kind in kinds[modality])
