"""Features, or what gives their rows for slices: reading some, and whether most numbers are 0."""

from __future__ import annotations

import numpy as np

from ..errors import GraphError
from ..given import REAL, given_array

# Share of numbers that are not 0 up to which looking them up is faster than the dense product.
SPARSE_BELOW = 0.1
_SAMPLED_ROWS = 16


def rows_of(features, start: int, stop: int) -> np.ndarray:
    """Some rows of what gives rows for slices, float32.

    Raises
    ------
    GraphError
        When it gives others than its shape says.
    """
    rows = as_floats(given_array(features[start:stop], "rows of features", REAL))
    if rows.shape != (stop - start, features.shape[1]):
        raise GraphError(
            f"features of shape {tuple(features.shape)} gave shape {rows.shape} for rows {start} to {stop}."
        )
    return rows


def as_floats(array) -> np.ndarray:
    """An array as C-contiguous float32; that numbers are finite is checked when they are read."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, np.float32)


def is_sparse(array) -> bool:
    """Whether so much of a matrix is 0 that its products are faster looked up; judged by some of its rows."""
    sample = as_floats(given_array(array[:: max(len(array) // _SAMPLED_ROWS, 1)], "rows of features", REAL))
    return bool(np.count_nonzero(sample) < SPARSE_BELOW * sample.size)
