"""Float32 rows to packed codes and back, in registers."""

from __future__ import annotations

import numpy as np

from .. import simd
from ..jit import kernel
from .fields import MOST_HALVINGS, ROW_HALF, SHIFT, STATIC
from .rows import clear_from

# As in training: keeps a row of zeros invertible.
SMALLEST_SCALE = np.float32(2.0**-40)


@kernel(inline=True)
def row_grid(low, high, target):
    """Scale, zero point and offset of a row with extremes ``low`` and ``high``, as QLRQuantizer computes them."""
    alpha, qmax, divisor, shift = (
        np.float32(target.alpha),
        np.float32(target.range_qmax),
        np.float32(target.divisor),
        np.float32(target.shift),
    )
    low, high = alpha * low, alpha * high
    if target.mode == ROW_HALF:
        scale = max(abs(low), abs(high)) * (np.float32(2.0) / (qmax + np.float32(1.0)))
        zero = qmax / np.float32(2.0)
        scale = max(scale, SMALLEST_SCALE)
    else:
        low, high = min(low, np.float32(0.0)), max(high, np.float32(0.0))
        scale = max((high - low) / qmax, SMALLEST_SCALE)
        zero = np.float32(np.rint(-low / scale))
    return scale * divisor, zero / divisor, (zero + shift) / divisor


@kernel(inline=True)
def row_extremes(row, columns):
    """Smallest and largest of a float32 row and 0, where 0 stands from ``columns`` on."""
    low, high = simd.zeros_f32(), simd.zeros_f32()
    for c in range(0, columns, 16):
        x = simd.load(low, row, c)
        low, high = simd.minimum(low, x), simd.maximum(high, x)
    return simd.smallest(low), simd.largest(high)


@kernel(inline=True)
def encode_block(row, columns, block, target, factor, inverse, offset, step, lanes, none):
    """Codes of one block of ``lanes`` bytes; ``none`` is a zero vector of its size."""
    zero = simd.to_f32(none)
    top, norm = simd.fill(zero, np.float32(target.top)), simd.fill(zero, factor)
    packed = simd.to_i32(none)
    shift = 0
    for c in range(block, columns, target.width):
        y = simd.multiply(simd.load(zero, row, c), norm)
        y = simd.multiply(y, simd.load(zero, inverse, c * step))
        y = simd.add(y, simd.load(zero, offset, c * step))
        code = simd.rounded_bits(simd.minimum(simd.maximum(y, zero), top))
        if c + lanes > columns:
            code = simd.first_lanes(code, columns - c)
        packed = simd.bits_or(packed, simd.shift_left(code, shift))
        shift += target.bits
    return simd.low_bytes(packed)


@kernel(inline=True)
def find_grid(row, columns, factor, target, base, i, grid):
    """A row's own scale and zero point, written for row i, and at ``grid`` its inverse and offset as vectors."""
    low, high = row_extremes(row, columns)
    scale, zero, offset = row_grid(low * factor, high * factor, target)
    simd.f32_at(base + target.scale)[i] = scale
    simd.f32_at(base + target.zero)[i] = zero
    lanes = simd.zeros_f32()
    for c in range(0, 64, 16):
        simd.store(simd.fill(lanes, np.float32(1.0) / scale), simd.f32_at(grid), c)
        simd.store(simd.fill(lanes, offset), simd.f32_at(grid + 256), c)


@kernel(inline=True)
def find_shift(row, columns, factor, target, base, i):
    """How often a row's scale is the common one halved, as a power of two; writes the row's scale, zero and weight."""
    low, high = row_extremes(row, columns)
    reach, power, weight = max(abs(low * factor), abs(high * factor)), np.float32(1.0), np.int32(1 << MOST_HALVINGS)
    half = np.float32(target.alpha)
    for _ in range(MOST_HALVINGS):
        half *= np.float32(0.5)
        if reach <= half:
            power *= np.float32(2.0)
            weight >>= 1
    simd.f32_at(base + target.scale)[i] = np.float32(target.divisor) / power
    simd.f32_at(base + target.zero)[i] = np.float32(target.shift)
    simd.i8_at(base + target.weights)[i] = np.int8(weight)
    return power


