"""Products of the codes of values that are mostly 0: only the others are looked at.

A value's code here is that beyond ``nothing``, the centred code of 0; what all of ``nothing`` adds, the caller adds.
``inverse`` scales, offsets, zeros and ``nothing`` have the numbers ``[i · step]`` for row i.
"""

from __future__ import annotations

import numpy as np

from ..jit import kernel, launcher
from .coding import code_of, plus, within

__all__ = ["gradients_of_few", "multiply_few", "weight_gradients_of_few"]

_CHUNK = 16


@kernel
def _find(bits, i, places):
    """places ← columns of row i whose float32, by its ``bits``, is not 0; returns how many."""
    count, columns = 0, bits.shape[1]
    whole = columns - columns % _CHUNK
    for start in range(0, whole, _CHUNK):
        some = np.uint32(0)
        for k in range(_CHUNK):
            some |= bits[i, start + k]
        if some << np.uint32(1) != 0:
            for k in range(start, start + _CHUNK):
                places[count] = k
                count += bits[i, k] << np.uint32(1) != 0
    for k in range(whole, columns):
        places[count] = k
        count += bits[i, k] << np.uint32(1) != 0
    return count


@launcher
def multiply_few(x, bits, first, last, inverse, offset, zero, nothing, step, qmax, weight, out):
    """out ← out + codes · weight; ``x`` (rows, in), its ``bits`` the same as uint32, ``weight`` (in, columns)."""
    places = np.empty(x.shape[1] + 1, np.int64)
    for i in range(first, last):
        v, o, n = inverse[i * step], offset[i * step], zero[i * step] + nothing[i * step]
        for number in range(_find(bits, i, places)):
            k = places[number]
            c = code_of(x[i, k], v, o, qmax) - n
            for j in range(weight.shape[1]):
                out[i, j] += c * weight[k, j]


@launcher
def weight_gradients_of_few(x, bits, inverse, offset, zero, nothing, step, qmax, grad, grad_weight):
    """grad_weight ← grad_weight + codesᵀ · grad."""
    places = np.empty(x.shape[1] + 1, np.int64)
    for i in range(len(x)):
        v, o, n = inverse[i * step], offset[i * step], zero[i * step] + nothing[i * step]
        for number in range(_find(bits, i, places)):
            k = places[number]
            c = code_of(x[i, k], v, o, qmax) - n
            for j in range(grad.shape[1]):
                grad_weight[k, j] += c * grad[i, j]


@launcher
def gradients_of_few(
    x, bits, first, last, inverse, offset, zero, nothing, step, qmax, grad, weight, low, high, sums, products
):
    """Of g = grad · weightᵀ: sums[i] ← Σ g · x over those of row i within the range, products[i] ← Σ g · codes."""
    places = np.empty(x.shape[1] + 1, np.int64)
    for i in range(first, last):
        v, o, n = inverse[i * step], offset[i * step], zero[i * step] + nothing[i * step]
        total, of_codes = 0.0, 0.0
        for number in range(_find(bits, i, places)):
            k, gradient = places[number], np.float32(0)
            for j in range(grad.shape[1]):
                gradient = plus(gradient, grad[i, j] * weight[k, j])
            total += np.float64(within(gradient, x[i, k], v, o, low, high) * x[i, k])
            of_codes += np.float64(gradient * (code_of(x[i, k], v, o, qmax) - n))
        sums[i], products[i] = total, of_codes
