"""FINISH: degree norm, scale, bias and ReLU."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import simd
from .instruction import instruction, reader
from .rows import factor_of


class Finish(NamedTuple):
    """dst ← max(src · factor · scale + bias, floor)."""

    dst: int  # in the scratch
    src: int  # in the scratch
    columns: int
    factor: int  # (rows,) float32, or 0 for 1
    scale: int  # (columns,) float32, or 0 for 1
    bias: int  # (columns,) float32
    floor: float


read_finish = reader(Finish)


@instruction(Finish)
def finish():
    def run(at, start, count, base, stride):
        f = read_finish(at)
        lanes, bias, scale = simd.zeros_f32(), simd.f32_at(f.bias), simd.f32_at(f.scale)
        floor = simd.fill(lanes, np.float32(f.floor))
        for r in range(count):
            factor = simd.fill(lanes, factor_of(f.factor, start + r))
            x, to = simd.f32_at(base + f.src + 4 * r * stride), simd.f32_at(base + f.dst + 4 * r * stride)
            for c in range(0, f.columns, 16):
                y = simd.multiply(simd.load(lanes, x, c), factor)
                if f.scale != 0:
                    y = simd.multiply(y, simd.load(lanes, scale, c))
                simd.store(simd.maximum(simd.add(y, simd.load(lanes, bias, c)), floor), to, c)

    return run
