"""READOUT: sums, means or maxima of segments of rows, one a graph of a batch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import simd
from .fields import Matrix
from .instruction import instruction, reader

REDUCTIONS = ("sum", "mean", "max")


class Readout(NamedTuple):
    """dst[k] ← the reduction of the matrix's rows starts[k] … starts[k + 1] − 1, 0 where there are none."""

    dst: int  # in the scratch
    columns: int
    matrix: Matrix
    starts: int  # (segments + 1,) int64


read_readout = reader(Readout)


@instruction(Readout, [(reduction,) for reduction in REDUCTIONS])
def readout(reduction):
    is_max, is_mean = reduction == "max", reduction == "mean"

    def run(at, start, count, base, stride):
        f = read_readout(at)
        starts, lanes = simd.i64_at(f.starts), simd.zeros_f32()
        for r in range(count):
            first, last = starts[start + r], starts[start + r + 1]
            row = simd.f32_at(base + f.dst + 4 * r * stride)
            for c in range(0, f.columns, 16):
                simd.store(lanes, row, c)
            for i in range(first, last):
                x = simd.f32_at(f.matrix.address + 4 * i * f.matrix.stride)
                if is_max and i > first:
                    for c in range(f.columns):
                        row[c] = max(row[c], x[c])
                else:
                    for c in range(f.columns):
                        row[c] += x[c]
            if is_mean and last > first:
                for c in range(f.columns):
                    row[c] /= np.float32(last - first)

    return run
