"""Softmax over a row's edges, all heads at once, and its codes.

Numbers stand edge by edge, heads side by side: number n is that of head n mod heads. Numbers of heads are repeated up
to a *period*, the least common multiple of sixteen and heads, so that vectors of sixteen meet the heads of theirs.
"""

from __future__ import annotations

import numpy as np

from .. import simd
from ..jit import kernel
from .maps import exp


@kernel
def fill_numbers(like, number, count, to):
    """``count`` numbers, a multiple of sixteen, become ``number``."""
    for t in range(0, count, 16):
        simd.store(simd.fill(like, number), to, t)


@kernel
def fold(like, is_max, heads, period, numbers):
    """The largest number, or the sum, of each head, of a period of them."""
    step = period // 2
    while step >= heads:
        for t in range(0, step, 16):
            x, y = simd.load(like, numbers, t), simd.load(like, numbers, t + step)
            simd.store(simd.maximum(x, y) if is_max else simd.add(x, y), numbers, t)
        step //= 2


@kernel
def repeat(heads, period, numbers):
    """Numbers of heads, f32, repeated up to a period."""
    lanes, size = simd.zeros_f32(), heads
    while size < period:
        for t in range(0, size, 16):
            simd.store(simd.load(lanes, numbers, t), numbers, t + size)
        size *= 2


@kernel
def keep_largest(count, scores, period, most):
    """most ← the larger of itself and the scores."""
    for p in range(0, period, 16):
        largest, at = simd.load(simd.zeros_f32(), most, p), p
        while at < count:
            largest = simd.maximum(largest, simd.load(largest, scores, at))
            at += period
        simd.store(largest, most, p)


@kernel
def exponentiate(count, scores, period, most, sums):
    """scores ← exp(score − most); sums += those."""
    lanes = simd.zeros_f32()
    for p in range(0, period, 16):
        largest, total, at = simd.load(lanes, most, p), simd.load(lanes, sums, p), p
        while at < count:
            x = exp(simd.subtract(simd.load(lanes, scores, at), largest))
            simd.store(x, scores, at)
            total = simd.add(total, x)
            at += period
        simd.store(total, sums, p)


@kernel
def code(count, scores, period, factors, top, codes, counts):
    """codes ← score · factor, rounded, up to ``top``, then zeros to a vector's end; counts += those."""
    lanes = simd.zeros_f32()
    most = simd.fill(lanes, np.float32(top))
    for p in range(0, period, 16):
        factor, total, at = simd.load(lanes, factors, p), simd.load(simd.zeros_i32(), counts, p), p
        while at < count:
            x = simd.multiply(simd.load(lanes, scores, at), factor)
            x = simd.bits_and(simd.rounded_bits(simd.minimum(simd.maximum(x, lanes), most)), 255)
            x = simd.first_lanes(x, count - at)
            simd.store(simd.low_bytes(x), codes, at)
            total = simd.add(total, x)
            at += period
        simd.store(total, counts, p)
