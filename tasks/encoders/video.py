"""Video: frames through the image encoder, then their mean (what is shown) and spread (what changes)."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Float32, UInt8

from data_contracts.names import Modality
from tasks.encoders.image import DIM, ImageEncoder

POOLING = 1


class VideoEncoder:
    """Embed clips given as a few sampled frames; a clip of one frame has no spread."""

    modality: Modality = "video"
    facet: str | None = None
    dim = 2 * DIM
    batch_size = 2

    def __init__(self) -> None:
        self.frames = ImageEncoder()

    @cached_property
    def encoder_id(self) -> str:
        """The image encoder's name and how frames are pooled."""
        return f"frames-{POOLING}-{self.frames.encoder_id}"

    def encode(self, items: Sequence[UInt8[np.ndarray, "frame height width 3"]]) -> Float32[np.ndarray, "item 2560"]:
        """Embed each clip."""
        vectors = np.empty((len(items), self.dim), np.float32)
        for row, clip in enumerate(items):
            frames = self.frames.encode(list(clip))
            vectors[row, :DIM] = frames.mean(0)
            vectors[row, DIM:] = frames.std(0)
        return vectors
