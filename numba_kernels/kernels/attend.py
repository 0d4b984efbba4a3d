"""ATTEND: sums of packed messages over in-neighbours, weighted with attention.

A row's edges are scored, their softmax is coded, and codes of messages are summed with it, all heads at once.
"""

from __future__ import annotations

import math
from itertools import product
from typing import NamedTuple

import numpy as np

from .. import simd
from ..jit import kernel
from .decode import decode_rows
from .fields import Edges, Operand
from .instruction import instruction, reader
from .quads import VARIANTS, weighing
from .scores import scoring_numbers, scoring_sums, without_zero, write_number_tables, write_sum_tables
from .softmax import code, exponentiate, fill_numbers, fold, keep_largest, repeat
from .sums import clear

# Numbers kept of a row's edges, of which it has one a head: rows of more are scored three times, in parts.
KEPT = 4096
# Parts of as many edges whose products of codes int32 holds the sums of, for codes of 8 bits each.
PARTS = 8
# Edges, in fours, whose words are laid out at a time.
QUADS = 16


class Attention(NamedTuple):
    """Softmax over in-neighbours j of i of Σ_d vector[h, d] · LeakyReLU(left[j, h, d] + right[i, h, d]), coded."""

    heads: int
    columns: int  # of left and right, a multiple of heads
    vector: int  # (columns,) float32
    slope: float
    top: int  # largest code
    scale: float  # of the codes, whose zero point is 0
    period: int  # least common multiple of sixteen and heads


class Scratch(NamedTuple):
    """Where in the scratch numbers of a row stand; as many more as a vector has may be written."""

    totals: int  # int32, the codes of a packed row
    wide: int  # float64, as many, of rows of more than PARTS parts
    scores: int  # float32
    codes: int  # uint8: codes that scores are of, then those of attention
    words: int  # int32, see weighing
    own: int  # float32, the right side's columns or a period
    tables: int  # float32, see scores
    heads: int  # a period of each: largest scores, sums, factors, float32, and sums of codes, int32


class Attend(NamedTuple):
    """dst ← Σ_j a_ij (q_j − z) · s over the in-neighbours j of row i."""

    dst: int  # in the scratch
    columns: int
    edges: Edges
    weights: int  # float32, in the order of indices: what softmax is multiplied with before it is coded
    messages: Operand
    left: Operand
    right: Operand
    attention: Attention
    scratch: Scratch


read_attend = reader(Attend)


