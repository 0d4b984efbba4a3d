"""Functions over dimensions: sums, means, extremes, softmax. Sums of many float32 are accumulated in float64."""

from __future__ import annotations

import math

import numpy as np

from .kinds import ARRAY, BOOL, DTYPE, INT, INTS, NUMBER, choice, optional
from .promotion import floats, refuse_integers
from .registry import function, register


def _axis(dim):
    """``dim`` of torch as ``axis`` of NumPy: an empty list is every dimension."""
    return (tuple(dim) or None) if isinstance(dim, (list, tuple)) else dim


def _counted(array, axis):
    """How many numbers go into one result."""
    if axis is None:
        return array.size
    return math.prod(array.shape[dim] for dim in (axis if isinstance(axis, tuple) else (axis,)))


# Numbers that are added in float32, as torch does, where they stand side by side: much faster than NumPy's sum.
_FEW = 256


def _is_of_few(input, dim):
    """Whether a reduction is over a short last dimension of float32."""
    return type(dim) is int and input.ndim > 1 and dim in (-1, input.ndim - 1) and input.shape[-1] <= _FEW


@function(input=ARRAY, dim=optional(INTS), keepdim=BOOL, dtype=optional(DTYPE))
def sum(input, dim=None, keepdim=False, dtype=None):
    if input.dtype == np.float32 and dtype is None and _is_of_few(input, dim):
        total = np.einsum("...d->...", input)
        return total[..., None] if keepdim else total
    wide = np.float64 if input.dtype.kind == "f" else np.int64
    total = np.sum(input, axis=_axis(dim), keepdims=keepdim, dtype=wide)
    return total.astype(dtype or (np.float32 if wide is np.float64 else np.int64))


def wide_mean(values, axis, keepdim=True):
    """The mean in float64; NaN of no numbers."""
    return np.sum(values, axis=axis, keepdims=keepdim, dtype=np.float64) / np.float64(_counted(values, axis))


@function(input=ARRAY, dim=optional(INTS), keepdim=BOOL, dtype=optional(DTYPE))
def mean(input, dim=None, keepdim=False, dtype=None):
    values = refuse_integers("mean", input if dtype is None else input.astype(dtype))
    return wide_mean(values, _axis(dim), keepdim).astype(np.float32)


@function(input=ARRAY, dim=optional(INT), keepdim=BOOL)
def prod(input, dim=None, keepdim=False):
    wide = np.float64 if input.dtype.kind == "f" else np.int64
    return np.prod(input, axis=dim, keepdims=keepdim, dtype=wide)


@function(input=ARRAY, dim=optional(INTS), unbiased=BOOL, keepdim=BOOL, correction=optional(INT))
def var(input, dim=None, unbiased=True, keepdim=False, correction=None):
    values, axis = refuse_integers("var", input).astype(np.float64), _axis(dim)
    centered = values - wide_mean(values, axis)
    divisor = _counted(values, axis) - (int(unbiased) if correction is None else correction)
    total = np.sum(centered * centered, axis=axis, keepdims=keepdim)
    return (total / np.float64(divisor if divisor > 0 else 0)).astype(np.float32)


@function(input=ARRAY, dim=optional(INTS), unbiased=BOOL, keepdim=BOOL, correction=optional(INT))
def std(input, dim=None, unbiased=True, keepdim=False, correction=None):
    return np.sqrt(var(input, dim, unbiased, keepdim, correction))


@function(input=ARRAY, p=NUMBER | choice("fro"), dim=optional(INTS), keepdim=BOOL)
def norm(input, p=2, dim=None, keepdim=False):
    size, axis = np.abs(refuse_integers("norm", input).astype(np.float64)), _axis(dim)
    if p in (math.inf, -math.inf):
        extreme = np.max if p > 0 else np.min
        return extreme(size, axis=axis, keepdims=keepdim).astype(np.float32)
    if p == 0:
        return np.sum(size != 0, axis=axis, keepdims=keepdim).astype(np.float32)
    p = 2 if p == "fro" else p
    return (np.sum(size**p, axis=axis, keepdims=keepdim) ** (1 / p)).astype(np.float32)


def _extreme(name, whole, first):
    def call(input, dim=None, keepdim=False):
        if dim is None:
            return whole(input)
        places = np.expand_dims(first(input, axis=dim), dim)
        values = np.take_along_axis(input, places, axis=dim)
        return (values, places) if keepdim else (np.squeeze(values, dim), np.squeeze(places, dim))

    register(name, call, input=ARRAY, dim=optional(INT), keepdim=BOOL)


def _extreme_values(name, whole):
    def call(input, dim=None, keepdim=False):
        return whole(input, axis=_axis(dim), keepdims=keepdim)

    register(name, call, input=ARRAY, dim=optional(INTS), keepdim=BOOL)


def _place(name, first):
    def call(input, dim=None, keepdim=False):
        place = first(input, axis=dim)
        if keepdim:
            place = place.reshape([1] * input.ndim) if dim is None else np.expand_dims(place, dim)
        return place

    register(name, call, input=ARRAY, dim=optional(INT), keepdim=BOOL)


_extreme("max", np.max, np.argmax)
_extreme("min", np.min, np.argmin)
_extreme_values("amax", np.max)
_extreme_values("amin", np.min)
_extreme_values("any", np.any)
_extreme_values("all", np.all)
_place("argmax", np.argmax)
_place("argmin", np.argmin)


@function(input=ARRAY, dim=INT)
def cumsum(input, dim):
    wide = np.float64 if input.dtype.kind == "f" else np.int64
    return np.cumsum(input, axis=dim, dtype=wide) if input.ndim else input.astype(wide)


@function(input=ARRAY, dim=INT)
def cumprod(input, dim):
    wide = np.float64 if input.dtype.kind == "f" else np.int64
    return np.cumprod(input, axis=dim, dtype=wide)


@function(input=ARRAY, dim=optional(INTS))
def count_nonzero(input, dim=None):
    return np.count_nonzero(input, axis=_axis(dim))


@function(input=ARRAY, dim=INTS, keepdim=BOOL)
def logsumexp(input, dim, keepdim=False):
    values, axis = floats(input).astype(np.float64), _axis(dim)
    largest = np.max(values, axis=axis, keepdims=True)
    largest = np.where(np.isfinite(largest), largest, 0)
    total = np.log(np.sum(np.exp(values - largest), axis=axis, keepdims=True)) + largest
    return (total if keepdim else np.squeeze(total, axis)).astype(np.float32)


@function(input=ARRAY, dim=INT, dtype=optional(DTYPE))
def softmax(input, dim, dtype=None):
    values = refuse_integers("softmax", input if dtype is None else input.astype(dtype))
    powers = np.exp(values - np.max(values, axis=dim, keepdims=True, initial=-np.inf))
    return powers / sum(powers, dim, True)


@function(input=ARRAY, dim=INT, dtype=optional(DTYPE))
def log_softmax(input, dim, dtype=None):
    values = refuse_integers("log_softmax", input if dtype is None else input.astype(dtype))
    shifted = values - np.max(values, axis=dim, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.sum(np.exp(shifted), axis=dim, keepdims=True))
