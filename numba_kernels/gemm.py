"""Products of packed activations and integer weights."""

from __future__ import annotations

import numba
import numpy as np

from .requantise import finish_row
from .runtime import kernel


@kernel
def accumulate_product(packed, bits, weight, total):
    """total ← codes @ weight: (W,) uint8 packed, (K, M) uint8, (M,) int32.

    Codes of 0 are skipped, eight bytes of them at a time: rows are sparse after ReLU, and more so in bags of words.
    """
    total[:] = np.int32(0)
    width, mask = packed.shape[0], np.uint8((1 << bits) - 1)
    words = packed.view(np.uint64)
    for word in range(words.shape[0]):
        if words[word] == 0:
            continue
        for j in range(8 * word, 8 * word + 8):
            if packed[j] == 0:
                continue
            for plane in range(8 // bits):
                code = np.int32((packed[j] >> np.uint8(plane * bits)) & mask)
                if code != np.int32(0):
                    k = plane * width + j
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
    weight : (K, M') uint8
        Weight codes, columns padded from M to M' with zeros.
    weight_scale, weight_zero : (M,) float32
    weight_sums : (M,) int64
        Column sums of ``weight``.
    scratch : int
        Codes a scratch row must hold.
    epilogue, out, first, second
        See :mod:`numba_kernels.requantise`.
    """
    for block in numba.prange(bounds.shape[0] - 1):
        K, M = weight.shape[0], weight_scale.shape[0]
        codes = np.zeros(scratch, np.uint8)
        total = np.zeros(weight.shape[1], np.int32)
        row = np.zeros(M, np.float32)
        for i in range(bounds[block], bounds[block + 1]):
            accumulate_product(operand.packed[i], operand.bits, weight, total)
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
