"""Functions of shapes: views, joins, parts, copies; and arrays made of nothing but a shape."""

from __future__ import annotations

import math

import numpy as np

from .kinds import ARRAY, ARRAYS, BOOL, DTYPE, INT, INTS, NUMBER, choice, optional
from .promotion import promoted
from .registry import function, register


def _flat(numbers):
    """Whole numbers given one by one or as a list."""
    return [*numbers[0]] if len(numbers) == 1 and isinstance(numbers[0], list) else [*numbers]


# -- views ------------------------------------------------------------------------------------------------------------
@function(input=ARRAY, shape=INTS)
def reshape(input, *shape):
    return input.reshape(_flat(shape))


@function(input=ARRAY, other=ARRAY)
def reshape_as(input, other):
    return input.reshape(other.shape)


@function(input=ARRAY, start_dim=INT, end_dim=INT)
def flatten(input, start_dim=0, end_dim=-1):
    if input.ndim == 0:
        return input.reshape(1)
    start, end = start_dim % input.ndim, end_dim % input.ndim
    return input.reshape(*input.shape[:start], math.prod(input.shape[start : end + 1]), *input.shape[end + 1 :])


@function(input=ARRAY, dim=INT, sizes=INTS)
def unflatten(input, dim, sizes):
    dim %= input.ndim
    known = math.prod(size for size in sizes if size != -1)
    sizes = [input.shape[dim] // known if size == -1 else size for size in sizes]
    return input.reshape(*input.shape[:dim], *sizes, *input.shape[dim + 1 :])


@function(input=ARRAY, dim=optional(INTS))
def squeeze(input, dim=None):
    if dim is None:
        return np.squeeze(input)
    dims = dim if isinstance(dim, list) else [dim]
    return np.squeeze(input, tuple(d for d in dims if input.ndim and input.shape[d] == 1))


@function(input=ARRAY, dim=INT)
def unsqueeze(input, dim):
    return np.expand_dims(input, dim)


@function(input=ARRAY, dim0=INT, dim1=INT)
def transpose(input, dim0, dim1):
    return np.swapaxes(input, dim0, dim1)


@function(input=ARRAY)
def t(input):
    if input.ndim > 2:
        raise ValueError("t is of at most two dimensions; use transpose")
    return input.T


@function(input=ARRAY, dims=INTS)
def permute(input, *dims):
    return np.transpose(input, _flat(dims))


@function(input=ARRAY, source=INTS, destination=INTS)
def movedim(input, source, destination):
    return np.moveaxis(input, source, destination)


@function(input=ARRAY, dims=INTS)
def flip(input, *dims):
    return np.flip(input, tuple(_flat(dims)))


@function(input=ARRAY, shifts=INTS, dims=optional(INTS))
def roll(input, shifts, dims=None):
    return np.roll(input, shifts, dims)


@function(input=ARRAY, size=INTS)
def expand(input, *size):
    size = _flat(size)
    shape = [1] * (len(size) - input.ndim) + [*input.shape]
    return np.broadcast_to(input, [have if wanted == -1 else wanted for have, wanted in zip(shape, size)])


@function(input=ARRAY, other=ARRAY)
def expand_as(input, other):
    return np.broadcast_to(input, other.shape)


@function(input=ARRAY, dim=INT, start=INT, length=INT)
def narrow(input, dim, start, length):
    if not 0 <= start <= start + length <= input.shape[dim]:
        raise IndexError(f"rows {start} to {start + length} of {input.shape[dim]}")
    return np.moveaxis(np.moveaxis(input, dim, 0)[start : start + length], 0, dim)


@function(input=ARRAY, dim=INT, index=INT)
def select(input, dim, index):
    return np.moveaxis(input, dim, 0)[index]


@function(input=ARRAY, offset=INT, dim1=INT, dim2=INT)
def diagonal(input, offset=0, dim1=0, dim2=1):
    return np.diagonal(input, offset, dim1, dim2)


@function(input=ARRAY, diagonal=INT)
def diag(input, diagonal=0):
    if input.ndim not in (1, 2):
        raise ValueError("diag is of one or two dimensions")
    return np.diag(input, diagonal)


# -- joins and parts --------------------------------------------------------------------------------------------------
@function(tensors=ARRAYS, dim=INT)
def cat(tensors, dim=0):
    whole = [array for array in tensors if array.shape != (0,)] or tensors
    return np.concatenate(promoted(*whole), axis=dim)


@function(tensors=ARRAYS, dim=INT)
def stack(tensors, dim=0):
    return np.stack(promoted(*tensors), axis=dim)


@function(tensor=ARRAY, split_size_or_sections=INTS, dim=INT)
def split(tensor, split_size_or_sections, dim=0):
    total = tensor.shape[dim]
    if isinstance(split_size_or_sections, list):
        if np.sum(split_size_or_sections, dtype=np.int64) != total:
            raise ValueError(f"sections {split_size_or_sections} of {total}")
        ends = np.cumsum(split_size_or_sections, dtype=np.int64)[:-1]
    else:
        ends = np.arange(split_size_or_sections, total, split_size_or_sections)
    return np.split(tensor, ends, axis=dim)


@function(input=ARRAY, chunks=INT, dim=INT)
def chunk(input, chunks, dim=0):
    return split(input, max(-(-input.shape[dim] // chunks), 1), dim)


@function(input=ARRAY, dim=INT)
def unbind(input, dim=0):
    return [*np.moveaxis(input, dim, 0)]


# -- copies -----------------------------------------------------------------------------------------------------------
@function(input=ARRAY, repeats=INTS)
def repeat(input, *repeats):
    repeats = _flat(repeats)
    if len(repeats) < input.ndim:
        raise ValueError(f"{len(repeats)} repeats of {input.ndim} dimensions")
    return np.tile(input, repeats)


@function(input=ARRAY, dims=INTS)
def tile(input, *dims):
    return np.tile(input, _flat(dims))


@function(input=ARRAY, repeats=INT | ARRAY, dim=optional(INT))
def repeat_interleave(input, repeats, dim=None):
    if isinstance(repeats, np.ndarray) and repeats.dtype != np.int64:
        raise TypeError(f"repeats are whole numbers, got {repeats.dtype}")
    return np.repeat(input, repeats, axis=dim)


@function(input=ARRAY, pad=INTS, mode=choice("constant"), value=optional(NUMBER))
def pad(input, pad, mode="constant", value=None):
    sides = [(0, 0)] * (input.ndim - len(pad) // 2) + [*zip(pad[::2], pad[1::2])][::-1]
    if min(pad, default=0) < 0:
        raise ValueError("a pad of fewer than 0 numbers; use a slice")
    return np.pad(input, sides, constant_values=0 if value is None else value)


@function(input=ARRAY, diagonal=INT)
def tril(input, diagonal=0):
    return np.tril(input, diagonal)


@function(input=ARRAY, diagonal=INT)
def triu(input, diagonal=0):
    return np.triu(input, diagonal)


# -- arrays made of a shape -------------------------------------------------------------------------------------------
def _filled(name, number):
    def of_size(*size, dtype="float32"):
        return np.full(_flat(size), number, dtype)

    def like(input, *, dtype=None):
        return np.full(input.shape, number, dtype or input.dtype)

    register(name, of_size, size=INTS, dtype=DTYPE)
    register(f"{name}_like", like, input=ARRAY, dtype=optional(DTYPE))


_filled("zeros", 0)
_filled("ones", 1)


def _dtype_of(number):
    return {bool: np.bool_, int: np.int64}.get(type(number), np.float32)


@function(input=ARRAY)
def numel(input):
    return np.array(input.size)


@function(size=INTS, fill_value=NUMBER | BOOL, dtype=optional(DTYPE))
def full(size, fill_value, *, dtype=None):
    return np.full(size, fill_value, dtype or _dtype_of(fill_value))


@function(input=ARRAY, fill_value=NUMBER | BOOL, dtype=optional(DTYPE))
def full_like(input, fill_value, *, dtype=None):
    return np.full(input.shape, fill_value, dtype or input.dtype)


@function(start=NUMBER, end=optional(NUMBER), step=NUMBER, dtype=optional(DTYPE))
def arange(start, end=None, step=1, *, dtype=None):
    start, end = (0, start) if end is None else (start, end)
    is_float = any(isinstance(number, float) for number in (start, end, step))
    return np.arange(start, end, step, dtype=np.float64 if is_float else np.int64).astype(
        dtype or (np.float32 if is_float else np.int64)
    )


@function(start=NUMBER, end=NUMBER, steps=INT)
def linspace(start, end, steps):
    return np.linspace(start, end, steps, dtype=np.float32)


@function(n=INT, m=optional(INT), dtype=DTYPE)
def eye(n, m=None, *, dtype="float32"):
    return np.eye(n, m, dtype=dtype)
