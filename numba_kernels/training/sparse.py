"""Products of a sparse matrix and a dense one, and their gradients, in float32.

The sparse matrix stands in compressed rows: ``starts``, ``columns`` and ``values``. Rows of dense matrices are a
multiple of LANES long, zeros where they have fewer columns.
"""

from __future__ import annotations

import numpy as np

from .. import simd
from ..jit import launcher

__all__ = ["LANES", "gradients_of_sparse", "multiply_sparse", "weight_gradients_of_sparse"]

LANES = 16


@launcher
def multiply_sparse(starts, columns, values, first, last, weight, out):
    """out[i] ← Σ value · weight[column] over the non-zeros of row i."""
    width, none = weight.shape[1], simd.zeros_f32()
    rows, results = simd.f32_at(simd.address(weight)), simd.f32_at(simd.address(out))
    for i in range(first, last):
        for j in range(0, width - LANES, 2 * LANES):
            left = right = none
            for e in range(starts[i], starts[i + 1]):
                value, row = simd.fill(none, values[e]), np.int64(columns[e]) * width + j
                left = simd.multiply_add(value, simd.load(none, rows, row), left)
                right = simd.multiply_add(value, simd.load(none, rows, row + LANES), right)
            simd.store(left, results, i * width + j)
            simd.store(right, results, i * width + j + LANES)
        if width % (2 * LANES):
            total, j = none, width - LANES
            for e in range(starts[i], starts[i + 1]):
                row = simd.load(none, rows, np.int64(columns[e]) * width + j)
                total = simd.multiply_add(simd.fill(none, values[e]), row, total)
            simd.store(total, results, i * width + j)


@launcher
def weight_gradients_of_sparse(starts, columns, values, grad, first, last, out):
    """out[column] += value · grad[i] over all non-zeros of all rows i, in the columns from ``first`` to below ``last``.

    Both are multiples of LANES: threads share columns of the result, each of which is summed in the order of rows.
    """
    width, none = grad.shape[1], simd.zeros_f32()
    upstream, sums = simd.f32_at(simd.address(grad)), simd.f32_at(simd.address(out))
    for i in range(len(starts) - 1):
        for e in range(starts[i], starts[i + 1]):
            value, row = simd.fill(none, values[e]), np.int64(columns[e]) * width
            for j in range(first, last, LANES):
                total = simd.load(none, sums, row + j)
                simd.store(simd.multiply_add(value, simd.load(none, upstream, i * width + j), total), sums, row + j)


@launcher
def gradients_of_sparse(starts, columns, grad, weight, first, last, out):
    """out[e] ← grad[i] · weight[column] for each non-zero e of the rows i."""
    width, none = weight.shape[1], simd.zeros_f32()
    upstream, rows = simd.f32_at(simd.address(grad)), simd.f32_at(simd.address(weight))
    for i in range(first, last):
        for e in range(starts[i], starts[i + 1]):
            total, row = none, np.int64(columns[e]) * width
            for j in range(0, width, LANES):
                part = simd.load(none, upstream, i * width + j)
                total = simd.multiply_add(part, simd.load(none, rows, row + j), total)
            out[e] = simd.total(total)
