"""Row-wise work on float32 matrices: the epilogue on its own, and delta coding."""

from __future__ import annotations

import numba
import numpy as np

from .requantise import encode_row, finish_row, unpack_row
from .runtime import kernel


@kernel(parallel=True)
def finish(bounds, values, scratch, epilogue, out, first, second):
    """The epilogue on rows of ``values``, (N, C) float32; other parameters as in :func:`numba_kernels.gemm.gemm`."""
    for block in numba.prange(bounds.shape[0] - 1):
        codes = np.zeros(scratch, np.uint8)
        row = np.zeros(values.shape[1], np.float32)
        for i in range(bounds[block], bounds[block + 1]):
            for c in range(values.shape[1]):
                row[c] = values[i, c]
            finish_row(i, row, epilogue, out, first, second, codes)


@kernel(parallel=True)
def dequantize(bounds, operand, out):
    """out ← (codes − zero) · scale, (N, C) float32."""
    for block in numba.prange(bounds.shape[0] - 1):
        codes = np.zeros(operand.packed.shape[1] * 8 // operand.bits, np.uint8)
        for i in range(bounds[block], bounds[block + 1]):
            unpack_row(operand.packed[i], codes, operand.bits)
            for c in range(out.shape[1]):
                at = i * operand.row_step + c * operand.column_step
                out[i, c] = (np.float32(codes[c]) - operand.zero[at]) * operand.scale[at]


@kernel(parallel=True)
def delta_encode(bounds, values, factor, state, scratch, target, scale, zero, column_step):
    """Code what ``values · factor`` changed against ``state``, and move ``state`` by what the codes say.

    ``values`` and ``state`` are (N, C) float32, ``state`` is updated in place; ``factor`` is (N,) or (0,) float32;
    ``scale`` and ``zero``, read at c · column_step, are those of the target's codes.
    """
    for block in numba.prange(bounds.shape[0] - 1):
        codes = np.zeros(scratch, np.uint8)
        row = np.zeros(values.shape[1], np.float32)
        for i in range(bounds[block], bounds[block + 1]):
            norm = factor[i] if factor.shape[0] > 0 else np.float32(1.0)
            for c in range(values.shape[1]):
                row[c] = values[i, c] * norm - state[i, c]
            encode_row(i, row, codes, target)
            for c in range(values.shape[1]):
                at = c * column_step
                state[i, c] += (np.float32(codes[c]) - zero[at]) * scale[at]
