"""Functions that choose by index arrays; indices are checked before anything is read or written."""

from __future__ import annotations

import numpy as np

from .kinds import ARRAY, BOOL, INDEX, INT, OPERAND, choice, optional
from .promotion import promoted
from .registry import function

_REDUCES: dict[str, np.ufunc] = {
    "sum": np.add,
    "add": np.add,
    "prod": np.multiply,
    "multiply": np.multiply,
    "amax": np.maximum,
    "amin": np.minimum,
}


def checked_index(index: np.ndarray, count: int) -> np.ndarray:
    """``index``, which must be whole numbers from 0 to below ``count``.

    Raises
    ------
    TypeError, IndexError
        Otherwise.
    """
    if index.dtype != np.int64:
        raise TypeError(f"indices are whole numbers, got {index.dtype}")
    if index.size and (index.min() < 0 or index.max() >= count):
        raise IndexError(f"indices from {index.min()} to {index.max()} where there are {count}")
    return index


def _key(index):
    """An index as NumPy takes it: a list is one of each dimension, a list in it an array."""
    parts = index if isinstance(index, list) else [index]
    for part in parts:
        if isinstance(part, np.ndarray) and part.dtype.kind == "f":
            raise TypeError("indices are whole numbers or bools, got float32")
    return tuple(... if isinstance(part, str) else part for part in parts)


@function(input=ARRAY, index=INDEX)
def getitem(input, index):
    return input[_key(index)]


@function(input=ARRAY, index=INDEX, value=OPERAND)
def setitem(input, index, value):
    result = input.copy()
    result[_key(index)] = value
    return result


@function(input=ARRAY, dim=INT, index=ARRAY)
def index_select(input, dim, index):
    return np.take(input, checked_index(index, input.shape[dim]), axis=dim)


def _moved(input, dim, index):
    """``index`` with as much of each other dimension of ``input`` as it has, as a key of it."""
    checked_index(index, input.shape[dim])
    if index.ndim != input.ndim:
        raise ValueError(f"an index of {index.ndim} dimensions for {input.ndim}")
    key = list(np.ogrid[tuple(map(slice, index.shape))])
    if any(n > m for k, (n, m) in enumerate(zip(index.shape, input.shape)) if k != dim % input.ndim):
        raise IndexError(f"an index of shape {index.shape} for {input.shape}")
    key[dim] = index
    return tuple(key)


@function(input=ARRAY, dim=INT, index=ARRAY)
def gather(input, dim, index):
    return input[_moved(input, dim, index)]


@function(input=ARRAY, dim=INT, index=ARRAY, src=OPERAND)
def scatter(input, dim, index, src):
    result, key = input.copy(), _moved(input, dim, index)
    result[key] = _source(src, index)
    return result


@function(input=ARRAY, dim=INT, index=ARRAY, src=ARRAY)
def scatter_add(input, dim, index, src):
    return scatter_reduce(input, dim, index, src, "sum")


@function(input=ARRAY, dim=INT, index=ARRAY, src=ARRAY, reduce=choice(*_REDUCES, "mean"), include_self=BOOL)
def scatter_reduce(input, dim, index, src, reduce, *, include_self=True):
    key, source = _moved(input, dim, index), _source(src, index)
    result, ufunc = input.copy(), np.add if reduce == "mean" else _REDUCES[reduce]
    if not include_self:
        starts = {"prod": 1, "multiply": 1, "amax": _lowest(input.dtype), "amin": _highest(input.dtype)}
        result[key] = starts.get(reduce, 0)
    ufunc.at(result, key, source)
    if reduce == "mean":
        counts = np.full(input.shape, int(include_self), np.int64)
        np.add.at(counts, key, 1)
        counts = np.maximum(counts, 1)
        result = result // counts if result.dtype == np.int64 else result / counts.astype(np.float32)
    return result


def _lowest(dtype):
    return -np.inf if dtype.kind == "f" else np.iinfo(dtype).min


