"""Products of packed activations and integer weights."""

from __future__ import annotations

import numba
import numpy as np

from . import simd
from .requantise import finish_row, unpack_row
from .runtime import kernel

# Rows multiplied together, so that a weight that is loaded once is used as often.
ROWS = 4
# Columns of a weight that stand together: the int32 totals of one vector.
LANES = 16


def tile_weight(codes: np.ndarray) -> tuple[np.ndarray, int]:
    """Weight codes, (K, M) uint8, as int8 in the order :func:`multiply` reads them, and what was subtracted.

    Column blocks of 16; in each, groups of 4 inputs; in each, column by column the 4 of them: [M/16][K/4][16][4], with
    zeros where K or M end early. Codes that may exceed an int8 are moved by 128.
    """
    K, M = codes.shape
    shift = 128 if codes.size and codes.max() > 127 else 0
    groups, blocks = -(-K // 4), -(-M // LANES)
    padded = np.zeros((groups * 4, blocks * LANES), np.int8)
    padded[:K, :M] = codes.astype(np.int16) - shift
    tiles = padded.reshape(groups, 4, blocks, LANES).transpose(2, 0, 3, 1)
    return np.ascontiguousarray(tiles).reshape(-1), shift


@kernel
def multiply(x, stride, weight, groups, block, totals, columns):
    """Sixteen columns, ``block``, of four rows' products: x, four rows ``stride`` apart, times tiled weights.

    ``totals`` is (4 · columns,) int32.
    """
    t0, t1, t2, t3 = simd.zeros_i32(), simd.zeros_i32(), simd.zeros_i32(), simd.zeros_i32()
    w = block * groups * 64
    for k in range(0, 4 * groups, 4):
        t0 = simd.dot4(t0, x, k, weight, w)
        t1 = simd.dot4(t1, x, k + stride, weight, w)
        t2 = simd.dot4(t2, x, k + 2 * stride, weight, w)
        t3 = simd.dot4(t3, x, k + 3 * stride, weight, w)
        w += 64
    at = block * 16
    simd.store(t0, totals, at)
    simd.store(t1, totals, at + columns)
    simd.store(t2, totals, at + 2 * columns)
    simd.store(t3, totals, at + 3 * columns)


@kernel
def multiply_wide(x, stride, weight, groups, block, totals, columns):
    """As :func:`multiply`, for the four blocks from ``block``: sixteen vectors of totals stay in registers."""
    z = simd.zeros_i32()
    a0, a1, a2, a3, b0, b1, b2, b3 = z, z, z, z, z, z, z, z
    c0, c1, c2, c3, d0, d1, d2, d3 = z, z, z, z, z, z, z, z
    step = groups * 64
    w0 = block * step
    w1, w2, w3 = w0 + step, w0 + 2 * step, w0 + 3 * step
    x1, x2, x3 = stride, 2 * stride, 3 * stride
    for group in range(groups):
        k, w = 4 * group, 64 * group
        a0 = simd.dot4(a0, x, k, weight, w0 + w)
        a1 = simd.dot4(a1, x, k, weight, w1 + w)
        a2 = simd.dot4(a2, x, k, weight, w2 + w)
        a3 = simd.dot4(a3, x, k, weight, w3 + w)
        b0 = simd.dot4(b0, x, k + x1, weight, w0 + w)
        b1 = simd.dot4(b1, x, k + x1, weight, w1 + w)
        b2 = simd.dot4(b2, x, k + x1, weight, w2 + w)
        b3 = simd.dot4(b3, x, k + x1, weight, w3 + w)
        c0 = simd.dot4(c0, x, k + x2, weight, w0 + w)
        c1 = simd.dot4(c1, x, k + x2, weight, w1 + w)
        c2 = simd.dot4(c2, x, k + x2, weight, w2 + w)
        c3 = simd.dot4(c3, x, k + x2, weight, w3 + w)
        d0 = simd.dot4(d0, x, k + x3, weight, w0 + w)
        d1 = simd.dot4(d1, x, k + x3, weight, w1 + w)
        d2 = simd.dot4(d2, x, k + x3, weight, w2 + w)
        d3 = simd.dot4(d3, x, k + x3, weight, w3 + w)
    store_four(a0, a1, a2, a3, totals, block * 16)
    store_four(b0, b1, b2, b3, totals, block * 16 + columns)
    store_four(c0, c1, c2, c3, totals, block * 16 + 2 * columns)
    store_four(d0, d1, d2, d3, totals, block * 16 + 3 * columns)


@kernel
def store_four(s0, s1, s2, s3, totals, at):
    """Write four vectors side by side."""
    simd.store(s0, totals, at)
    simd.store(s1, totals, at + 16)
    simd.store(s2, totals, at + 32)
    simd.store(s3, totals, at + 48)


@kernel(parallel=True)
def gemm(bounds, operand, weight, K, weight_scale, weight_zero, weight_sums, scratch, epilogue, out, first, second):
    """Rows of (q_x − z_x) @ (q_w − z_w) · s_x · s_w, then the epilogue.

    Parameters
    ----------
    bounds : (B + 1,) int64
        Row blocks, one task each.
    operand : Operand
        Packed activations, (N, W) uint8, with scale and zero point per tensor (1,) or row (N,).
    weight : 1-D int8
        Codes of a (K, M) weight, from :func:`tile_weight`.
    weight_scale, weight_zero : (M,) float32
    weight_sums : (M,) int64
        Column sums of the codes.
    scratch : int
        Codes a scratch row must hold.
    epilogue, out, first, second
        See :mod:`numba_kernels.requantise`.
    """
    for task in numba.prange(bounds.shape[0] - 1):
        M = weight_scale.shape[0]
        groups, blocks = (K + 3) // 4, (M + 15) // 16
        columns, room = 16 * blocks, operand.packed.shape[1] * 8 // operand.bits
        inputs = np.zeros(ROWS * room, np.uint8)
        totals = np.zeros(ROWS * columns, np.int32)
        codes = np.zeros(scratch, np.uint8)
        row = np.zeros(M, np.float32)
        for start in range(bounds[task], bounds[task + 1], ROWS):
            count = min(ROWS, bounds[task + 1] - start)
            for r in range(count):
                unpack_row(operand.packed[start + r], inputs[r * room : (r + 1) * room], operand.bits)
            block = 0
            while block + 4 <= blocks:
                multiply_wide(inputs, room, weight, groups, block, totals, columns)
                block += 4
            while block < blocks:
                multiply(inputs, room, weight, groups, block, totals, columns)
                block += 1
            for r in range(count):
                i = start + r
                at = i * operand.row_step
                scale, zero, row_sum = operand.scale[at], np.float64(operand.zero[at]), np.float64(operand.sums[i])
                rest = row_sum - np.float64(K) * zero
                for m in range(M):
                    offset = zero * np.float64(weight_sums[m]) + np.float64(weight_zero[m]) * rest
                    row[m] = np.float32(np.float64(totals[r * columns + m]) - offset) * scale * weight_scale[m]
                finish_row(i, row, epilogue, out, first, second, codes)
