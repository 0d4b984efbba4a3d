"""ENCODE: a slot to packed codes."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np

from .. import simd
from ..jit import kernel
from ..spec import MOST_HALVINGS, SMALLEST_SCALE
from .fields import GROUP, ROW_AFFINE, ROW_HALF, SHIFT, SIGN, STATIC, Matrix, Target
from .instruction import instruction, reader

_NONE = {16: simd.zeros16, 32: simd.zeros32, 64: simd.zeros64}


class Encode(NamedTuple):
    """Packed codes ← src, requantised."""

    src: int  # in the scratch
    columns: int
    target: Target
    grids: int  # in the scratch: room for four float32 a row of the tile, of which its own scale is found
    source: Matrix  # where src was loaded from: rows of the next tile are asked for; or of address 0


read_encode = reader(Encode)


@kernel
def own_grid(low, high, alpha, qmax, is_half):
    """Scale and zero point of a row with extremes ``low`` and ``high``."""
    low, high = alpha * low, alpha * high
    if is_half:
        scale = max(abs(low), abs(high)) * (np.float32(2.0) / (qmax + np.float32(1.0)))
        return max(scale, SMALLEST_SCALE), qmax / np.float32(2.0)
    low, high = min(low, np.float32(0.0)), max(high, np.float32(0.0))
    scale = max((high - low) / qmax, SMALLEST_SCALE)
    return scale, np.float32(np.rint(-low / scale))


@kernel
def row_grid(low, high, target, is_half):
    """Scale, zero point and offset of a row with extremes ``low`` and ``high``, as QLRQuantizer computes them."""
    alpha, qmax, divisor, added = (
        np.float32(target.alpha),
        np.float32(target.range_qmax),
        np.float32(target.divisor),
        np.float32(target.added),
    )
    scale, zero = own_grid(low, high, alpha, qmax, is_half)
    return scale * divisor, zero / divisor, (zero + added) / divisor


@kernel
def check_scale(scale, target):
    """Tell that a row's extremes are too far apart for its own scale."""
    if not scale < np.float32(np.inf):
        simd.i32_at(target.fault)[0] = np.int32(1)


@kernel
def row_extremes(row, columns):
    """Smallest and largest of a float32 row and 0, where 0 stands from ``columns`` on."""
    low, high = simd.zeros_f32(), simd.zeros_f32()
    for c in range(0, columns, 16):
        x = simd.load(low, row, c)
        low, high = simd.minimum(low, x), simd.maximum(high, x)
    return simd.smallest(low), simd.largest(high)


@kernel
def row_magnitude(row, columns, factor):
    """Σ |row · factor|, float64, of a float32 row, where 0 stands from ``columns`` on; in the order of SignGrid."""
    lanes = simd.zeros_f32()
    norm, sums = simd.fill(lanes, factor), simd.to_f64(lanes)
    for c in range(0, columns, 16):
        sums = simd.add(sums, simd.to_f64(simd.absolute(simd.multiply(simd.load(lanes, row, c), norm))))
    return simd.total(sums)


@kernel
def encode_block(row, columns, block, target, factor, inverse, offset, top, is_own, lanes, none):
    """Codes of one block of ``lanes`` bytes; ``none`` is a zero vector of its size.

    ``inverse`` and ``offset`` point to those of columns, or, under ``is_own``, to the row's; ``top`` is the largest
    code.
    """
    zero = simd.to_f32(none)
    top, norm = simd.fill(zero, top), simd.fill(zero, factor)
    packed = simd.to_i32(none)
    own_inverse, own_offset = simd.fill(zero, inverse[0]), simd.fill(zero, offset[0])
    bit = 0
    c = block
    while c < columns:
        y = simd.multiply(simd.load(zero, row, c), norm)
        y = simd.multiply(y, own_inverse if is_own else simd.load(zero, inverse, c))
        y = simd.add(y, own_offset if is_own else simd.load(zero, offset, c))
        code = simd.rounded_bits(simd.minimum(simd.maximum(y, zero), top))
        if c + lanes > columns:
            code = simd.first_lanes(code, columns - c)
        packed = simd.bits_or(packed, simd.shift_left(code, bit))
        bit += target.bits
        c += target.width
    return simd.low_bytes(packed)


@kernel
def factor_at(target, i):
    """What row i is multiplied with before it is coded."""
    return simd.f32_at(target.factor)[i] if target.factor != 0 else np.float32(1.0)


