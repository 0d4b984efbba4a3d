"""Sums of packed rows, exact: in narrow lanes for as many rows as they hold, then in int32."""

from __future__ import annotations

import numpy as np

from .. import simd
from ..jit import kernel
from ..layout import AHEAD


@kernel
def fetch(packed, width, column, indices, e):
    """Ask for the row that is read some edges later."""
    simd.prefetch(packed, np.int64(indices[e + AHEAD]) * width + column)


@kernel
def spill(lanes, totals, column, is_first):
    """totals[column + lane] += lane, or = where this is the first."""
    wide = simd.to_i32(lanes)
    if is_first:
        simd.store(wide, totals, column)
    else:
        simd.store(simd.add(wide, simd.load(wide, totals, column)), totals, column)


@kernel
def sum_2bit(packed, width, column, indices, start, stop, none, is_new, totals):
    """2-bit codes: in 4-bit lanes for 5 rows, in 8-bit lanes for 85, then int32."""
    for first in range(start, stop, 85):
        s0, s1, s2, s3 = none, none, none, none
        last = min(first + 85, stop)
        for group in range(first, last, 5):
            even, odd = none, none
            for e in range(group, min(group + 5, last)):
                fetch(packed, width, column, indices, e)
                x = simd.load(none, packed, np.int64(indices[e]) * width + column)
                even = simd.add(even, simd.bits_and(x, 0x33))
                odd = simd.add(odd, simd.bits_and(simd.shift_right(x, 2), 0x33))
            s0 = simd.add(s0, simd.bits_and(even, 0x0F))
            s1 = simd.add(s1, simd.bits_and(odd, 0x0F))
            s2 = simd.add(s2, simd.shift_right(even, 4))
            s3 = simd.add(s3, simd.shift_right(odd, 4))
        spill(s0, totals, column, is_new and first == start)
        spill(s1, totals, column + width, is_new and first == start)
        spill(s2, totals, column + 2 * width, is_new and first == start)
        spill(s3, totals, column + 3 * width, is_new and first == start)


@kernel
def sum_4bit(packed, width, column, indices, start, stop, none, is_new, totals):
    """4-bit codes: in 8-bit lanes for 17 rows, then int32."""
    for first in range(start, stop, 17):
        s0, s1 = none, none
        for e in range(first, min(first + 17, stop)):
            fetch(packed, width, column, indices, e)
            x = simd.load(none, packed, np.int64(indices[e]) * width + column)
            s0 = simd.add(s0, simd.bits_and(x, 0x0F))
            s1 = simd.add(s1, simd.shift_right(x, 4))
        spill(s0, totals, column, is_new and first == start)
        spill(s1, totals, column + width, is_new and first == start)


@kernel
def sum_8bit(packed, width, column, indices, start, stop, none, is_new, totals):
    """8-bit codes: in 16-bit lanes for 257 rows, then int32."""
    for first in range(start, stop, 257):
        s = simd.widen(none)
        for e in range(first, min(first + 257, stop)):
            fetch(packed, width, column, indices, e)
            s = simd.add(s, simd.widen(simd.load(none, packed, np.int64(indices[e]) * width + column)))
        spill(s, totals, column, is_new and first == start)


