"""Packed rows to bytes, one a code."""

from __future__ import annotations

from .. import simd
from ..jit import kernel


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
