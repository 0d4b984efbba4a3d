"""Sums of packed messages over in-neighbours, weighted with attention."""

from __future__ import annotations

import numpy as np

from . import simd
from .maps import exp, leaky_relu
from .requantise import decode
from .runtime import kernel
from .spmm import clear


@kernel(inline=True)
def lanes_of(count):
    """The next multiple of sixteen."""
    return (count + 15) // 16 * 16


@kernel
def score(j, left, attention, right, values, scores):
    """scores[h] ← Σ_d vector[h, d] · LeakyReLU(left[j, h, d] + right[h, d]); ``values`` is scratch."""
    lanes, vector, slope = simd.zeros_f32(), simd.f32_at(attention.vector), np.float32(attention.slope)
    x = simd.f32_at(values)
    decode(j, 1, left, attention.columns, 0, values, 0)
    per_head = attention.columns // attention.heads
    for c in range(0, attention.columns, 16):
        y = leaky_relu(simd.add(simd.load(lanes, x, c), simd.load(lanes, right, c)), slope)
        y = simd.multiply(y, simd.load(lanes, vector, c))
        simd.store(y, scores if per_head == 1 else x, c)
    if per_head > 1:
        for h in range(attention.heads):
            total = np.float32(0.0)
            for d in range(per_head):
                total += x[h * per_head + d]
            scores[h] = total


@kernel
def add_edge(packed, width, bits, j, weights, heads, columns, spread, totals):
    """totals[h, d] += weights[h] · code[h, d] of row j of the packed messages."""
    per_head, at = columns // heads, 0
    for h in range(heads):
        for _ in range(per_head):
            spread[at] = weights[h]
            at += 1
    none, whole, top = simd.zeros16(), simd.zeros_i32(), (1 << bits) - 1
    for column in range(0, width, 16):
        shift = 0
        for c in range(column, columns, width):
            x = simd.to_i32(simd.load(none, packed, j * width + column))
            x = simd.bits_and(simd.shift_right(x, shift), top)
            x = simd.multiply(x, simd.load(whole, spread, c))
            simd.store(simd.add(simd.load(whole, totals, c), x), totals, c)
            shift += bits


@kernel
def attend(start, count, messages, left, right, attention, columns, memory, dst, stride):
    """Rows of Σ_j a_ij (q_j − z) · s over the in-neighbours j of row i, a the coded attention of each head.

    For ``count`` rows from ``start`` on, to the address ``dst``, float32, ``stride`` apart. ``memory`` is the address
    of int32 scratch: twice the codes of a packed row of messages, twice the columns of left, four times the heads, each
    in whole sixteens. Sums of codes are exact.
    """
    packed, width, bits = simd.u8_at(messages.packed), messages.width, messages.bits
    scale, zero = simd.f32_at(messages.scale), simd.f32_at(messages.zero)
    indptr, indices = simd.i64_at(attention.indptr), simd.i32_at(attention.indices)
    heads, room, wide = attention.heads, width * 8 // bits, lanes_of(attention.columns)
    many = lanes_of(heads)
    totals, spread = simd.i32_at(memory), simd.i32_at(memory + 4 * room)
    own_at, values = memory + 8 * room, memory + 4 * (2 * room + wide)
    own, base = simd.f32_at(own_at), values + 4 * wide
    scores, most = simd.f32_at(base), simd.f32_at(base + 4 * many)
    sums, counts = simd.f32_at(base + 8 * many), simd.i32_at(base + 12 * many)
    lanes, whole = simd.zeros_f32(), simd.zeros_i32()
    coded = simd.i32_at(base)
    for r in range(count):
        i, row = start + r, simd.f32_at(dst + 4 * r * stride)
        begin, end = indptr[i], indptr[i + 1]
        decode(i, 1, right, attention.columns, 0, own_at, 0)
        clear(totals, room)
        clear(counts, many)
        for h in range(0, many, 16):
            simd.store(simd.fill(lanes, np.float32(-np.inf)), most, h)
            simd.store(lanes, sums, h)
        for e in range(begin, end):
            score(np.int64(indices[e]), left, attention, own, values, scores)
            for h in range(0, many, 16):
                simd.store(simd.maximum(simd.load(lanes, most, h), simd.load(lanes, scores, h)), most, h)
        for e in range(begin, end):
            score(np.int64(indices[e]), left, attention, own, values, scores)
            for h in range(0, many, 16):
                x = exp(simd.subtract(simd.load(lanes, scores, h), simd.load(lanes, most, h)))
                simd.store(simd.add(simd.load(lanes, sums, h), x), sums, h)
        inverse, top = np.float32(1.0) / np.float32(attention.scale), np.float32(attention.top)
        for e in range(begin, end):
            j = np.int64(indices[e])
            score(j, left, attention, own, values, scores)
            for h in range(0, many, 16):
                x = exp(simd.subtract(simd.load(lanes, scores, h), simd.load(lanes, most, h)))
                x = simd.multiply(simd.divide(x, simd.load(lanes, sums, h)), simd.fill(lanes, inverse))
                x = simd.minimum(simd.maximum(x, lanes), simd.fill(lanes, top))
                code = simd.bits_and(simd.rounded_bits(x), 255)
                simd.store(code, coded, h)
                simd.store(simd.add(simd.load(whole, counts, h), code), counts, h)
            add_edge(packed, width, bits, j, coded, heads, columns, spread, totals)
        per_head, both = columns // heads, np.float32(attention.scale)
        at = 0
        for h in range(heads):
            for _ in range(per_head):
                centered = np.float32(np.float64(totals[at]) - np.float64(zero[at]) * np.float64(counts[h]))
                row[at] = centered * (both * scale[at])
                at += 1
        for c in range(columns, lanes_of(columns)):
            row[c] = np.float32(0.0)
