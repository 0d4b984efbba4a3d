"""HEADS: sums over heads, or over the columns of each head."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import simd
from ..jit import kernel
from .instruction import instruction, reader
from .rows import clear_from


class Heads(NamedTuple):
    """dst[k] = Σ_j src[k · step + j · jump] · vector[k · step + j · jump], for ``columns`` k."""

    dst: int  # in the scratch
    src: int  # in the scratch
    columns: int
    step: int
    numbers: int  # summed
    jump: int
    vector: int  # (columns of src,) float32


read_heads = reader(Heads)


@kernel
def weighted(x, vector, place):
    """Sixteen numbers times those of the vector."""
    lanes = simd.zeros_f32()
    return simd.multiply(simd.load(lanes, x, place), simd.load(lanes, vector, place))


@kernel
def sum_side_by_side(x, vector, first, numbers, jump, to):
    """Sixteen sums, whose numbers stand side by side, ``jump`` apart."""
    total = simd.zeros_f32()
    for j in range(numbers):
        total = simd.add(total, weighted(x, vector, first + j * jump))
    simd.store(total, to, first)


@kernel
def sum_four_in_order(x, vector, k, step, to):
    """Four sums, each of ``step`` numbers that follow each other, whole sixteens."""
    totals = simd.zeros4_f32()
    for place in range(k * step, (k + 1) * step, 16):
        p, q = weighted(x, vector, place), weighted(x, vector, place + step)
        r, s = weighted(x, vector, place + 2 * step), weighted(x, vector, place + 3 * step)
        totals = simd.add_in_order(totals, p, q, r, s)
    simd.store(totals, to, k)


@instruction(Heads)
def heads():
    """Numbers are added in order, however many sums are taken at once."""

    def run(at, start, count, base, stride):
        f = read_heads(at)
        vector, sixteens, fours = simd.f32_at(f.vector), 0, 0
        if f.step == 1:
            sixteens = f.columns // 16 * 16
        elif f.step % 16 == 0 and f.jump == 1:
            fours = f.columns // 4 * 4
        for r in range(count):
            x, to = simd.f32_at(base + f.src + 4 * r * stride), simd.f32_at(base + f.dst + 4 * r * stride)
            clear_from(to, f.columns)
            for k in range(0, sixteens, 16):
                sum_side_by_side(x, vector, k, f.numbers, f.jump, to)
            for k in range(0, fours, 4):
                sum_four_in_order(x, vector, k, f.step, to)
            for k in range(sixteens + fours, f.columns):
                total, place = np.float32(0.0), k * f.step
                for _ in range(f.numbers):
                    total += x[place] * vector[place]
                    place += f.jump
                to[k] = total

    return run
