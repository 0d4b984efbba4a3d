"""HEADS: sums over heads, or over the columns of each head."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import simd
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


@instruction(Heads)
def heads():
    def run(at, start, count, base, stride):
        f = read_heads(at)
        vector = simd.f32_at(f.vector)
        for r in range(count):
            x, to = simd.f32_at(base + f.src + 4 * r * stride), simd.f32_at(base + f.dst + 4 * r * stride)
            clear_from(to, f.columns)
            for k in range(f.columns):
                total, place = np.float32(0.0), k * f.step
                for _ in range(f.numbers):
                    total += x[place] * vector[place]
                    place += f.jump
                to[k] = total

    return run