@kernel
def find_grids(src, stride, columns, start, count, target, is_half, base, first, inverses, offsets):
    """Scales and zero points of ``count`` rows, written from row ``first`` on, and their inverses and offsets.

    First come the extremes of all rows: divisions of one need not wait for those of another.
    """
    lows, highs = simd.f32_at(inverses + 8 * count), simd.f32_at(offsets + 8 * count)
    for r in range(count):
        low, high = row_extremes(simd.f32_at(src + 4 * r * stride), columns)
        factor = factor_at(target, start + r)
        lows[r], highs[r] = low * factor, high * factor
    scales, zeros = simd.f32_at(base + target.scale), simd.f32_at(base + target.zero)
    of_rows, offsets_of_rows = simd.f32_at(inverses), simd.f32_at(offsets)
    for r in range(count):
        scale, zero, offset = row_grid(lows[r], highs[r], target, is_half)
        check_scale(scale, target)
        scales[first + r], zeros[first + r] = scale, zero
        of_rows[r], offsets_of_rows[r] = np.float32(1.0) / scale, offset


@kernel
def find_means(src, stride, columns, start, count, target, base, first, inverses, offsets):
    """As :func:`find_grids`, of signs."""
    scales, zeros = simd.f32_at(base + target.scale), simd.f32_at(base + target.zero)
    of_rows, offsets_of_rows = simd.f32_at(inverses), simd.f32_at(offsets)
    for r in range(count):
        total = row_magnitude(simd.f32_at(src + 4 * r * stride), columns, factor_at(target, start + r))
        scale = max(np.float32(2.0 * total / np.float64(columns)), SMALLEST_SCALE)
        check_scale(scale, target)
        scales[first + r], zeros[first + r] = scale, np.float32(0.5)
        of_rows[r], offsets_of_rows[r] = np.float32(1.0) / scale, np.float32(0.5)


@kernel
def find_groups(src, stride, columns, start, count, target, base, first, inverses, offsets):
    """As :func:`find_grids`, of groups, and the largest codes of rows beside their inverses."""
    scales, zeros = simd.f32_at(base + target.scale), simd.f32_at(base + target.zero)
    of_rows, offsets_of_rows = simd.f32_at(inverses), simd.f32_at(offsets)
    tops, table, groups = simd.f32_at(inverses + 8 * count), simd.f32_at(target.inverse), np.int64(target.range_qmax)
    for r in range(count):
        row, factor, own = simd.f32_at(src + 4 * r * stride), factor_at(target, start + r), 0
        mean = np.float32(row_magnitude(row, columns, factor) / np.float64(columns))
        for group in range(1, groups):
            own += np.int64(mean >= table[2 * groups + group])
        low, high = row_extremes(row, columns)
        alpha, top, is_half = table[own], table[groups + own], target.added != 0
        scale, zero = own_grid(low * factor, high * factor, alpha, top, is_half)
        check_scale(scale, target)
        scales[first + r], zeros[first + r] = scale, zero
        of_rows[r], offsets_of_rows[r], tops[r] = np.float32(1.0) / scale, zero, top


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


@instruction(Encode, product((STATIC, ROW_AFFINE, ROW_HALF, SHIFT, SIGN, GROUP), _NONE))
def encode(mode, lanes):
    """A variant a ``mode`` of scales and a number of bytes that are packed at a time: 16, 32 or 64."""
    is_own, is_half, none = mode in (ROW_AFFINE, ROW_HALF, SIGN, GROUP), mode == ROW_HALF, _NONE[lanes]
    is_shift, is_sign, is_grouped = mode == SHIFT, mode == SIGN, mode == GROUP

    def run(at, start, count, base, stride):
        f = read_encode(at)
        target, width = f.target, f.target.width
        local, first = (base, 0) if target.local != 0 else (0, start)  # factors are those of the nodes either way
        inverse, offset, own = target.inverse, target.offset, 0
        if is_own:
            inverse, offset, own = base + f.grids, base + f.grids + 4 * count, 4
            if is_sign:
                find_means(base + f.src, stride, f.columns, start, count, target, local, first, inverse, offset)
            elif is_grouped:
                find_groups(base + f.src, stride, f.columns, start, count, target, local, first, inverse, offset)
            else:
                find_grids(
                    base + f.src, stride, f.columns, start, count, target, is_half, local, first, inverse, offset
                )
        for r in range(count):
            row = simd.f32_at(base + f.src + 4 * r * stride)
            packed = simd.u8_at(local + target.packed + (first + r) * width)
            grid = simd.f32_at(inverse + own * r), simd.f32_at(offset + own * r)
            factor = factor_at(target, start + r)
            if f.source.address != 0:
                next_row = simd.f32_at(f.source.address + 4 * (start + count + r) * f.source.stride)
                for c in range(0, f.source.stride, 16):
                    simd.prefetch(next_row, c)
            top = simd.f32_at(inverse + 8 * count)[r] if is_grouped else np.float32(target.top)
            if is_shift:
                factor *= find_shift(row, f.columns, factor, target, local, first + r)
            for block in range(0, width, lanes):
                codes = encode_block(row, f.columns, block, target, factor, *grid, top, is_own, lanes, none())
                simd.store(codes, packed, block)

    return run
