"""Sums of packed codes over in-neighbours, as training needs them: of centred codes, in float32."""

from __future__ import annotations

import functools

import numpy as np

from .. import simd
from ..graph import Graph
from ..jit import launcher
from ..kernels.sums import clear, summing
from ..layout import row_bytes, storage_bits
from .coding import BLOCK_ROWS, straight_through

__all__ = ["empty_packed", "gradients_of_sums", "prepare", "storage_bits", "sum_codes"]

# Edges ahead, whose gradients are fetched: no more than the AHEAD that a graph allows.
_AHEAD = 12


def prepare(indptr: np.ndarray, indices: np.ndarray, num_src: int) -> Graph:
    """Neighbours as kernels read them: those in-neighbours, ``num_src`` of them, or out-neighbours."""
    return Graph(indptr, indices, num_src)


def empty_packed(rows: int, columns: int, bits: int) -> np.ndarray:
    """Zeros for packed codes, (rows, bytes of a row) uint8."""
    return np.zeros((rows, row_bytes(columns, bits)), np.uint8)


def sum_codes(graph: Graph, first: int, last: int, packed: np.ndarray, bits: int, zero, scale, out: np.ndarray):
    """out[i] ← Σ_u (code of u − zero) · scale over the in-neighbours u of node i.

    ``packed`` has a row a source node, ``zero``, ``scale`` and ``out``, (N_dst, columns), float32, a number a column.
    The sum is exact as long as float32 holds it.
    """
    lanes = 0 if out.shape[1] <= 16 and bits < 8 else min(packed.shape[1], 64)
    _summing(bits, lanes)(graph.indptr, graph.fetched, first, last, packed, zero, scale, out)


@functools.cache
def _summing(bits, lanes):
    sum_rows = summing(bits, lanes)

    def sum_rows_of(indptr, indices, first, last, packed, zero, scale, out):
        width = packed.shape[1]
        totals = np.empty(width * (8 // bits), np.int32)
        rows, edges = simd.u8_at(simd.address(packed)), simd.i32_at(simd.address(indices))
        sums = simd.i32_at(simd.address(totals))
        for i in range(first, last):
            if indptr[i] == indptr[i + 1]:
                clear(sums, len(totals))
            else:
                sum_rows(rows, width, edges, indptr[i], indptr[i + 1], True, sums)
            count = np.float64(indptr[i + 1] - indptr[i])
            for j in range(out.shape[1]):
                out[i, j] = np.float32(np.float64(totals[j]) - np.float64(zero[j]) * count) * scale[j]

    sum_rows_of.__name__ = f"sum_codes_{bits}_{lanes}"
    return launcher(sum_rows_of)


def gradients_of_sums(graph: Graph, first: int, last: int, *arguments):
    """As :func:`.gradients_of_columns`, for the gradient of a node that is Σ grad · scale over its out-neighbours.

    ``graph`` has the out-neighbours; the arguments are ``grad``, ``scale``, ``x``, and what its rows are multiplied by,
    of one for all where the step is 0 and one each where it is 1; then those of that function.
    """
    _gradients_of_sums(graph.indptr, graph.fetched, first, last, *arguments)


@launcher
def _gradients_of_sums(
    indptr, indices, first, last, grad, scale, x, times, step, inverse, offset, low, high, kind, grad_x, sums
):
    width, at = 4 * grad.shape[1], simd.u8_at(simd.address(grad))
    total = np.empty(grad.shape[1], np.float32)
    for i in range(first, last):
        total[:] = 0
        for e in range(indptr[i], indptr[i + 1]):
            ahead = np.int64(indices[e + _AHEAD]) * width
            for byte in range(0, width, 64):
                simd.prefetch(at, ahead + byte)
            upstream = grad[np.uint32(indices[e])]
            for j in range(len(total)):
                total[j] += upstream[j] * scale[j]
        of_block = sums[i // BLOCK_ROWS]
        straight_through(total, x[i], times[i * step], inverse, offset, low, high, kind, grad_x[i], of_block)
