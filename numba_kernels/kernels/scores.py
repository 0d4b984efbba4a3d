"""Scores of edges: Σ_d vector[h, d] · LeakyReLU(left[j, h, d] + right[i, h, d]) of packed codes, edge by edge.

LeakyReLU(y) is (1 + slope) / 2 · y + (1 − slope) / 2 · |y|; a *linear* and a *bent* table hold the vector times these.
y is code · scale + own, where ``own`` is the right side less zero · scale.
"""

from __future__ import annotations

import numpy as np

from .. import simd
from ..jit import kernel
from .quads import fetch_rows
from .softmax import repeat


@kernel
def bent(vector, slope):
    """What a vector is multiplied with: its linear and its bent part."""
    half = np.float32(0.5)
    linear = simd.multiply(vector, simd.fill(vector, half + half * slope))
    return linear, simd.multiply(vector, simd.fill(vector, half - half * slope))


@kernel
def without_zero(left, columns, own):
    """own −= zero · scale."""
    lanes, scale, zero = simd.zeros_f32(), simd.f32_at(left.scale), simd.f32_at(left.zero)
    for c in range(0, columns, 16):
        moved = simd.multiply(simd.load(lanes, zero, c), simd.load(lanes, scale, c))
        simd.store(simd.subtract(simd.load(lanes, own, c), moved), own, c)


@kernel
def write_number_tables(left, attention, tables):
    """Scales, linear and bent parts of heads of one number each, a period of each."""
    lanes, vector, scale = simd.zeros_f32(), simd.f32_at(attention.vector), simd.f32_at(left.scale)
    size = attention.period + 16
    scales, lines, bends = (
        simd.f32_at(tables),
        simd.f32_at(tables + 4 * size),
        simd.f32_at(tables + 8 * size),
    )
    for h in range(0, attention.heads, 16):
        linear, bend = bent(simd.load(lanes, vector, h), np.float32(attention.slope))
        simd.store(simd.load(lanes, scale, h), scales, h)
        simd.store(linear, lines, h)
        simd.store(bend, bends, h)
    for n in range(3):
        repeat(attention.heads, attention.period, simd.f32_at(tables + 4 * n * size))


@kernel
def blocks_of(attention):
    """Blocks of sixteen columns that a head may have a part in."""
    return attention.columns // attention.heads // 16 + 2


@kernel
def write_sum_tables(attention, tables):
    """Linear and bent parts, sixteen columns each, for every head and block of columns it has a part in."""
    numbers, vector = simd.f32_at(tables), simd.f32_at(attention.vector)
    per_head, half, slope = attention.columns // attention.heads, np.float32(0.5), np.float32(attention.slope)
    for h in range(attention.heads):
        first, stop, at = h * per_head, (h + 1) * per_head, 32 * h * blocks_of(attention)
        for block in range(first // 16 * 16, stop, 16):
            for n in range(16):
                c = block + n
                x = vector[c] if first <= c < stop else np.float32(0.0)
                numbers[at + n], numbers[at + 16 + n] = x * (half + half * slope), x * (half - half * slope)
            at += 32


def scoring_numbers(bits: int):
    """The function that scores edges of heads of one number each, in packed rows of a width of codes.

    It is called ``(indices, begin, count, left, attention, own, tables, codes, scores)``; ``codes``, uint8, is scratch.
    """
    top = (1 << bits) - 1

    @kernel
    def score(indices, begin, count, left, attention, own, tables, codes, scores):
        heads, period, packed, width = attention.heads, attention.period, simd.u8_at(left.packed), left.width
        none, lanes, size = simd.zeros16(), simd.zeros_f32(), period + 16
        for e in range(count):
            if e % 4 == 0:
                fetch_rows(packed, width, indices, begin + e)
            j = np.int64(indices[begin + e]) * width
            for h in range(0, heads, 16):
                if bits == 8:
                    x = simd.load(none, packed, j + h)
                else:
                    x = simd.bits_and(simd.shift_right(simd.load(none, packed, j + h % width), h // width * bits), top)
                simd.store(x, codes, e * heads + h)
        scales, lines, bends = (
            simd.f32_at(tables),
            simd.f32_at(tables + 4 * size),
            simd.f32_at(tables + 8 * size),
        )
        for p in range(0, period, 16):
            scale, mine, at = simd.load(lanes, scales, p), simd.load(lanes, own, p), p
            linear, bend = simd.load(lanes, lines, p), simd.load(lanes, bends, p)
            while at < count * heads:
                y = simd.multiply_add(simd.to_f32(simd.to_i32(simd.load(none, codes, at))), scale, mine)
                simd.store(simd.multiply_add(y, linear, simd.multiply(simd.absolute(y), bend)), scores, at)
                at += period

    return score


def scoring_sums(bits: int, is_single: bool):
    """As :func:`scoring_numbers`, of heads of more numbers, four heads at a time.

    With ``is_single`` every head is within one block of sixteen columns.
    """
    top = (1 << bits) - 1

    @kernel
    def add_terms(total, packed, row, width, c, scales, own, table, at):
        none = simd.zeros16()
        if bits == 8:
            x = simd.to_i32(simd.load(none, packed, row + c))
        else:
            x = simd.to_i32(simd.load(none, packed, row + c % width))
            x = simd.bits_and(simd.shift_right(x, c // width * bits), top)
        y = simd.multiply_add(simd.to_f32(x), simd.load(total, scales, c), simd.load(total, own, c))
        total = simd.multiply_add(y, simd.load(total, table, at), total)
        return simd.multiply_add(simd.absolute(y), simd.load(total, table, at + 16), total)

    @kernel
    def of_head(packed, row, width, h, heads, per_head, blocks, scales, own, table):
        """Sixteen numbers, whose total is the score of a head."""
        total, at, first = simd.zeros_f32(), 32 * h * blocks, (h * per_head) & -16
        if h < heads:
            total = add_terms(total, packed, row, width, first, scales, own, table, at)
            if not is_single:
                for c in range(first + 16, (h + 1) * per_head, 16):
                    at += 32
                    total = add_terms(total, packed, row, width, c, scales, own, table, at)
        return total

    @kernel
    def score(indices, begin, count, left, attention, own, tables, codes, scores):
        scales, packed, width, table = simd.f32_at(left.scale), simd.u8_at(left.packed), left.width, simd.f32_at(tables)
        heads, per_head, blocks = attention.heads, attention.columns // attention.heads, blocks_of(attention)
        for e in range(count):
            j = np.int64(indices[begin + e]) * width
            if e % 4 == 0:
                fetch_rows(packed, width, indices, begin + e)
            for h in range(0, heads, 4):
                a0 = of_head(packed, j, width, h, heads, per_head, blocks, scales, own, table)
                a1 = of_head(packed, j, width, h + 1, heads, per_head, blocks, scales, own, table)
                a2 = of_head(packed, j, width, h + 2, heads, per_head, blocks, scales, own, table)
                a3 = of_head(packed, j, width, h + 3, heads, per_head, blocks, scales, own, table)
                simd.store(simd.totals_of_four(a0, a1, a2, a3), scores, e * heads + h)

    return score
