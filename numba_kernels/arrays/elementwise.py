"""Functions of numbers, one by one: arithmetic, comparisons, choices."""

from __future__ import annotations

import math

import numpy as np

from .kinds import ARRAY, BOOL, DTYPE, INT, NUMBER, OPERAND, choice, optional
from .promotion import floats, promoted, refuse_integers
from .registry import function, register

_PAIRS = {
    "mul": np.multiply,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
_LOGICAL = {"logical_and": np.logical_and, "logical_or": np.logical_or, "logical_xor": np.logical_xor}
_BITS = {"bitwise_and": np.bitwise_and, "bitwise_or": np.bitwise_or, "bitwise_xor": np.bitwise_xor}
_OF_FLOATS = {
    **{name: getattr(np, name) for name in ("exp", "expm1", "log", "log1p", "log2", "log10", "sqrt", "reciprocal")},
    **{name: getattr(np, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "rsqrt": lambda x: np.float32(1) / np.sqrt(x),
}
_OF_NUMBERS = {
    **{name: getattr(np, name) for name in ("floor", "ceil", "trunc", "square", "isnan", "isinf", "isfinite")},
    "neg": np.negative,
    "abs": np.abs,
    "sign": lambda x: np.sign(np.where(x == x, x, x.dtype.type(0))),  # 0 of NaN
    "logical_not": np.logical_not,
    "bitwise_not": np.invert,
    "clone": np.copy,
}


def _pair(name, ufunc):
    def call(input, other):
        return ufunc(*promoted(input, other))

    register(name, call, input=OPERAND, other=OPERAND)


def _single(name, ufunc, convert):
    def call(input):
        return ufunc(convert(input))

    register(name, call, input=ARRAY)


for _name, _ufunc in {**_PAIRS, **_LOGICAL, **_BITS}.items():
    _pair(_name, _ufunc)
for _name, _ufunc in _OF_FLOATS.items():
    _single(_name, _ufunc, floats)
for _name, _ufunc in _OF_NUMBERS.items():
    _single(_name, _ufunc, np.asarray)


@function(input=OPERAND, other=OPERAND, alpha=NUMBER)
def add(input, other, *, alpha=1):
    one, two = promoted(input, other if alpha == 1 else mul(other, alpha))
    return one + two


@function(input=OPERAND, other=OPERAND, alpha=NUMBER)
def sub(input, other, *, alpha=1):
    one, two = promoted(input, other if alpha == 1 else mul(other, alpha))
    return one - two


def mul(input, other):
    return np.multiply(*promoted(input, other))


@function(input=OPERAND, other=OPERAND, rounding_mode=optional(choice("trunc", "floor")))
def div(input, other, *, rounding_mode=None):
    if rounding_mode == "floor":
        return floor_divide(input, other)
    quotient = np.divide(*floats(input, other))
    return quotient if rounding_mode is None else np.trunc(quotient).astype(promoted(input, other)[0].dtype)


@function(input=OPERAND, other=OPERAND)
def floor_divide(input, other):
    return np.floor_divide(*_divided(input, other))


@function(input=OPERAND, other=OPERAND)
def remainder(input, other):
    return np.remainder(*_divided(input, other))


@function(input=OPERAND, other=OPERAND)
def fmod(input, other):
    return np.fmod(*_divided(input, other))


def _divided(input, other):
    one, two = promoted(input, other)
    if two.dtype.kind != "f" and not two.all():
        raise ZeroDivisionError("integers are divided by 0")
    return one, two


@function(input=OPERAND, exponent=OPERAND)
def pow(input, exponent):
    return np.power(*promoted(input, exponent))


@function(input=ARRAY, other=OPERAND)
def atan2(input, other):
    return np.arctan2(*floats(input, other))


@function(input=ARRAY, decimals=NUMBER)
def round(input, *, decimals=0):
    return np.round(input, int(decimals))


@function(input=ARRAY)
def frac(input):
    return input - np.trunc(refuse_integers("frac", input))


@function(input=ARRAY, min=optional(OPERAND), max=optional(OPERAND))
def clamp(input, min=None, max=None):
    for bound, limit in ((min, np.maximum), (max, np.minimum)):
        input = input if bound is None else limit(*promoted(input, bound))
    return input


@function(input=ARRAY, min=OPERAND)
def clamp_min(input, min):
    return clamp(input, min=min)


@function(input=ARRAY, max=OPERAND)
def clamp_max(input, max):
    return clamp(input, max=max)


@function(condition=ARRAY, input=OPERAND, other=OPERAND)
def where(condition, input, other):
    if condition.dtype != np.bool_:
        raise TypeError(f"where chooses by bools, got {condition.dtype}.")
    return np.where(condition, *promoted(input, other))


@function(input=ARRAY, mask=ARRAY, value=OPERAND)
def masked_fill(input, mask, value):
    if mask.dtype != np.bool_:
        raise TypeError(f"masked_fill takes a mask of bools, got {mask.dtype}.")
    return np.where(mask, np.asarray(value, input.dtype), input)


@function(input=ARRAY, nan=NUMBER, posinf=optional(NUMBER), neginf=optional(NUMBER))
def nan_to_num(input, nan=0.0, posinf=None, neginf=None):
    return np.nan_to_num(input, nan=nan, posinf=posinf, neginf=neginf)


@function(input=ARRAY, end=ARRAY, weight=OPERAND)
def lerp(input, end, weight):
    start, end, weight = floats(input, end, weight)
    return start + weight * (end - start)


@function(input=ARRAY, tensor1=ARRAY, tensor2=ARRAY, value=NUMBER)
def addcmul(input, tensor1, tensor2, *, value=1):
    return add(input, mul(tensor1, tensor2), alpha=value)


@function(input=ARRAY, tensor1=ARRAY, tensor2=ARRAY, value=NUMBER)
def addcdiv(input, tensor1, tensor2, *, value=1):
    return add(input, div(tensor1, tensor2), alpha=value)


@function(input=ARRAY, dtype=DTYPE)
def to(input, dtype):
    return input.astype(dtype)


@function(input=ARRAY, other=ARRAY, rtol=NUMBER, atol=NUMBER, equal_nan=BOOL)
def isclose(input, other, rtol=1e-5, atol=1e-8, equal_nan=False):
    return np.isclose(input, other, rtol, atol, equal_nan)


# erf(x) / x as a polynomial of x², up to where erf is 1 in float32.
_BEYOND = 4.0
_ERF_OVER_X = np.polynomial.Chebyshev.interpolate(
    lambda squares: np.array([math.erf(root) / root for root in np.sqrt(squares)]), 24, [0, _BEYOND**2]
)


@function(input=ARRAY)
def erf(input):
    x = np.clip(floats(input).astype(np.float64), -_BEYOND, _BEYOND)
    return (x * _ERF_OVER_X(x * x)).astype(np.float32)


@function(input=ARRAY, scale=OPERAND, zero_point=OPERAND, offset=OPERAND, top=INT)
def fake_quantize(input, scale, zero_point, offset, top):
    """The values of the codes 0 … top of numbers, as :class:`numba_kernels.spec.FixedGrid` codes them."""
    scale, zero_point, offset = (np.asarray(numbers, np.float32) for numbers in (scale, zero_point, offset))
    values = floats(input).astype(np.float32, copy=False) * (np.float32(1) / scale)
    values += offset
    if not np.isfinite(values.sum(dtype=np.float64)):
        raise ValueError("numbers that are coded must be finite")
    np.rint(values, out=values)
    np.clip(values, np.float32(0), np.float32(top), out=values)
    values -= zero_point
    values *= scale
    return values
