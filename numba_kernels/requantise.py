"""What follows an integer sum, row by row while the row is in cache: scale, bias, residual, ReLU, requantise, pack."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .runtime import kernel

STATIC, ROW_AFFINE, ROW_HALF = 0, 1, 2
# As in training: keeps a row of zeros invertible.
SMALLEST_SCALE = np.float32(2.0**-40)


class Operand(NamedTuple):
    """A packed matrix with what turns its codes into values."""

    packed: np.ndarray  # (rows, W) uint8
    bits: int
    sums: np.ndarray  # (rows,) int32, sum of each row's codes
    scale: np.ndarray  # (1,), (rows,) or (columns,) float32; that of row i, column c stands at
    zero: np.ndarray  # i · row_step + c · column_step, and so does the zero point
    row_step: int
    column_step: int


class Epilogue(NamedTuple):
    """y ← relu(y · row_scale + bias + residual); an empty array leaves its term out."""

    row_scale: np.ndarray  # (rows,) or (0,) float32
    bias: np.ndarray  # (columns,) or (0,) float32
    residual: np.ndarray  # (rows, columns) or (0, 0) float32
    relu: bool


class Target(NamedTuple):
    """Where and how a row is requantised and packed; without rows in ``packed``, not at all.

    codes = clamp(rint(y · factor · inverse + offset), 0, 2^bits − 1), with ``inverse`` and ``offset`` fixed (STATIC)
    or found from the row's extremes (ROW_AFFINE, ROW_HALF), in which case ``scale`` and ``zero`` are written.
    """

    packed: np.ndarray  # (rows, W) or (0, 0) uint8, written
    sums: np.ndarray  # (rows,) int32, sum of the row's codes, written
    scale: np.ndarray  # (rows,) float32, written per row
    zero: np.ndarray  # (rows,) float32, written per row
    factor: np.ndarray  # (rows,) or (0,) float32: a degree norm applied before coding
    inverse: np.ndarray  # (1,) or (columns,) float32
    offset: np.ndarray  # (1,) or (columns,) float32
    levels: np.ndarray  # (2,) int64: bits in storage, largest code
    mode: int
    ranges: np.ndarray  # (4,) float32: alpha, range_qmax, divisor, shift


@kernel
def row_grid(low, high, mode, ranges):
    """Scale, zero point and offset of a row with extremes ``low`` and ``high``, as QLRQuantizer computes them."""
    alpha, qmax, divisor, shift = ranges[0], ranges[1], ranges[2], ranges[3]
    low, high = alpha * low, alpha * high
    if mode == ROW_HALF:
        scale = max(abs(low), abs(high)) * (np.float32(2.0) / (qmax + np.float32(1.0)))
        zero = qmax / np.float32(2.0)
        scale = max(scale, SMALLEST_SCALE)
    else:
        low, high = min(low, np.float32(0.0)), max(high, np.float32(0.0))
        scale = max((high - low) / qmax, SMALLEST_SCALE)
        zero = np.float32(np.rint(-low / scale))
    return scale * divisor, zero / divisor, (zero + shift) / divisor


@kernel
def pack_row(codes, out, bits):
    """Pack codes, (8 / bits · W,) uint8, into ``out``, (W,) uint8."""
    width = out.shape[0]
    for j in range(width):
        out[j] = codes[j]
    for plane in range(1, 8 // bits):
        shift, start = np.uint8(plane * bits), plane * width
        for j in range(width):
            out[j] = np.uint8(out[j] | np.uint8(codes[start + j] << shift))


@kernel
def unpack_row(packed, codes, bits):
    """Unpack ``packed``, (W,) uint8, into codes, (8 / bits · W,) uint8."""
    width, mask = packed.shape[0], np.uint8((1 << bits) - 1)
    for plane in range(8 // bits):
        shift, start = np.uint8(plane * bits), plane * width
        for j in range(width):
            codes[start + j] = np.uint8((packed[j] >> shift) & mask)


@kernel
def row_extremes(row):
    """Smallest and largest of ``row``, (columns,) float32, compared as integers of the same order, which vectorises."""
    bits = row.view(np.int32)
    low, high = np.int32(0x7FFFFFFF), np.int32(-0x7FFFFFFF)
    for c in range(bits.shape[0]):
        key = np.int32(bits[c] ^ ((bits[c] >> 31) & np.int32(0x7FFFFFFF)))
        low, high = min(low, key), max(high, key)
    ends = np.empty(2, np.int32)
    ends[0] = low ^ ((low >> 31) & np.int32(0x7FFFFFFF))
    ends[1] = high ^ ((high >> 31) & np.int32(0x7FFFFFFF))
    return ends.view(np.float32)


@kernel
def encode_row(i, row, codes, target):
    """Requantise ``row``, (columns,) float32, and pack it as row i of the target.

    ``codes`` is scratch that holds at least a row of the target and is 0 beyond ``columns``.
    """
    columns = row.shape[0]
    factor = target.factor[i] if target.factor.shape[0] > 0 else np.float32(1.0)
    top = np.float32(target.levels[1])
    if target.mode != STATIC:
        ends = row_extremes(row)
        scale, zero, offset = row_grid(ends[0] * factor, ends[1] * factor, target.mode, target.ranges)
        target.scale[i], target.zero[i] = scale, zero
        inverse = np.float32(1.0) / scale
    else:
        inverse, offset = target.inverse[0], target.offset[0]
    if target.inverse.shape[0] > 1:
        for c in range(columns):
            place = np.rint(row[c] * factor * target.inverse[c] + target.offset[c])
            codes[c] = np.uint8(np.int32(min(max(place, np.float32(0.0)), top)))
    else:
        for c in range(columns):
            place = np.rint(row[c] * factor * inverse + offset)
            codes[c] = np.uint8(np.int32(min(max(place, np.float32(0.0)), top)))
    total = np.int32(0)
    for c in range(columns):
        total += np.int32(codes[c])
    target.sums[i] = total
    pack_row(codes, target.packed[i], target.levels[0])


@kernel
def finish_row(i, row, epilogue, out, first, second, codes):
    """Apply the epilogue to ``row`` and hand it to ``out`` (float32 rows, or (0, 0)) and to both targets."""
    columns = row.shape[0]
    if epilogue.row_scale.shape[0] > 0:
        scale = epilogue.row_scale[i]
        for c in range(columns):
            row[c] = row[c] * scale
    if epilogue.bias.shape[0] > 0:
        for c in range(columns):
            row[c] = row[c] + epilogue.bias[c]
    if epilogue.residual.shape[0] > 0:
        for c in range(columns):
            row[c] = row[c] + epilogue.residual[i, c]
    if epilogue.relu:
        for c in range(columns):
            row[c] = max(row[c], np.float32(0.0))
    if out.shape[0] > 0:
        for c in range(columns):
            out[i, c] = row[c]
    if first.packed.shape[0] > 0:
        encode_row(i, row, codes, first)
    if second.packed.shape[0] > 0:
        encode_row(i, row, codes, second)
