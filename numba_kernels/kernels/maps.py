"""MAP: a function of numbers, or of whole rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import simd
from ..jit import kernel
from .instruction import instruction, reader
from .rows import clear_from

# exp(x) = 2^n · exp(r), n the whole number nearest to x / ln 2; ln 2 in two parts, so that r is exact, and exp(r) as
# its Taylor series, |r| ≤ ln 2 / 2, whose first omitted term is below half a unit of float32's last place.
_LOWEST, _HIGHEST = np.float32(-87.0), np.float32(88.0)
_INVERSE_LN2, _LN2_HIGH, _LN2_LOW = np.float32(1 / np.log(2)), np.float32(0.693359375), np.float32(-2.12194440e-4)
_TO_WHOLE = np.float32(1.5 * 2**23)
_C2, _C3, _C4 = np.float32(1 / 2), np.float32(1 / 6), np.float32(1 / 24)
_C5, _C6, _C7 = np.float32(1 / 120), np.float32(1 / 720), np.float32(1 / 5040)


@kernel
def exp(x):
    """e^x of f32 lanes, to about one unit of the last place; from −87 to 88, beyond which it stays."""
    x = simd.minimum(simd.maximum(x, simd.fill(x, _LOWEST)), simd.fill(x, _HIGHEST))
    whole = simd.fill(x, _TO_WHOLE)
    n = simd.subtract(simd.add(simd.multiply(x, simd.fill(x, _INVERSE_LN2)), whole), whole)
    r = simd.subtract(x, simd.multiply(n, simd.fill(x, _LN2_HIGH)))
    r = simd.subtract(r, simd.multiply(n, simd.fill(x, _LN2_LOW)))
    p = simd.multiply_add(simd.fill(x, _C7), r, simd.fill(x, _C6))
    p = simd.multiply_add(p, r, simd.fill(x, _C5))
    p = simd.multiply_add(p, r, simd.fill(x, _C4))
    p = simd.multiply_add(p, r, simd.fill(x, _C3))
    p = simd.multiply_add(p, r, simd.fill(x, _C2))
    one = simd.fill(x, np.float32(1.0))
    p = simd.multiply_add(p, simd.multiply(r, r), simd.add(r, one))
    return simd.multiply(p, simd.power_of_two(n))


@kernel
def leaky_relu(x, slope):
    """x where it is positive, else slope · x, of f32 lanes."""
    none = simd.zeros_f32()
    return simd.add(simd.maximum(x, none), simd.multiply(simd.minimum(x, none), simd.fill(x, slope)))


@kernel
def _elu(x, parameter):
    lanes = simd.zeros_f32()
    below = simd.subtract(exp(simd.minimum(x, lanes)), simd.fill(lanes, np.float32(1.0)))
    return simd.add(simd.maximum(x, lanes), simd.multiply(simd.fill(x, parameter), below))


@kernel
def _sigmoid(x, parameter):
    one = simd.fill(x, np.float32(1.0))
    return simd.divide(one, simd.add(one, exp(simd.subtract(simd.zeros_f32(), x))))


@kernel
def _tanh(x, parameter):
    one, twice = simd.fill(x, np.float32(1.0)), exp(simd.add(x, x))
    return simd.subtract(one, simd.divide(simd.add(one, one), simd.add(twice, one)))


@kernel
def _moment(row, columns, mean):
    """Σ (x − mean)² over the columns, float64."""
    total = 0.0
    for c in range(columns):
        difference = np.float64(row[c]) - mean
        total += difference * difference
    return total


@kernel
def _scaled(row, to, columns, middle, factor):
    """to ← (row − middle) · factor."""
    for c in range(columns):
        to[c] = (row[c] - middle) * factor


@kernel
def _standardise(row, to, columns, epsilon):
    mean = 0.0
    for c in range(columns):
        mean += np.float64(row[c])
    mean /= columns
    factor = 1.0 / np.sqrt(_moment(row, columns, mean) / columns + np.float64(epsilon))
    for c in range(columns):  # in float64, for numbers that differ little
        to[c] = np.float32((np.float64(row[c]) - mean) * factor)


@kernel
def _normalize(row, to, columns, epsilon):
    norm = np.float32(np.sqrt(_moment(row, columns, 0.0)))
    _scaled(row, to, columns, np.float32(0.0), np.float32(1.0) / max(norm, epsilon))


@kernel
def _largest(row, columns):
    largest = row[0]
    for c in range(1, columns):
        largest = max(largest, row[c])
    return largest


@kernel
def _softmax(row, to, columns, parameter):
    lanes, total = simd.zeros_f32(), np.float64(0.0)
    most = simd.fill(lanes, _largest(row, columns))
    for c in range(0, columns, 16):
        simd.store(exp(simd.subtract(simd.load(lanes, row, c), most)), to, c)
    for c in range(columns):
        total += np.float64(to[c])
    _scaled(to, to, columns, np.float32(0.0), np.float32(1.0 / total))


@kernel
def _log_softmax(row, to, columns, parameter):
    largest, total = _largest(row, columns), np.float64(0.0)
    for c in range(columns):
        total += np.exp(np.float64(row[c] - largest))
    _scaled(row, to, columns, largest, np.float32(1.0))
    _scaled(to, to, columns, np.float32(np.log(total)), np.float32(1.0))


# Of sixteen numbers, and of a row.
OF_NUMBERS = {"leaky_relu": leaky_relu, "elu": _elu, "sigmoid": _sigmoid, "tanh": _tanh}
OF_ROWS = {
    "standardise": _standardise,
    "normalize": _normalize,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
}
MAPS = (*OF_NUMBERS, *OF_ROWS)


class Map(NamedTuple):
    """dst ← the function of src; what it depends on is a slope, an exponent's factor, an ε."""

    dst: int  # in the scratch
    src: int  # in the scratch
    columns: int
    parameter: float


read_map = reader(Map)


@instruction(Map, [(function,) for function in MAPS])
def map(function):
    return _map_numbers(OF_NUMBERS[function]) if function in OF_NUMBERS else _map_rows(OF_ROWS[function])


def _map_numbers(function):
    def run(at, start, count, base, stride):
        f = read_map(at)
        lanes, parameter = simd.zeros_f32(), np.float32(f.parameter)
        for r in range(count):
            x, to = simd.f32_at(base + f.src + 4 * r * stride), simd.f32_at(base + f.dst + 4 * r * stride)
            for c in range(0, f.columns, 16):
                simd.store(function(simd.load(lanes, x, c), parameter), to, c)
            clear_from(to, f.columns)

    return run


def _map_rows(function):
    def run(at, start, count, base, stride):
        f = read_map(at)
        parameter = np.float32(f.parameter)
        for r in range(count):
            x, to = simd.f32_at(base + f.src + 4 * r * stride), simd.f32_at(base + f.dst + 4 * r * stride)
            function(x, to, f.columns, parameter)
            clear_from(to, f.columns)

    return run
