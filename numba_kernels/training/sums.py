"""Sums of packed codes over in-neighbours, as training needs them: of centred codes, in float32."""

from __future__ import annotations

import functools

import numpy as np

from .. import simd
from ..graph import Graph
from ..jit import launcher
from ..kernels.sums import clear, summing
from ..layout import row_bytes, storage_bits

__all__ = ["empty_packed", "prepare", "storage_bits", "sum_centered"]


def prepare(indptr: np.ndarray, indices: np.ndarray, num_src: int) -> Graph:
    """In-neighbours as :func:`sum_centered` reads them."""
    return Graph(indptr, indices, num_src)


def empty_packed(rows: int, columns: int, bits: int) -> np.ndarray:
    """Zeros for packed codes, (rows, bytes of a row) uint8."""
    return np.zeros((rows, row_bytes(columns, bits)), np.uint8)


def sum_centered(graph: Graph, first: int, last: int, packed: np.ndarray, bits: int, zero: np.ndarray, out: np.ndarray):
    """out[i] ← Σ_u (code of u − zero) over the in-neighbours u of node i, exact as long as float32 holds it.

    ``packed`` has a row a source node, ``zero`` and ``out`` (N_dst, columns), float32, a number a column.
    """
    lanes = 0 if out.shape[1] <= 16 and bits < 8 else min(packed.shape[1], 64)
    _summing(bits, lanes)(graph.indptr, graph.fetched, first, last, packed, zero, out)


@functools.cache
def _summing(bits, lanes):
    sum_rows = summing(bits, lanes)

    def sum_codes(indptr, indices, first, last, packed, zero, out):
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
                out[i, j] = np.float32(np.float64(totals[j]) - np.float64(zero[j]) * count)

    sum_codes.__name__ = f"sum_codes_{bits}_{lanes}"
    return launcher(sum_codes)
