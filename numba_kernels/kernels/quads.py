"""Weighted sums of packed rows, exact: four rows at a time, a lane of a dot product a column.

The bytes of four rows are laid side by side, so that a lane of four bytes has what four edges hold for a column; the
lane of their weights, a *word*, has the four edges' weights. A byte's codes are told apart only then. Sums of up to 64
columns stay in registers while the edges pass.
"""

from __future__ import annotations

import numpy as np

from .. import simd
from ..jit import kernel

# Bytes of a row that are summed at a time, by width of codes.
MOST_BYTES = {1: 16, 2: 16, 4: 32, 8: 64}
# Edges ahead, whose rows are asked for: at most AHEAD less a quad.
_SOON = 32
VARIANTS = [(bits, lanes) for bits, most in MOST_BYTES.items() for lanes in (16, 32, 64) if lanes <= most]


def bytes_at_a_time(bits: int, width: int) -> int:
    """How many bytes of a packed row of ``width`` bytes are summed at a time."""
    return min(width, MOST_BYTES[bits])


@kernel
def side_by_side(packed, j0, j1, j2, j3):
    """Sixteen bytes of each of four rows."""
    none = simd.zeros16()
    p, q = simd.load(none, packed, j0), simd.load(none, packed, j1)
    return simd.interleave(p, q, simd.load(none, packed, j2), simd.load(none, packed, j3))


@kernel
def fetch_quad(packed, width, column, indices, e):
    """Ask for four rows that are read some edges later, from a column on.

    Where a page is new to the processor, asking waits for its address: a quad at a time that goes on beside other work,
    while more, as of all edges of a row, hold it up.
    """
    for k in range(_SOON, _SOON + 4):
        simd.prefetch(packed, np.int64(indices[e + k]) * width + column)


@kernel
def fetch_rows(packed, width, indices, e):
    """As :func:`fetch_quad`, all columns."""
    for column in range(0, width, 64):
        fetch_quad(packed, width, column, indices, e)


@kernel
def add_to(totals, column, sums):
    """totals[column + lane] += sums."""
    simd.store(simd.add(simd.load(sums, totals, column), sums), totals, column)


@kernel
def same_weight(words, at):
    """A word for all lanes."""
    return simd.fill(simd.zeros_i32(), words[at])


@kernel
def own_weights(words, at):
    """A word for each lane."""
    return simd.load(simd.zeros_i32(), words, at)


@kernel
def head_of(column, per_head):
    return column // per_head


@kernel
def column_of(column, per_head):
    return column


def _multiplying(bits, is_signed):
    """The function that adds words times codes, which stand in the byte from ``bit`` on, to sums."""
    mask, dot = (1 << bits) - 1, simd.dot_quads if bits == 8 else simd.dot_small_quads

    @kernel
    def add_signed(sums, x, bit, words):
        return dot(sums, x if bits == 8 else simd.bits_and(simd.shift_right(x, bit), mask), words)

    @kernel
    def add_unsigned(sums, x, bit, words):
        if bits == 8:
            return dot(sums, words, simd.add(x, simd.fill(x, 128)))
        return dot(sums, words, simd.bits_and(simd.shift_right(x, bit), mask))

    return add_signed if is_signed else add_unsigned


def weighing(bits: int, lanes: int, is_signed: bool, is_aligned: bool):
    """The function that adds rows of a width of codes, ``lanes`` bytes at a time, times weights of heads.

    It is called ``(packed, width, columns, per_head, indices, begin, quads, words, wide, totals)``: totals[c] += Σ
    weight · code over the packed rows that ``indices``, from ``begin`` on, names for 4 · ``quads`` edges; ``totals``,
    int32, has a place for each code of a row of ``width`` bytes.

    Words of a quad stand ``wide`` after those of the one before; as many more as a row has codes are read, for nothing.
    Where heads begin at multiples of sixteen columns (``is_aligned``), or there is but one, there is one a head, else
    one a column. Weights are int8 if ``is_signed``, else uint8; then 8-bit codes count 128 less than they are.
    """
    add, all_planes, planes = _multiplying(bits, is_signed), 8 // bits, min(8 // bits, 4)
    place_of, weights = (head_of, same_weight) if is_aligned else (column_of, own_weights)
    # A block has up to four places of sixteen columns: parts of its bytes, planes of a part.
    places = [(place // planes * 16, place % planes) for place in range(min(lanes // 16 * planes, 4))]
    (_, part1, part2, part3), (_, plane1, plane2, plane3) = zip(*(places + [(0, 0)] * (4 - len(places))))
    bit1, bit2, bit3, count = plane1 * bits, plane2 * bits, plane3 * bits, len(places)

    @kernel
    def add_rows(packed, width, columns, per_head, indices, begin, quads, words, wide, totals):
        for block in range(0, min(width, columns), lanes):
            for plane in range(0, all_planes, 4):
                c0, bit0 = block + plane * width, plane * bits
                c1, c2, c3 = c0 + part1 + plane1 * width, c0 + part2 + plane2 * width, c0 + part3 + plane3 * width
                w0, w1 = place_of(c0, per_head), place_of(c1, per_head)
                w2, w3 = place_of(c2, per_head), place_of(c3, per_head)
                s0 = s1 = s2 = s3 = simd.zeros_i32()
                for n in range(quads):
                    e, at = begin + 4 * n, n * wide
                    if plane == 0 and block % 64 == 0:
                        fetch_quad(packed, width, block, indices, e)
                    j0, j1 = np.int64(indices[e]) * width + block, np.int64(indices[e + 1]) * width + block
                    j2, j3 = np.int64(indices[e + 2]) * width + block, np.int64(indices[e + 3]) * width + block
                    x = side_by_side(packed, j0, j1, j2, j3)
                    s0 = add(s0, x, bit0, weights(words, at + w0))
                    if count > 1:
                        if part1 > 0:
                            x = side_by_side(packed, j0 + part1, j1 + part1, j2 + part1, j3 + part1)
                        s1 = add(s1, x, bit0 + bit1, weights(words, at + w1))
                    if count > 2:
                        if part2 > 0:
                            x = side_by_side(packed, j0 + part2, j1 + part2, j2 + part2, j3 + part2)
                        s2 = add(s2, x, bit0 + bit2, weights(words, at + w2))
                        if part3 > part2:
                            x = side_by_side(packed, j0 + part3, j1 + part3, j2 + part3, j3 + part3)
                        s3 = add(s3, x, bit0 + bit3, weights(words, at + w3))
                add_to(totals, c0, s0)
                if count > 1:
                    add_to(totals, c1, s1)
                if count > 2:
                    add_to(totals, c2, s2)
                    add_to(totals, c3, s3)

    return add_rows