@kernel
def encode(node, first, count, columns, target, base, grid, src, stride):
    """Requantise float32 rows, ``count`` from the address ``src`` on, those of the nodes from ``node`` on.

    They become the rows from ``first`` on of ``target``, whose addresses of packed, scale and zero ``base`` is added
    to. ``grid`` is the address of scratch for 128 float32.
    """
    width, inverse_at, offset_at, step = target.width, target.inverse, target.offset, 1
    is_own = target.mode != STATIC and target.mode != SHIFT
    if is_own:
        inverse_at, offset_at, step = grid, grid + 256, 0
    inverse, offset = simd.f32_at(inverse_at), simd.f32_at(offset_at)
    for r in range(count):
        row, packed = simd.f32_at(src + 4 * r * stride), simd.u8_at(base + target.packed + (first + r) * width)
        factor = simd.f32_at(target.factor)[node + r] if target.factor != 0 else np.float32(1.0)
        if is_own:
            find_grid(row, columns, factor, target, base, first + r, grid)
        elif target.mode == SHIFT:
            factor *= find_shift(row, columns, factor, target, base, first + r)
        if width == 16:
            codes = encode_block(row, columns, 0, target, factor, inverse, offset, step, 16, simd.zeros16())
            simd.store(codes, packed, 0)
        elif width == 32:
            codes = encode_block(row, columns, 0, target, factor, inverse, offset, step, 32, simd.zeros32())
            simd.store(codes, packed, 0)
        else:
            for block in range(0, width, 64):
                codes = encode_block(row, columns, block, target, factor, inverse, offset, step, 64, simd.zeros64())
                simd.store(codes, packed, block)


@kernel
def decode(first, count, operand, columns, base, dst, stride):
    """Values, float32 rows from the address ``dst`` on, of ``count`` rows from ``first`` on of packed codes."""
    row_base = base * operand.per_row
    scale, zero = simd.f32_at(row_base + operand.scale), simd.f32_at(row_base + operand.zero)
    none, lanes, top = simd.zeros16(), simd.zeros_f32(), (1 << operand.bits) - 1
    for r in range(count):
        packed = simd.u8_at(base + operand.packed + (first + r) * operand.width)
        row = simd.f32_at(dst + 4 * r * stride)
        for block in range(0, operand.width, 16):
            x = simd.to_i32(simd.load(none, packed, block))
            shift = 0
            for c in range(block, columns, operand.width):
                code = simd.to_f32(simd.bits_and(simd.shift_right(x, shift), top))
                if operand.per_row != 0:
                    s, z = simd.fill(lanes, scale[first + r]), simd.fill(lanes, zero[first + r])
                else:
                    s, z = simd.load(lanes, scale, c), simd.load(lanes, zero, c)
                simd.store(simd.multiply(simd.subtract(code, z), s), row, c)
                shift += operand.bits
        if operand.per_row != 0:
            clear_from(row, columns)


@kernel(inline=True)
def unpack_block(packed, column, width, bits, codes, none):
    """The codes of one block of bytes, into their places among the row's ``codes``, uint8."""
    x = simd.load(none, packed, column)
    if bits == 8:
        simd.store(x, codes, column)
    elif bits == 4:
        simd.store(simd.bits_and(x, 15), codes, column)
        simd.store(simd.shift_right(x, 4), codes, column + width)
    elif bits == 2:
        simd.store(simd.bits_and(x, 3), codes, column)
        simd.store(simd.bits_and(simd.shift_right(x, 2), 3), codes, column + width)
        simd.store(simd.bits_and(simd.shift_right(x, 4), 3), codes, column + 2 * width)
        simd.store(simd.shift_right(x, 6), codes, column + 3 * width)
    else:
        for plane in range(8):
            simd.store(simd.bits_and(simd.shift_right(x, plane), 1), codes, column + plane * width)


@kernel
def unpack_row(packed, width, bits, codes):
    """The codes of a packed row of ``width`` bytes, (8 / bits · width,) uint8."""
    if width % 64 == 0:
        for column in range(0, width, 64):
            unpack_block(packed, column, width, bits, codes, simd.zeros64())
    else:
        for column in range(0, width, 16):
            unpack_block(packed, column, width, bits, codes, simd.zeros16())


@kernel(inline=True)
def sum_row(codes, room):
    """Sum of ``room`` codes, uint8."""
    none = simd.zeros16()
    sums = simd.zeros_i32()
    for c in range(0, room, 16):
        sums = simd.add(sums, simd.to_i32(simd.load(none, codes, c)))
    return simd.total(sums)
