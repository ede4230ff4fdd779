"""Matrices as columns of lists and back, without a loop over rows."""

import numpy as np
import pyarrow as pa
from jaxtyping import Float32


def to_vectors(matrix: Float32[np.ndarray, "row dim"]) -> pa.ListArray:
    """Return the rows of a matrix as a column of lists."""
    offsets = np.arange(0, matrix.size + 1, matrix.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, matrix.ravel())


def to_matrix(vectors: pa.ChunkedArray) -> Float32[np.ndarray, "row dim"]:
    """Return a column of equally long lists, at least one, as a matrix."""
    flat = vectors.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, np.float32).reshape(len(vectors), -1)
