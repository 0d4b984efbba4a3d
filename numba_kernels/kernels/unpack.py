"""Packed rows to bytes or words, one a code."""

from __future__ import annotations

from .. import simd
from ..jit import kernel


@kernel(inline=True)
def unpack_block(packed, column, width, bits, words, codes, none):
    """The codes of one block of bytes, into their places among the row's ``codes``, uint8 or uint16; their sum."""
    x, top, total = simd.load(none, packed, column), (1 << bits) - 1, 0
    for plane in range(8 // bits):
        code, at = simd.bits_and(simd.shift_right(x, plane * bits), top), column + plane * width
        total += simd.sum_bytes(code)
        if words:
            simd.store(simd.widen(code), codes, 2 * at)
        else:
            simd.store(code, codes, at)
    return total


@kernel(inline=True)
def unpack_row(packed, width, bits, words, codes):
    """The codes of a packed row of ``width`` bytes, (8 / bits · width,) uint8, or uint16 if ``words``; their sum."""
    total = 0
    if width % 32 == 0:
        for column in range(0, width, 32):
            total += unpack_block(packed, column, width, bits, words, codes, simd.zeros32())
    else:
        total += unpack_block(packed, 0, width, bits, words, codes, simd.zeros16())
    return total
