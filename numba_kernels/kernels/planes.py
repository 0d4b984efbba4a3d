"""Messages edge by edge, sixteen columns at a time, for what takes each of them wide."""

from __future__ import annotations

import numpy as np

from .. import simd
from ..jit import kernel


@kernel
def codes_at(packed, row, place):
    """Sixteen codes of a packed row, as int32; ``place`` is width of a row, first byte, bit, largest code."""
    width, column, bit, top = place
    x = simd.to_i32(simd.load(simd.zeros16(), packed, np.int64(row) * width + column))
    return simd.bits_and(simd.shift_right(x, bit), top)


@kernel
def keep(value, held, to, c):
    """to[c : c + 16] ← value."""
    simd.store(value, to, c)


def by_edge(begin, take, end=keep):
    """A kernel that takes the codes of the rows that indices[start:stop] names, one row after the other.

    ``begin(given, c)`` is the value that columns from c on begin with, and a tuple of what stays the same for them;
    ``take(value, codes, held, given, e, place)`` the value after edge e; ``end(value, held, to, c)`` keeps the last.
    """

    @kernel
    def visit(packed, width, bits, indices, start, stop, columns, given, to):
        top = (1 << bits) - 1
        for column in range(0, width, 16):
            bit = 0
            c = column
            while c < columns:
                place = width, column, bit, top
                value, held = begin(given, c)
                for e in range(start, stop):
                    value = take(value, codes_at(packed, indices[e], place), held, given, e, place)
                end(value, held, to, c)
                bit += bits
                c += width

    return visit
