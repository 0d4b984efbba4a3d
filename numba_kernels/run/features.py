"""Features, or what gives their rows for slices: reading some, and whether most numbers are 0."""

from __future__ import annotations

import concurrent.futures
import mmap
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ..errors import GraphError
from ..given import REAL, given_array
from ..selected import Selected, read_of

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
    given = given_array(features[start:stop], "rows of features", REAL)
    rows = _brought_in(given) if mapped_in(features) is not None else as_floats(given)
    if rows.shape != (stop - start, features.shape[1]):
        raise GraphError(
            f"features of shape {tuple(features.shape)} gave shape {rows.shape} for rows {start} to {stop}."
        )
    return rows


def _brought_in(given) -> np.ndarray:
    """Rows that are mapped from a file, copied; their pages are then left to the system."""
    with np.errstate(over="ignore"):
        rows = np.array(given, np.float32, order="C")
    file: Any = getattr(mapped_in(given), "_mmap", None)
    if hasattr(file, "madvise") and given.flags.c_contiguous and given.size:
        start = _address(given) - _address(np.frombuffer(file, np.uint8))
        first = start // mmap.PAGESIZE * mmap.PAGESIZE
        file.madvise(mmap.MADV_DONTNEED, first, start + given.nbytes - first)
    return rows


def _address(array):
    return array.__array_interface__["data"][0]


def mapped_in(features):
    """The ``numpy.memmap``, shared with its file, that rows of features come from; None where they come from none."""
    array = getattr(features, "given", features)
    while array is not None:
        if isinstance(array, np.memmap) and getattr(array, "mode", None) in ("r", "r+", "w+"):
            return array
        array = array.base if isinstance(array, np.ndarray) else None
    return None


def read_ahead(arrays: dict, batches: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, dict]]:
    """Batches, from a row to before another, and the rows of ``arrays`` by value.

    Where an array is mapped from a file, a thread reads the next batch while the caller is busy with one.
    """

    def read(batch):
        return *batch, {value: rows_of(array, *batch) for value, array in arrays.items()}

    if all(mapped_in(array) is None for array in arrays.values()):
        yield from map(read, batches)
        return
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        ahead = None
        for batch in batches:
            upcoming = pool.submit(read, batch)
            if ahead is not None:
                yield ahead.result()
            ahead = upcoming
        if ahead is not None:
            yield ahead.result()


def as_floats(array) -> np.ndarray:
    """An array as C-contiguous float32; that numbers are finite is checked when they are read."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, np.float32)


def is_sparse(array, selected: Selected | None = None) -> bool:
    """Whether so much of a matrix is 0 that its products are faster looked up; judged by some of its rows.

    Where it is whole and some of its columns are read, ``selected``, by these.
    """
    sample = given_array(array[:: max(len(array) // _SAMPLED_ROWS, 1)], "rows of features", REAL)
    read = read_of(sample, selected)
    sample = as_floats(sample if read is None else read.of(sample))
    return bool(np.count_nonzero(sample) < SPARSE_BELOW * sample.size)