def _highest(dtype):
    return np.inf if dtype.kind == "f" else np.iinfo(dtype).max


def _source(src, index):
    if not isinstance(src, np.ndarray) or src.ndim == 0:
        return src
    return src[tuple(map(slice, index.shape))]


@function(input=ARRAY, dim=INT, index=ARRAY, source=ARRAY, alpha=INT)
def index_add(input, dim, index, source, *, alpha=1):
    result = np.moveaxis(input.copy(), dim, 0)
    np.add.at(result, checked_index(index, len(result)), np.moveaxis(source, dim, 0) * source.dtype.type(alpha))
    return np.moveaxis(result, 0, dim)


@function(input=ARRAY, dim=INT, index=ARRAY, source=ARRAY)
def index_copy(input, dim, index, source):
    result = np.moveaxis(input.copy(), dim, 0)
    result[checked_index(index, len(result))] = np.moveaxis(source, dim, 0)
    return np.moveaxis(result, 0, dim)


@function(input=ARRAY, dim=INT, index=ARRAY, value=OPERAND)
def index_fill(input, dim, index, value):
    result = np.moveaxis(input.copy(), dim, 0)
    result[checked_index(index, len(result))] = value
    return np.moveaxis(result, 0, dim)


@function(input=ARRAY, weight=ARRAY, padding_idx=optional(INT))
def embedding(input, weight, padding_idx=None):
    return np.take(weight, checked_index(input, len(weight)), axis=0)


@function(input=ARRAY, num_classes=INT)
def one_hot(input, num_classes=-1):
    count = int(input.max(initial=-1)) + 1 if num_classes == -1 else num_classes
    return (checked_index(input, count)[..., None] == np.arange(count)).astype(np.int64)


@function(input=ARRAY, mask=ARRAY)
def masked_select(input, mask):
    if mask.dtype != np.bool_:
        raise TypeError(f"masked_select takes a mask of bools, got {mask.dtype}")
    return np.broadcast_to(input, np.broadcast_shapes(input.shape, mask.shape))[
        np.broadcast_to(mask, np.broadcast_shapes(input.shape, mask.shape))
    ]


@function(input=ARRAY)
def nonzero(input):
    return np.argwhere(input)


@function(input=ARRAY, weights=optional(ARRAY), minlength=INT)
def bincount(input, weights=None, minlength=0):
    index = checked_index(input, np.iinfo(np.int64).max)
    return np.bincount(index, None if weights is None else weights.reshape(-1), minlength)


# -- orders -----------------------------------------------------------------------------------------------------------
def _order(array, dim, descending):
    """Places in order, equal numbers as they stand, NaN the largest."""
    if not descending:
        return np.argsort(array, axis=dim, kind="stable")
    backwards = np.flip(np.argsort(np.flip(array, dim), axis=dim, kind="stable"), dim)
    return array.shape[dim] - 1 - backwards


@function(input=ARRAY, dim=INT, descending=BOOL, stable=BOOL)
def argsort(input, dim=-1, descending=False, stable=False):
    return _order(input, dim, descending)


@function(input=ARRAY, dim=INT, descending=BOOL, stable=BOOL)
def sort(input, dim=-1, descending=False, stable=False):
    places = _order(input, dim, descending)
    return np.take_along_axis(input, places, axis=dim), places


@function(input=ARRAY, k=INT, dim=INT, largest=BOOL, sorted=BOOL)
def topk(input, k, dim=-1, largest=True, sorted=True):
    if not 0 <= k <= input.shape[dim]:
        raise ValueError(f"the first {k} of {input.shape[dim]}")
    places = np.moveaxis(np.moveaxis(_order(input, dim, largest), dim, 0)[:k], 0, dim)
    return np.take_along_axis(input, places, axis=dim), places


@function(sorted_sequence=ARRAY, input=OPERAND, right=BOOL)
def searchsorted(sorted_sequence, input, *, right=False):
    one, two = promoted(sorted_sequence, input)
    return np.searchsorted(one, two, side="right" if right else "left")
