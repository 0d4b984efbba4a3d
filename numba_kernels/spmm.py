"""Sums of packed messages over in-neighbours."""

from __future__ import annotations

import numba
import numpy as np

from .requantise import finish_row, unpack_row
from .runtime import kernel


@kernel
def spill(lanes, total):
    """total += lanes, and lanes ← 0."""
    for j in range(total.shape[0]):
        total[j] += np.int32(lanes[j])
        lanes[j] = np.uint16(0)


@kernel
def sum_codes(sources, packed, bits, lanes, total):
    """total += the codes of the rows of ``packed`` that ``sources`` names, exact: 16-bit lanes spill before they overflow.

    ``packed`` is (N, W) uint8, ``lanes`` (8 / bits · W,) uint16 and 0 before and after, ``total`` as long, int32.
    """
    flat, width = packed.reshape(-1), packed.shape[1]
    mask, room = np.uint8((1 << bits) - 1), 65535 // ((1 << bits) - 1)
    for first in range(0, sources.shape[0], room):
        for e in range(first, min(first + room, sources.shape[0])):
            row = np.int64(sources[e]) * width
            for plane in range(8 // bits):
                shift, start = np.uint8(plane * bits), plane * width
                for j in range(width):
                    lanes[start + j] += np.uint16((flat[row + j] >> shift) & mask)
        spill(lanes, total)


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
        room = operand.packed.shape[1] * 8 // operand.bits
        unpacked = np.zeros(room, np.uint8)
        codes = np.zeros(scratch, np.uint8)
        lanes = np.zeros(room, np.uint16)
        total = np.zeros(room, np.int32)
        row = np.zeros(columns, np.float32)
        self_index = np.zeros(1, np.int32)
        for i in range(bounds[block], bounds[block + 1]):
            sources = indices[indptr[i] : indptr[i + 1]]
            if edge_weight.shape[0] > 0:
                sum_weighted(sources, edge_weight[indptr[i] : indptr[i + 1]], operand, unpacked, row)
                if own.shape[0] > 0:
                    unpack_row(own[i], unpacked, operand.bits)
                    for c in range(columns):
                        row[c] += np.float32(unpacked[c]) - operand.zero[c * operand.column_step]
            else:
                total[:] = np.int32(0)
                sum_codes(sources, operand.packed, operand.bits, lanes, total)
                count = np.float64(sources.shape[0])
                if own.shape[0] > 0:
                    self_index[0] = i
                    sum_codes(self_index, own, operand.bits, lanes, total)
                    count += 1.0
                for c in range(columns):
                    zero = np.float64(operand.zero[c * operand.column_step])
                    row[c] = np.float32(np.float64(total[c]) - zero * count)
            for c in range(columns):
                row[c] = row[c] * operand.scale[c * operand.column_step]
            finish_row(i, row, epilogue, out, first, second, codes)
