"""FINISH: degree norm, scale, bias and ReLU."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import simd
from ..jit import kernel
from .fields import Finishing
from .instruction import instruction, reader
from .rows import factor_of

NOTHING = Finishing(0, 0, 0, -np.inf)


class Finish(NamedTuple):
    """dst ← src, finished."""

    dst: int  # in the scratch
    src: int  # in the scratch
    columns: int
    finishing: Finishing


read_finish = reader(Finish)


@kernel
def finished(x, c, factor, finishing):
    """Sixteen numbers of a row, from column ``c`` on, finished; ``factor`` is the row's."""
    y = simd.multiply(x, simd.fill(x, factor))
    if finishing.scale != 0:
        y = simd.multiply(y, simd.load(x, simd.f32_at(finishing.scale), c))
    return simd.maximum(
        simd.add(y, simd.load(x, simd.f32_at(finishing.bias), c)), simd.fill(x, np.float32(finishing.floor))
    )


@instruction(Finish)
def finish():
    def run(at, start, count, base, stride):
        f = read_finish(at)
        lanes = simd.zeros_f32()
        for r in range(count):
            factor = factor_of(f.finishing.factor, start + r)
            x, to = simd.f32_at(base + f.src + 4 * r * stride), simd.f32_at(base + f.dst + 4 * r * stride)
            for c in range(0, f.columns, 16):
                simd.store(finished(simd.load(lanes, x, c), c, factor, f.finishing), to, c)

    return run
