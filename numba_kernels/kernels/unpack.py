"""Packed rows in the forms that products take."""

from __future__ import annotations

from .. import simd
from ..jit import kernel


@kernel(inline=True)
def unpack_block(packed, column, width, bits, is_words, codes, none):
    """The codes of one block of bytes, into their places among the row's ``codes``, uint8 or uint16; their sum."""
    x, top, total = simd.load(none, packed, column), (1 << bits) - 1, 0
    for plane in range(8 // bits):
        code, at = simd.bits_and(simd.shift_right(x, plane * bits), top), column + plane * width
        total += simd.sum_bytes(code)
        if is_words:
            simd.store(simd.widen(code), codes, 2 * at)
        else:
            simd.store(code, codes, at)
    return total


@kernel(inline=True)
def unpack_pairs(packed, column, width, codes, none):
    """16 · the pairs of 2-bit codes of one block of bytes, into their places among the row's; the sum of the codes."""
    x = simd.load(none, packed, column)
    simd.store(simd.shift_left(simd.bits_and(x, 0x0F), 4), codes, column)
    simd.store(simd.bits_and(x, 0xF0), codes, column + width)
    two = simd.add(simd.bits_and(x, 0x33), simd.bits_and(simd.shift_right(x, 2), 0x33))
    return simd.sum_bytes(simd.add(simd.bits_and(two, 0x0F), simd.shift_right(two, 4)))


def unpacking(bits: int, form: str):
    """The function that unpacks a row of ``width`` bytes to ``codes``, a pointer to uint8; it returns their sum."""
    is_pairs, is_words = form == "pairs", form == "words"

    @kernel(inline=True)
    def block(packed, column, width, codes, none):
        if is_pairs:
            return unpack_pairs(packed, column, width, codes, none)
        return unpack_block(packed, column, width, bits, is_words, codes, none)

    @kernel(inline=True)
    def unpack(packed, width, codes):
        total = 0
        if width % 32 == 0:
            for column in range(0, width, 32):
                total += block(packed, column, width, codes, simd.zeros32())
        else:
            total += block(packed, 0, width, codes, simd.zeros16())
        return total

    return unpack
