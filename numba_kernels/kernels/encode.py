"""ENCODE: a slot to packed codes."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np

from .. import simd
from ..jit import kernel
from ..spec import MOST_HALVINGS, SMALLEST_SCALE
from .fields import ROW_AFFINE, ROW_HALF, SHIFT, STATIC, Target
from .instruction import instruction, reader

_NONE = {16: simd.zeros16, 32: simd.zeros32, 64: simd.zeros64}


class Encode(NamedTuple):
    """Packed codes ← src, requantised."""

    src: int  # in the scratch
    columns: int
    target: Target
    grid: int  # in the scratch: room for 128 float32, a row's own inverse and offset as vectors


read_encode = reader(Encode)


@kernel
def row_grid(low, high, target, is_half):
    """Scale, zero point and offset of a row with extremes ``low`` and ``high``, as QLRQuantizer computes them."""
    alpha, qmax, divisor, added = (
        np.float32(target.alpha),
        np.float32(target.range_qmax),
        np.float32(target.divisor),
        np.float32(target.added),
    )
    low, high = alpha * low, alpha * high
    if is_half:
        scale = max(abs(low), abs(high)) * (np.float32(2.0) / (qmax + np.float32(1.0)))
        zero = qmax / np.float32(2.0)
        scale = max(scale, SMALLEST_SCALE)
    else:
        low, high = min(low, np.float32(0.0)), max(high, np.float32(0.0))
        scale = max((high - low) / qmax, SMALLEST_SCALE)
        zero = np.float32(np.rint(-low / scale))
    return scale * divisor, zero / divisor, (zero + added) / divisor


@kernel
def row_extremes(row, columns):
    """Smallest and largest of a float32 row and 0, where 0 stands from ``columns`` on."""
    low, high = simd.zeros_f32(), simd.zeros_f32()
    for c in range(0, columns, 16):
        x = simd.load(low, row, c)
        low, high = simd.minimum(low, x), simd.maximum(high, x)
    return simd.smallest(low), simd.largest(high)


@kernel
def encode_block(row, columns, block, target, factor, inverse, offset, step, lanes, none):
    """Codes of one block of ``lanes`` bytes; ``none`` is a zero vector of its size."""
    zero = simd.to_f32(none)
    top, norm = simd.fill(zero, np.float32(target.top)), simd.fill(zero, factor)
    packed = simd.to_i32(none)
    bit = 0
    c = block
    while c < columns:
        y = simd.multiply(simd.load(zero, row, c), norm)
        y = simd.multiply(y, simd.load(zero, inverse, c * step))
        y = simd.add(y, simd.load(zero, offset, c * step))
        code = simd.rounded_bits(simd.minimum(simd.maximum(y, zero), top))
        if c + lanes > columns:
            code = simd.first_lanes(code, columns - c)
        packed = simd.bits_or(packed, simd.shift_left(code, bit))
        bit += target.bits
        c += target.width
    return simd.low_bytes(packed)


@kernel
def find_grid(row, columns, factor, target, is_half, base, i, grid):
    """A row's own scale and zero point, written for row i, and at ``grid`` its inverse and offset as vectors."""
    low, high = row_extremes(row, columns)
    scale, zero, offset = row_grid(low * factor, high * factor, target, is_half)
    simd.f32_at(base + target.scale)[i] = scale
    simd.f32_at(base + target.zero)[i] = zero
    lanes = simd.zeros_f32()
    for c in range(0, 64, 16):
        simd.store(simd.fill(lanes, np.float32(1.0) / scale), simd.f32_at(grid), c)
        simd.store(simd.fill(lanes, offset), simd.f32_at(grid + 256), c)


@kernel
def find_shift(row, columns, factor, target, base, i):
    """How often a row's scale is the common one halved, as a power of two; writes the row's scale, zero and power."""
    low, high = row_extremes(row, columns)
    reach, halved, power = max(abs(low * factor), abs(high * factor)), np.float32(1.0), np.int32(1 << MOST_HALVINGS)
    half = np.float32(target.alpha)
    for _ in range(MOST_HALVINGS):
        half *= np.float32(0.5)
        if reach <= half:
            halved *= np.float32(2.0)
            power >>= 1
    simd.f32_at(base + target.scale)[i] = np.float32(target.divisor) / halved
    simd.f32_at(base + target.zero)[i] = np.float32(target.added)
    simd.i8_at(base + target.powers)[i] = np.int8(power)
    return halved


@instruction(Encode, product((STATIC, ROW_AFFINE, ROW_HALF, SHIFT), _NONE))
def encode(mode, lanes):
    """A variant a ``mode`` of scales and a number of bytes that are packed at a time: 16, 32 or 64."""
    is_own, is_half, is_shift, none = mode in (ROW_AFFINE, ROW_HALF), mode == ROW_HALF, mode == SHIFT, _NONE[lanes]

    def run(at, start, count, base, stride):
        f = read_encode(at)
        target, width, grid = f.target, f.target.width, base + f.grid
        local, first = (base, 0) if target.local != 0 else (0, start)  # factors are those of the nodes either way
        inverse = simd.f32_at(grid if is_own else target.inverse)
        offset = simd.f32_at(grid + 256 if is_own else target.offset)
        for r in range(count):
            row = simd.f32_at(base + f.src + 4 * r * stride)
            packed = simd.u8_at(local + target.packed + (first + r) * width)
            factor = simd.f32_at(target.factor)[start + r] if target.factor != 0 else np.float32(1.0)
            if is_own:
                find_grid(row, f.columns, factor, target, is_half, local, first + r, grid)
            if is_shift:
                factor *= find_shift(row, f.columns, factor, target, local, first + r)
            for block in range(0, width, lanes):
                step = 0 if is_own else 1
                codes = encode_block(row, f.columns, block, target, factor, inverse, offset, step, lanes, none())
                simd.store(codes, packed, block)

    return run
