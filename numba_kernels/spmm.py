"""Sums of packed messages over in-neighbours."""

from __future__ import annotations

import numba
import numpy as np

from . import simd
from .requantise import finish_row, unpack_row
from .runtime import kernel

# Edges between the row that is summed and the row that is fetched.
AHEAD = 24


@kernel
def sum_block(flat, width, column, bits, indices, start, stop, none, total):
    """total += codes of one block of bytes, from ``column``, of the rows that indices[start:stop] names.

    ``none`` is a zero vector of the block's size. Sums stay in lanes that cannot overflow: of 2-bit codes in 4-bit
    lanes for 5 rows and in 8-bit lanes for 85; of 4-bit codes in 8-bit lanes for 17; of 8-bit codes in 16-bit lanes
    for 257; then they spill to ``total``, int32, plane by plane.
    """
    if bits == 2:
        for first in range(start, stop, 85):
            s0, s1, s2, s3 = none, none, none, none
            last = min(first + 85, stop)
            for group in range(first, last, 5):
                even, odd = none, none
                for e in range(group, min(group + 5, last)):
                    fetch(flat, width, column, indices, e)
                    x = simd.load(none, flat, np.int64(indices[e]) * width + column)
                    even = simd.add(even, simd.bits_and(x, 0x33))
                    odd = simd.add(odd, simd.bits_and(simd.shift_right(x, 2), 0x33))
                s0 = simd.add(s0, simd.bits_and(even, 0x0F))
                s1 = simd.add(s1, simd.bits_and(odd, 0x0F))
                s2 = simd.add(s2, simd.shift_right(even, 4))
                s3 = simd.add(s3, simd.shift_right(odd, 4))
            simd.add_to_i32(s0, total, column)
            simd.add_to_i32(s1, total, column + width)
            simd.add_to_i32(s2, total, column + 2 * width)
            simd.add_to_i32(s3, total, column + 3 * width)
    elif bits == 4:
        for first in range(start, stop, 17):
            s0, s1 = none, none
            for e in range(first, min(first + 17, stop)):
                fetch(flat, width, column, indices, e)
                x = simd.load(none, flat, np.int64(indices[e]) * width + column)
                s0 = simd.add(s0, simd.bits_and(x, 0x0F))
                s1 = simd.add(s1, simd.shift_right(x, 4))
            simd.add_to_i32(s0, total, column)
            simd.add_to_i32(s1, total, column + width)
    elif bits == 8:
        for first in range(start, stop, 257):
            s = simd.widen(none)
            for e in range(first, min(first + 257, stop)):
                fetch(flat, width, column, indices, e)
                s = simd.add(s, simd.widen(simd.load(none, flat, np.int64(indices[e]) * width + column)))
            simd.add_to_i32(s, total, column)
    else:
        for plane in range(8):
            for first in range(start, stop, 255):
                s = none
                for e in range(first, min(first + 255, stop)):
                    x = simd.load(none, flat, np.int64(indices[e]) * width + column)
                    s = simd.add(s, simd.bits_and(simd.shift_right(x, plane), 1))
                simd.add_to_i32(s, total, column + plane * width)


@kernel
def fetch(flat, width, column, indices, e):
    """Ask for the row that is read some edges later."""
    ahead = min(e + AHEAD, indices.shape[0] - 1)
    simd.prefetch(flat, np.int64(indices[ahead]) * width + column)


@kernel
def sum_codes(flat, width, bits, indices, start, stop, total):
    """total += codes of the rows that indices[start:stop] names, exact.

    ``flat`` holds packed rows of ``width`` bytes, uint8; ``total``, int32, has a place for each of their codes.
    """
    if width == 16:
        sum_block(flat, width, 0, bits, indices, start, stop, simd.zeros16(), total)
    elif width == 32:
        sum_block(flat, width, 0, bits, indices, start, stop, simd.zeros32(), total)
    else:
        for column in range(0, width, 64):
            sum_block(flat, width, column, bits, indices, start, stop, simd.zeros64(), total)


@kernel
def sum_weighted(sources, edge_weight, operand, codes, row):
    """row ← Σ weight · (code − zero), in float32, in the order of the edges."""
    row[:] = np.float32(0.0)
    for e in range(sources.shape[0]):
        unpack_row(operand.packed[sources[e]], codes, operand.bits)
        for c in range(row.shape[0]):
            centered = np.float32(codes[c]) - operand.zero[c * operand.column_step]
            row[c] += edge_weight[e] * centered


@kernel(parallel=True)
def spmm(bounds, indptr, indices, edge_weight, operand, own, columns, scratch, epilogue, out, first, second):
    """Rows of Σ_u w_uv (q_u − z) · s, plus the node's own code where asked, then the epilogue.

    Parameters
    ----------
    bounds : (B + 1,) int64
        Row blocks of about as many edges each, one task a block.
    indptr, indices : (N_dst + 1,) int64, (E,) int32
        In-neighbours of every destination.
    edge_weight : (E,) or (0,) float32
        In the order of ``indices``.
    operand : Operand
        Packed messages of the sources, scale and zero per tensor or channel.
    own : (N_dst, W) or (0, 0) uint8
        Packed messages of the destinations, added without a weight.
    columns, scratch : int
        Codes a row holds; codes a scratch row must hold.
    epilogue, out, first, second
        See :mod:`numba_kernels.requantise`.
    """
    for block in numba.prange(bounds.shape[0] - 1):
        flat, width = operand.packed.reshape(-1), operand.packed.shape[1]
        room = width * 8 // operand.bits
        unpacked = np.zeros(room, np.uint8)
        codes = np.zeros(scratch, np.uint8)
        total = np.zeros(room, np.int32)
        row = np.zeros(columns, np.float32)
        self_index = np.zeros(1, np.int32)
        for i in range(bounds[block], bounds[block + 1]):
            if edge_weight.shape[0] > 0:
                sources = indices[indptr[i] : indptr[i + 1]]
                sum_weighted(sources, edge_weight[indptr[i] : indptr[i + 1]], operand, unpacked, row)
                if own.shape[0] > 0:
                    unpack_row(own[i], unpacked, operand.bits)
                    for c in range(columns):
                        row[c] += np.float32(unpacked[c]) - operand.zero[c * operand.column_step]
            else:
                total[:] = np.int32(0)
                sum_codes(flat, width, operand.bits, indices, indptr[i], indptr[i + 1], total)
                count = np.float64(indptr[i + 1] - indptr[i])
                if own.shape[0] > 0:
                    self_index[0] = i
                    sum_codes(own.reshape(-1), width, operand.bits, self_index, 0, 1, total)
                    count += 1.0
                for c in range(columns):
                    zero = np.float64(operand.zero[c * operand.column_step])
                    row[c] = np.float32(np.float64(total[c]) - zero * count)
            for c in range(columns):
                row[c] = row[c] * operand.scale[c * operand.column_step]
            finish_row(i, row, epilogue, out, first, second, codes)
