"""ATTEND: sums of packed messages over in-neighbours, weighted with attention."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import simd
from ..jit import kernel
from .decode import decode_rows
from .fields import Operand
from .instruction import instruction, reader
from .maps import exp, leaky_relu
from .sums import clear


class Attention(NamedTuple):
    """Softmax over in-neighbours j of i of Σ_d vector[h, d] · LeakyReLU(left[j, h, d] + right[i, h, d]), coded."""

    indptr: int  # (rows + 1,) int64
    indices: int  # int32
    heads: int
    columns: int  # of left and right, a multiple of heads
    vector: int  # (columns,) float32
    slope: float
    top: int  # largest code
    scale: float  # of the codes, whose zero point is 0


class Attend(NamedTuple):
    """dst ← Σ_j a_ij (q_j − z) · s over the in-neighbours j of row i."""

    dst: int  # in the scratch
    columns: int
    memory: int  # in the scratch
    messages: Operand
    left: Operand
    right: Operand
    attention: Attention


read_attend = reader(Attend)

# Numbers kept of a row's edges between the passes over them; what is beyond is computed anew.
KEPT = 4096


@kernel(inline=True)
def lanes_of(count):
    """The next multiple of sixteen."""
    return (count + 15) // 16 * 16


def scratch_of(room: int, columns: int, heads: int) -> int:
    """int32 of scratch that :func:`attend` needs for packed rows of ``room`` codes and scores of ``columns``."""
    wide, many = -(-columns // 16) * 16, -(-heads // 16) * 16
    return 2 * room + 16 + 2 * wide + 3 * many + max(KEPT, many)


@kernel
def score(j, left, attention, own, values, scores):
    """scores[h] ← Σ_d vector[h, d] · LeakyReLU(left[j, h, d] + own[h, d]); ``values`` is scratch."""
    lanes, vector, slope = simd.zeros_f32(), simd.f32_at(attention.vector), np.float32(attention.slope)
    if left.width == 16 and left.bits == 8:  # a number a head, as a rule: all in registers
        code = simd.to_f32(simd.to_i32(simd.load(simd.zeros16(), simd.u8_at(left.packed), j * 16)))
        code = simd.subtract(code, simd.load(lanes, simd.f32_at(left.zero), 0))
        simd.store(simd.multiply(code, simd.load(lanes, simd.f32_at(left.scale), 0)), simd.f32_at(values), 0)
    else:
        decode_rows(j, 1, left, attention.columns, 0, values, 0)
    x, per_head = simd.f32_at(values), attention.columns // attention.heads
    for c in range(0, attention.columns, 16):
        y = leaky_relu(simd.add(simd.load(lanes, x, c), simd.load(lanes, own, c)), slope)
        simd.store(simd.multiply(y, simd.load(lanes, vector, c)), scores if per_head == 1 else x, c)
    if per_head > 1:
        for h in range(attention.heads):
            total = np.float32(0.0)
            for d in range(per_head):
                total += x[h * per_head + d]
            scores[h] = total


@kernel(inline=True)
def add_edge(packed, width, bits, j, weights, heads, columns, spread, totals):
    """totals[h, d] += weights[h] · code[h, d] of row j of the packed messages."""
    per_head = columns // heads
    none, whole, top = simd.zeros16(), simd.zeros_i32(), (1 << bits) - 1
    for h in range(heads):  # sixteen at a time: the next head's weights overwrite what is too much
        weight = simd.fill(whole, weights[h])
        for d in range(0, per_head, 16):
            simd.store(weight, spread, h * per_head + d)
    for column in range(0, min(width, columns), 16):
        codes, shift = simd.to_i32(simd.load(none, packed, j * width + column)), 0
        c = column
        while c < columns:
            x = simd.bits_and(simd.shift_right(codes, shift), top)
            x = simd.multiply(x, simd.load(whole, spread, c))
            simd.store(simd.add(simd.load(whole, totals, c), x), totals, c)
            shift += bits
            c += width


@kernel(inline=True)
def weigh(begin, end, indices, left, attention, own, values, kept, many, most, sums):
    """Score the edges; ``most`` ← largest score of each head, ``sums`` ← Σ exp(score − most).

    Of the first edges, KEPT // many − 1 of them, exp(score − most) stays in ``kept``.
    """
    lanes, last = simd.zeros_f32(), max(KEPT // many, 1) - 1
    for h in range(0, many, 16):
        simd.store(simd.fill(lanes, np.float32(-np.inf)), most, h)
        simd.store(lanes, sums, h)
    for e in range(begin, end):
        place = simd.f32_at(kept + 4 * many * min(e - begin, last))
        score(np.int64(indices[e]), left, attention, own, values, place)
        for h in range(0, many, 16):
            simd.store(simd.maximum(simd.load(lanes, most, h), simd.load(lanes, place, h)), most, h)
    for e in range(begin, end):
        place = simd.f32_at(kept + 4 * many * min(e - begin, last))
        if e - begin >= last:
            score(np.int64(indices[e]), left, attention, own, values, place)
        for h in range(0, many, 16):
            x = exp(simd.subtract(simd.load(lanes, place, h), simd.load(lanes, most, h)))
            simd.store(x, place, h)
            simd.store(simd.add(simd.load(lanes, sums, h), x), sums, h)


@kernel
def attend(start, count, messages, left, right, attention, columns, memory, dst, stride):
    """Rows of Σ_j a_ij (q_j − z) · s over the in-neighbours j of row i, a the coded attention of each head.

    For ``count`` rows from ``start`` on, to the address ``dst``, float32, ``stride`` apart. ``memory`` is the address
    of scratch, see :func:`scratch_of`. Sums of codes are exact.
    """
    packed, width, bits = simd.u8_at(messages.packed), messages.width, messages.bits
    scale, zero = simd.f32_at(messages.scale), simd.f32_at(messages.zero)
    indptr, indices = simd.i64_at(attention.indptr), simd.i32_at(attention.indices)
    heads, room, wide, many = attention.heads, width * 8 // bits, lanes_of(attention.columns), lanes_of(attention.heads)
    totals, spread, own_at = simd.i32_at(memory), simd.i32_at(memory + 4 * room), memory + 4 * (2 * room + 16)
    values, base = own_at + 4 * wide, own_at + 8 * wide
    own, most, sums = simd.f32_at(own_at), simd.f32_at(base), simd.f32_at(base + 4 * many)
    counts, kept = simd.i32_at(base + 8 * many), base + 12 * many
    lanes, whole, per_head, last = simd.zeros_f32(), simd.zeros_i32(), columns // heads, max(KEPT // many, 1) - 1
    size, top = np.float32(attention.scale), simd.fill(lanes, np.float32(attention.top))
    inverse = simd.fill(lanes, np.float32(1.0) / size)
    for r in range(count):
        i, row = start + r, simd.f32_at(dst + 4 * r * stride)
        begin, end = indptr[i], indptr[i + 1]
        decode_rows(i, 1, right, attention.columns, 0, own_at, 0)
        clear(totals, room)
        clear(counts, many)
        weigh(begin, end, indices, left, attention, own, values, kept, many, most, sums)
        for e in range(begin, end):
            j, at = np.int64(indices[e]), kept + 4 * many * min(e - begin, last)
            place, coded = simd.f32_at(at), simd.i32_at(at)
            if e - begin >= last:
                score(j, left, attention, own, values, place)
            for h in range(0, many, 16):
                x = simd.load(lanes, place, h)
                if e - begin >= last:
                    x = exp(simd.subtract(x, simd.load(lanes, most, h)))
                x = simd.multiply(simd.divide(x, simd.load(lanes, sums, h)), inverse)
                code = simd.bits_and(simd.rounded_bits(simd.minimum(simd.maximum(x, lanes), top)), 255)
                simd.store(code, coded, h)
                simd.store(simd.add(simd.load(whole, counts, h), code), counts, h)
            add_edge(packed, width, bits, j, coded, heads, columns, spread, totals)
        c = 0
        for h in range(heads):
            for _ in range(per_head):
                centered = np.float32(np.float64(totals[c]) - np.float64(zero[c]) * np.float64(counts[h]))
                row[c] = centered * (size * scale[c])
                c += 1
        for c in range(columns, lanes_of(columns)):
            row[c] = np.float32(0.0)


@instruction(Attend)
def attention():
    def run(at, start, count, base, stride):
        f = read_attend(at)
        memory, dst = base + f.memory, base + f.dst
        attend(start, count, f.messages, f.left, f.right, f.attention, f.columns, memory, dst, stride)

    return run
