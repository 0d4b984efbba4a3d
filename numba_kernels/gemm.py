"""Products of packed activations and integer weights."""

from __future__ import annotations

import numba
import numpy as np

from .requantise import finish_row, unpack_row
from .runtime import kernel


@kernel
def accumulate_product(inputs, weight, total):
    """total ← inputs @ weight: (K,) uint8, (K, M) uint8, (M,) int32. Codes of 0, frequent after ReLU, are skipped."""
    total[:] = np.int32(0)
    for k in range(weight.shape[0]):
        code = np.int32(inputs[k])
        if code != np.int32(0):
            for m in range(total.shape[0]):
                total[m] += code * np.int32(weight[k, m])


@kernel(parallel=True)
def gemm(bounds, operand, weight, weight_scale, weight_zero, weight_sums, scratch, epilogue, out, first, second):
    """Rows of (q_x − z_x) @ (q_w − z_w) · s_x · s_w, then the epilogue.

    Parameters
    ----------
    bounds : (B + 1,) int64
        Row blocks, one task each.
    operand : Operand
        Packed activations, (N, W) uint8, with scale and zero point per tensor (1,) or row (N,).
    weight : (K, M) uint8
        Weight codes.
    weight_scale, weight_zero : (M,) float32
    weight_sums : (M,) int64
        Column sums of ``weight``.
    scratch : int
        Codes a scratch row must hold.
    epilogue, out, first, second
        See :mod:`numba_kernels.requantise`.
    """
    for block in numba.prange(bounds.shape[0] - 1):
        K, M = weight.shape
        codes = np.zeros(scratch, np.uint8)
        inputs = np.zeros(operand.packed.shape[1] * 8 // operand.bits, np.uint8)
        total = np.zeros(M, np.int32)
        row = np.zeros(M, np.float32)
        for i in range(bounds[block], bounds[block + 1]):
            unpack_row(operand.packed[i], inputs, operand.bits)
            accumulate_product(inputs, weight, total)
            at = i * operand.row_step
            scale, zero, row_sum = (
                operand.scale[at],
                np.float64(operand.zero[at]),
                np.float64(operand.sums[i]),
            )
            for m in range(M):
                offset = zero * np.float64(weight_sums[m])
                offset += np.float64(weight_zero[m]) * (row_sum - np.float64(K) * zero)
                row[m] = np.float32(np.float64(total[m]) - offset) * scale * weight_scale[m]
            finish_row(i, row, epilogue, out, first, second, codes)
