"""READOUT: sums, means or maxima of segments of rows, one a graph of a batch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import simd
from ..jit import kernel
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


@kernel
def column(x, places, c):
    """Of the columns of a row that stand at ``places``, 0 for all, number c."""
    return x[simd.i32_at(places)[c]] if places != 0 else x[c]


@instruction(Readout, [(reduction,) for reduction in REDUCTIONS])
def readout(reduction):
    is_max, is_mean = reduction == "max", reduction == "mean"

    def run(at, start, count, base, stride):
        f = read_readout(at)
        starts, lanes, places = simd.i64_at(f.starts), simd.zeros_f32(), f.matrix.places
        for r in range(count):
            first, last = starts[start + r], starts[start + r + 1]
            row = simd.f32_at(base + f.dst + 4 * r * stride)
            for c in range(0, f.columns, 16):
                simd.store(lanes, row, c)
            for i in range(first, last):
                x = simd.f32_at(f.matrix.address + 4 * i * f.matrix.stride)
                if is_max and i > first:
                    for c in range(f.columns):
                        row[c] = max(row[c], column(x, places, c))
                else:
                    for c in range(f.columns):
                        row[c] += column(x, places, c)
            if is_mean and last > first:
                for c in range(f.columns):
                    row[c] /= np.float32(last - first)

    return run
