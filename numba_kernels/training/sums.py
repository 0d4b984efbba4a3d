"""Sums over neighbours as training needs them: of centred codes, in float32, and of gradients."""

from __future__ import annotations

import functools

import numpy as np

from .. import simd
from ..graph import Graph
from ..jit import kernel, launcher
from ..kernels.sums import clear, summing
from ..layout import row_bytes, storage_bits
from .coding import BLOCK_ROWS, NO_GRADIENT, code_of, gradient_of_scale, gradient_of_value
from .sparse import LANES

__all__ = ["gradients_of_sums", "prepare", "row_bytes", "storage_bits", "sum_codes"]

# Edges ahead, whose gradients are fetched: no more than the AHEAD that a graph allows.
_AHEAD = 12
# Rows of bytes of which 32 bits hold a sum.
_MOST_BYTES = 1 << 23


def prepare(indptr: np.ndarray, indices: np.ndarray, num_src: int) -> Graph:
    """Neighbours as kernels read them: those in-neighbours, ``num_src`` of them, or out-neighbours."""
    return Graph(indptr, indices, num_src)


def sum_codes(graph: Graph, first: int, last: int, packed: np.ndarray, bits: int, *arguments):
    """out[i − first] ← Σ_u (code of u − zero) · scale · times over the in-neighbours u of node i.

    ``packed`` has a row a source node. The arguments are ``zero`` and ``scale``, a number a column, ``times``, of one
    for all where the step that follows it is 0 and one a row where it is 1, and ``out``, (rows, columns); float32.
    The sum is exact as long as float32 holds it.
    """
    lanes = 0 if arguments[-1].shape[1] <= 16 and bits < 8 else min(packed.shape[1], 64)
    _summing(bits, lanes)(graph.indptr, graph.fetched, first, last, packed, *arguments)


@functools.cache
def _summing(bits, lanes):
    sum_rows = summing(bits, lanes)

    def sum_rows_of(indptr, indices, first, last, packed, zero, scale, times, step, out):
        width = packed.shape[1]
        totals = np.empty(width * (8 // bits), np.int32)
        rows, edges = simd.u8_at(simd.address(packed)), simd.i32_at(simd.address(indices))
        sums = simd.i32_at(simd.address(totals))
        for i in range(first, last):
            if indptr[i] == indptr[i + 1]:
                clear(sums, len(totals))
            else:
                sum_rows(rows, width, edges, indptr[i], indptr[i + 1], True, sums)
            count, t = np.float64(indptr[i + 1] - indptr[i]), times[i * step]
            for j in range(out.shape[1]):
                centered = np.float32(np.float64(totals[j]) - np.float64(zero[j]) * count)
                out[i - first, j] = centered * scale[j] * t

    sum_rows_of.__name__ = f"sum_codes_{bits}_{lanes}"
    return launcher(sum_rows_of)


def gradients_of_sums(graph: Graph, first: int, last: int, upstream: tuple, *arguments):
    """Of rows of x · times, whose codes are summed, for the gradient of centred codes' sums, by column.

    grad_x ← gradient of x, of ``kind``; sums ← Σ of what the gradients of the scales are made of, see
    :func:`.gradient_of_scale`: (blocks, columns) zeros, those of BLOCK_ROWS rows each.

    ``graph`` has the out-neighbours. ``upstream`` is the gradient of the sums: ``grad``, ``after``, the step that
    follows it and ``scale``, to be multiplied, a number a row and a column, both in LANES; or ``packed``, bytes of
    :func:`.pack_gradients`, their ``zero`` and ``step``, a number a column. The arguments are ``x``, ``times`` and the
    step that follows it; ``inverse`` scales, offsets, zeros, a number a column, the largest code, the ends of the
    range, ``kind``, ``grad_x``, ``sums``. The steps of ``after`` and ``times`` are 0 where there is one for all rows.
    """
    rows = upstream[0]
    lanes = min(rows.shape[1], 64) if rows.dtype == np.uint8 else None
    _differentiating(lanes)(graph.indptr, graph.fetched, first, last, upstream, *arguments)


@functools.cache
def _differentiating(lanes):
    sum_rows, room_of = (_sum_of_floats, np.float32) if lanes is None else (_sum_of_bytes(lanes), np.int32)

    def differentiate_sums(
        indptr, indices, first, last, upstream, x, times, step, inverse, offset, zero, qmax, low, high, kind, grad_x,
        sums,
    ):  # fmt: skip
        total, room = np.zeros(x.shape[1], np.float32), np.empty(upstream[0].shape[1], room_of)
        for i in range(first, last):
            sum_rows(upstream, indices, indptr[i], indptr[i + 1], room, total)
            of_block, t = sums[i // BLOCK_ROWS], times[i * step]
            for j in range(len(total)):
                value, v, o = x[i, j] * t, inverse[j], offset[j]
                code = code_of(value, v, o, qmax) - zero[j]
                of_block[j] += gradient_of_scale(total[j], code, value, v, o, low, high)
            if kind != NO_GRADIENT:
                for j in range(len(total)):
                    value = x[i, j] * t
                    grad_x[i, j] = gradient_of_value(total[j], value, inverse[j], offset[j], low, high, kind) * t

    differentiate_sums.__name__ = f"differentiate_sums_{'floats' if lanes is None else lanes}"
    return launcher(differentiate_sums)


@kernel
def _sum_of_floats(upstream, indices, start, stop, room, total):
    """total ← Σ rows of grad · after · scale; ``room``, float32, has a place for each number of a row."""
    grad, after, after_step, scale = upstream
    width, at, none = grad.shape[1], simd.f32_at(simd.address(grad)), simd.zeros_f32()
    scales, sums, bytes_at = (
        simd.f32_at(simd.address(scale)),
        simd.f32_at(simd.address(room)),
        simd.u8_at(simd.address(grad)),
    )
    for j in range(0, width, LANES):
        part, of_columns = none, simd.load(none, scales, j)
        for e in range(start, stop):
            simd.prefetch(bytes_at, 4 * (np.int64(indices[e + _AHEAD]) * width + j))
            row, a = simd.load(none, at, np.int64(indices[e]) * width + j), after[np.uint32(indices[e]) * after_step]
            part = simd.add(part, simd.multiply(simd.multiply(row, simd.fill(none, a)), of_columns))
        simd.store(part, sums, j)
    for j in range(len(total)):
        total[j] = room[j]


def _sum_of_bytes(lanes):
    sum_rows = summing(8, lanes)

    @kernel
    def sum_of_bytes(upstream, indices, start, stop, room, total):
        """total ← Σ rows of (code − zero) · step; ``room``, int32, has a place for each byte of a row."""
        packed, zero, step = upstream
        rows, edges = simd.u8_at(simd.address(packed)), simd.i32_at(simd.address(indices))
        sums = simd.i32_at(simd.address(room))
        for j in range(len(total)):
            total[j] = 0
        for first in range(start, stop, _MOST_BYTES):
            last = min(first + _MOST_BYTES, stop)
            sum_rows(rows, packed.shape[1], edges, first, last, True, sums)
            for j in range(len(total)):
                centered = np.float64(room[j]) - np.float64(zero[j]) * np.float64(last - first)
                total[j] += np.float32(centered) * step[j]

    return sum_of_bytes
