"""Functions of numbers and of rows, on float32 rows of a tile."""

from __future__ import annotations

import numpy as np

from .. import simd
from ..jit import kernel
from .fields import ELU, LEAKY_RELU, LOG_SOFTMAX, NORMALIZE, SIGMOID, SOFTMAX, STANDARDISE
from .rows import clear_from

# exp(x) = 2^n · exp(r), n the whole number nearest to x / ln 2; ln 2 in two parts, so that r is exact, and exp(r) as
# its Taylor series, |r| ≤ ln 2 / 2, whose first omitted term is below half a unit of float32's last place.
_LOWEST, _HIGHEST = np.float32(-87.0), np.float32(88.0)
_INVERSE_LN2, _LN2_HIGH, _LN2_LOW = np.float32(1 / np.log(2)), np.float32(0.693359375), np.float32(-2.12194440e-4)
_TO_WHOLE = np.float32(1.5 * 2**23)
_C2, _C3, _C4 = np.float32(1 / 2), np.float32(1 / 6), np.float32(1 / 24)
_C5, _C6, _C7 = np.float32(1 / 120), np.float32(1 / 720), np.float32(1 / 5040)


@kernel(inline=True)
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


@kernel(inline=True)
def leaky_relu(x, slope):
    """x where it is positive, else slope · x, of f32 lanes."""
    none = simd.zeros_f32()
    return simd.add(simd.maximum(x, none), simd.multiply(simd.minimum(x, none), simd.fill(x, slope)))


@kernel(inline=True)
def _of_numbers(kind, parameter, row, to, columns):
    lanes, one = simd.zeros_f32(), simd.fill(simd.zeros_f32(), np.float32(1.0))
    for c in range(0, columns, 16):
        x = simd.load(lanes, row, c)
        if kind == LEAKY_RELU:
            y = leaky_relu(x, parameter)
        elif kind == ELU:
            below = simd.subtract(exp(simd.minimum(x, lanes)), one)
            y = simd.add(simd.maximum(x, lanes), simd.multiply(simd.fill(x, parameter), below))
        elif kind == SIGMOID:
            y = simd.divide(one, simd.add(one, exp(simd.subtract(lanes, x))))
        else:  # tanh
            twice = exp(simd.add(x, x))
            y = simd.subtract(one, simd.divide(simd.add(one, one), simd.add(twice, one)))
        simd.store(y, to, c)


@kernel(inline=True)
def _moment(row, columns, mean):
    """Σ (x − mean)² over the columns, float64."""
    total = 0.0
    for c in range(columns):
        difference = np.float64(row[c]) - mean
        total += difference * difference
    return total


@kernel(inline=True)
def _scaled(row, to, columns, shift, factor):
    """to ← (row − shift) · factor."""
    for c in range(columns):
        to[c] = (row[c] - shift) * factor


@kernel(inline=True)
def _softmax(row, to, columns, is_log):
    largest = row[0]
    for c in range(1, columns):
        largest = max(largest, row[c])
    lanes, total = simd.zeros_f32(), np.float64(0.0)
    most = simd.fill(lanes, largest)
    if is_log:
        for c in range(columns):
            total += np.exp(np.float64(row[c] - largest))
        _scaled(row, to, columns, largest, np.float32(1.0))
        _scaled(to, to, columns, np.float32(np.log(total)), np.float32(1.0))
        return
    for c in range(0, columns, 16):
        simd.store(exp(simd.subtract(simd.load(lanes, row, c), most)), to, c)
    for c in range(columns):
        total += np.float64(to[c])
    _scaled(to, to, columns, np.float32(0.0), np.float32(1.0 / total))


@kernel
def map_rows(kind, parameter, count, columns, src, dst, stride):
    """dst ← the function ``kind`` of src, rows of tiles."""
    parameter = np.float32(parameter)
    for r in range(count):
        row, to = simd.f32_at(src + 4 * r * stride), simd.f32_at(dst + 4 * r * stride)
        if kind == STANDARDISE:
            mean = 0.0
            for c in range(columns):
                mean += np.float64(row[c])
            mean /= columns
            variance = _moment(row, columns, mean) / columns
            _scaled(row, to, columns, np.float32(mean), np.float32(1.0 / np.sqrt(variance + np.float64(parameter))))
        elif kind == NORMALIZE:
            norm = np.float32(np.sqrt(_moment(row, columns, 0.0)))
            _scaled(row, to, columns, np.float32(0.0), np.float32(1.0) / max(norm, parameter))
        elif kind in (SOFTMAX, LOG_SOFTMAX):
            _softmax(row, to, columns, kind == LOG_SOFTMAX)
        else:
            _of_numbers(kind, parameter, row, to, columns)
        clear_from(to, columns)