def sizes_of_scratch(room: int, columns: int, heads: int) -> Scratch:
    """Bytes of scratch, for packed rows of ``room`` codes and scores of ``columns``."""
    most, period, many = max(KEPT, 4 * heads) + 32, math.lcm(16, heads), -(-heads // 16) * 16
    return Scratch(
        totals=4 * room,
        wide=8 * room,
        scores=4 * most,
        codes=most + 3 * heads + 4 * room,
        words=4 * (QUADS * max(room + 16, many) + room + many + 32),
        own=4 * (max(columns, period) + 32),
        tables=4 * max(3 * (period + 16), 32 * (2 * heads + columns // 16)),
        heads=16 * (period + 16),
    )


@kernel
def kept_of(heads):
    """Edges of which numbers are kept, whole quads."""
    return max(KEPT // heads // 4, 1) * 4


@kernel
def spread(numbers, heads, per_head, to):
    """Each head's int32 to the columns of the head."""
    whole = simd.zeros_i32()
    for h in range(heads):  # sixteen at a time: the next head's overwrites what is too much
        number = simd.fill(whole, numbers[h])
        for d in range(0, per_head, 16):
            simd.store(number, to, h * per_head + d)


@kernel
def quad_words(codes, heads, bytes_):
    """Words of heads, four bytes each: codes of four edges."""
    none = simd.zeros16()
    for h in range(0, heads, 16):
        p, q = simd.load(none, codes, h), simd.load(none, codes, heads + h)
        x = simd.interleave(p, q, simd.load(none, codes, 2 * heads + h), simd.load(none, codes, 3 * heads + h))
        simd.store(x, bytes_, 4 * h)


@kernel
def write_words(codes, heads, per_head, quads, is_aligned, wide, words):
    """Words of ``quads`` quads, ``wide`` apart: one a head, or, where heads are not aligned, one a column."""
    for n in range(quads):
        four, to, spare = simd.u8_at(codes + 4 * n * heads), words + 4 * n * wide, words + 4 * QUADS * wide
        if is_aligned:
            quad_words(four, heads, simd.u8_at(to))
        else:
            quad_words(four, heads, simd.u8_at(spare))
            spread(simd.i32_at(spare), heads, per_head, simd.i32_at(to))


@kernel
def center_heads(totals, counts, columns, excess, messages, size, row):
    """row ← (totals + (excess − zero) · counts) · (size · scale), a count a column, the difference in float64."""
    whole, lanes = simd.zeros_i32(), simd.zeros_f32()
    scale, zero = simd.f32_at(messages.scale), simd.f32_at(messages.zero)
    for c in range(0, columns, 16):
        t, count = simd.load(whole, totals, c), simd.load(whole, counts, c)
        t = simd.add(t, simd.multiply(count, simd.fill(whole, excess)))
        moved = simd.multiply(simd.to_f64(simd.load(lanes, zero, c)), simd.to_f64(count))
        centered = simd.to_f32(simd.subtract(simd.to_f64(t), moved))
        simd.store(simd.multiply(centered, simd.multiply(simd.fill(lanes, size), simd.load(lanes, scale, c))), row, c)


@kernel
def move_totals(totals, room, wide, is_first):
    """wide ← totals, or wide + totals; totals ← 0."""
    for c in range(room):
        wide[c] = totals[c] + (0.0 if is_first else wide[c])
    clear(totals, room)


@kernel
def center_wide(wide, counts, columns, excess, messages, size, row):
    """As :func:`center_heads`, of totals in float64, which holds them exactly."""
    scale, zero = simd.f32_at(messages.scale), simd.f32_at(messages.zero)
    for c in range(columns):
        total = wide[c] + float(excess) * counts[c]
        row[c] = np.float32(total - zero[c] * float(counts[c])) * (size * scale[c])


@kernel
def weigh(weights, first, edges, heads, scores):
    """scores ← score · weight of its edge."""
    for e in range(edges):
        for h in range(heads):
            scores[e * heads + h] *= weights[first + e]


@instruction(Attend, ((*variant, 8, *more, False) for variant in VARIANTS for more in product(range(3), (False, True))))
def attention(bits, lanes, score_bits, blocks, is_aligned, is_weighted):
    """A variant: bits of messages, bytes of them at a time, bits of what scores are made of; whether heads have one
    number of that (0), one block of sixteen columns (1) or more (2); whether they begin at multiples of sixteen columns
    of the messages, or are one, and whether edges have weights."""
    has_sums = blocks > 0
    score = scoring_sums(score_bits, blocks == 1) if has_sums else scoring_numbers(score_bits)
    add_rows, codes_a_byte = weighing(bits, lanes, is_signed=False, is_aligned=is_aligned), 8 // bits
    excess = np.int32(128 if bits == 8 else 0)

    @kernel
    def add_part(f, base, indices, first, edges, totals):
        """totals += codes of attention times codes of the messages, of a part of a row's edges."""
        heads, width, packed = f.attention.heads, f.messages.width, simd.u8_at(f.messages.packed)
        per_head, words_at, quads = f.columns // heads, base + f.scratch.words, (edges + 3) // 4
        wide = (heads + 15) // 16 * 16 if is_aligned else width * codes_a_byte + 16
        for quad in range(0, quads, QUADS):
            now, at, codes = min(QUADS, quads - quad), first + 4 * quad, base + f.scratch.codes + 4 * quad * heads
            if heads == 1:  # codes of four edges are a word as they stand
                words, apart = simd.i32_at(codes), 1
            else:
                words, apart = simd.i32_at(words_at), wide
                write_words(codes, heads, per_head, now, is_aligned, wide, words_at)
            add_rows(packed, width, f.columns, per_head, indices, at, now, words, apart, totals)

    def run(at, start, count, base, stride):
        f = read_attend(at)
        indptr, indices = simd.i64_at(f.edges.indptr), simd.i32_at(f.edges.indices)
        heads, period, columns = f.attention.heads, f.attention.period, f.attention.columns
        per_head, room, step = f.columns // heads, f.messages.width * codes_a_byte, 4 * (period + 16)
        totals, scores = simd.i32_at(base + f.scratch.totals), simd.f32_at(base + f.scratch.scores)
        wide = simd.f64_at(base + f.scratch.wide)
        own_at = base + f.scratch.own
        own, tables, words, kept = simd.f32_at(own_at), base + f.scratch.tables, base + f.scratch.words, kept_of(heads)
        codes, numbers_at = simd.u8_at(base + f.scratch.codes), base + f.scratch.heads
        most, sums = simd.f32_at(numbers_at), simd.f32_at(numbers_at + step)
        factors, counts = simd.f32_at(numbers_at + 2 * step), simd.i32_at(numbers_at + 3 * step)
        lanes_f32, whole, size = simd.zeros_f32(), simd.zeros_i32(), np.float32(f.attention.scale)
        inverse = simd.fill(lanes_f32, np.float32(1.0) / size)
        if has_sums:
            write_sum_tables(f.attention, tables)
        else:
            write_number_tables(f.left, f.attention, tables)
        for r in range(count):
            i, row = start + r, simd.f32_at(base + f.dst + 4 * r * stride)
            begin, end = indptr[i], indptr[i + 1]
            parts = (end - begin + kept - 1) // kept
            decode_rows(i, 1, f.right, columns, 0, own_at, 0)
            without_zero(f.left, columns, own)
            if not has_sums:
                repeat(heads, period, own)
            clear(totals, room)
            fill_numbers(lanes_f32, np.float32(-np.inf), period, most)
            fill_numbers(lanes_f32, np.float32(0.0), period, sums)
            fill_numbers(whole, np.int32(0), period, counts)
            for phase in range(3):  # largest scores, sums of exponentials, codes: over parts of a row's edges
                if phase == 1:
                    fold(lanes_f32, True, heads, period, most)
                    repeat(heads, period, most)
                elif phase == 2:
                    fold(lanes_f32, False, heads, period, sums)
                    repeat(heads, period, sums)
                    for p in range(0, period, 16):
                        simd.store(simd.divide(inverse, simd.load(lanes_f32, sums, p)), factors, p)
                for part in range(parts):
                    first = begin + part * kept
                    edges = min(kept, end - first)
                    numbers = edges * heads
                    if phase == 0 or parts > 1:
                        score(indices, first, edges, f.left, f.attention, own, tables, codes, scores)
                        simd.store(simd.fill(lanes_f32, np.float32(-np.inf)), scores, numbers)
                    if phase == 0:
                        keep_largest(numbers, scores, period, most)
                    elif phase == 1 or parts > 1:
                        exponentiate(numbers, scores, period, most, sums)
                    if phase == 2:
                        if is_weighted:
                            weigh(simd.f32_at(f.weights), first, edges, heads, scores)
                        code(numbers, scores, period, factors, f.attention.top, codes, counts)
                        for n in range((numbers + 15) // 16 * 16, numbers + 3 * heads, 16):
                            simd.store(simd.zeros16(), codes, n)
                        add_part(f, base, indices, first, edges, totals)
                        if parts > PARTS and (part % PARTS == PARTS - 1 or part == parts - 1):
                            move_totals(totals, room, wide, part < PARTS)
            fold(whole, False, heads, period, counts)
            spread(counts, heads, per_head, simd.i32_at(words))
            if parts > PARTS:
                center_wide(wide, simd.i32_at(words), f.columns, excess, f.messages, size, row)
            else:
                center_heads(totals, simd.i32_at(words), f.columns, excess, f.messages, size, row)

    return run