@kernel
def sum_1bit(packed, width, column, indices, start, stop, none, is_new, totals):
    """1-bit codes: in 2-bit lanes for 3 rows, in 8-bit lanes for 255, then int32."""
    for first in range(start, stop, 255):
        s0, s1, s2, s3, s4, s5, s6, s7 = none, none, none, none, none, none, none, none
        last = min(first + 255, stop)
        for group in range(first, last, 3):
            even, odd = none, none
            for e in range(group, min(group + 3, last)):
                fetch(packed, width, column, indices, e)
                x = simd.load(none, packed, np.int64(indices[e]) * width + column)
                even = simd.add(even, simd.bits_and(x, 0x55))
                odd = simd.add(odd, simd.bits_and(simd.shift_right(x, 1), 0x55))
            s0 = simd.add(s0, simd.bits_and(even, 3))
            s1 = simd.add(s1, simd.bits_and(odd, 3))
            s2 = simd.add(s2, simd.bits_and(simd.shift_right(even, 2), 3))
            s3 = simd.add(s3, simd.bits_and(simd.shift_right(odd, 2), 3))
            s4 = simd.add(s4, simd.bits_and(simd.shift_right(even, 4), 3))
            s5 = simd.add(s5, simd.bits_and(simd.shift_right(odd, 4), 3))
            s6 = simd.add(s6, simd.shift_right(even, 6))
            s7 = simd.add(s7, simd.shift_right(odd, 6))
        is_first = is_new and first == start
        spill(s0, totals, column, is_first)
        spill(s1, totals, column + width, is_first)
        spill(s2, totals, column + 2 * width, is_first)
        spill(s3, totals, column + 3 * width, is_first)
        spill(s4, totals, column + 4 * width, is_first)
        spill(s5, totals, column + 5 * width, is_first)
        spill(s6, totals, column + 6 * width, is_first)
        spill(s7, totals, column + 7 * width, is_first)


@kernel
def sum_narrow(packed, bits, indices, start, stop, none, is_new, totals):
    """Up to sixteen columns, one in a byte: in 8-bit lanes for 255 / (2^bits − 1) rows, then int32."""
    rows = 255 // ((1 << bits) - 1)
    for first in range(start, stop, rows):
        s = none
        for e in range(first, min(first + rows, stop)):
            s = simd.add(s, simd.load(none, packed, np.int64(indices[e]) * 16))
        spill(s, totals, 0, is_new and first == start)


def summing(bits: int, lanes: int):
    """The function that sums rows of a width of codes, ``lanes`` bytes at a time, or of up to sixteen columns (0).

    It is called ``(packed, width, indices, start, stop, is_new, totals)``: totals += codes of the packed rows that
    indices[start:stop] names, = if ``is_new``. ``totals``, int32, has a place for each code of a row of ``width``
    bytes. AHEAD more indices are read, to fetch.
    """
    if lanes == 0:

        @kernel
        def sum_rows(packed, width, indices, start, stop, is_new, totals):
            sum_narrow(packed, bits, indices, start, stop, simd.zeros16(), is_new, totals)

        return sum_rows
    none, sum_block = _NONE[lanes], _BLOCKS[bits]

    @kernel
    def sum_rows(packed, width, indices, start, stop, is_new, totals):
        for column in range(0, width, lanes):
            sum_block(packed, width, column, indices, start, stop, none(), is_new, totals)

    return sum_rows


_NONE = {16: simd.zeros16, 32: simd.zeros32, 64: simd.zeros64}
_BLOCKS = {1: sum_1bit, 2: sum_2bit, 4: sum_4bit, 8: sum_8bit}


@kernel
def clear(totals, room):
    """Zeros, int32; ``room`` a multiple of sixteen."""
    for c in range(0, room, 16):
        simd.store(simd.zeros_i32(), totals, c)


@kernel
def center(totals, count, exact, zero, scale, columns, row):
    """row ← (totals − zero · count) · scale. Up to ``exact`` codes float32 holds the difference, beyond float64."""
    none, lanes = simd.zeros_i32(), simd.zeros_f32()
    if abs(count) > exact:
        wide = simd.fill(simd.to_f64(lanes), np.float64(count))
        for c in range(0, columns, 16):
            moved = simd.multiply(simd.to_f64(simd.load(lanes, zero, c)), wide)
            centered = simd.to_f32(simd.subtract(simd.to_f64(simd.load(none, totals, c)), moved))
            simd.store(simd.multiply(centered, simd.load(lanes, scale, c)), row, c)
    else:
        times = simd.fill(lanes, np.float32(count))
        for c in range(0, columns, 16):
            moved = simd.multiply(simd.load(lanes, zero, c), times)
            centered = simd.subtract(simd.to_f32(simd.load(none, totals, c)), moved)
            simd.store(simd.multiply(centered, simd.load(lanes, scale, c)), row, c)
