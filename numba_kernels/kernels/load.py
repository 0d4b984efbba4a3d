"""LOAD: float32 rows in memory into a slot; STORE: a slot to memory."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import simd
from ..jit import kernel
from .fields import Matrix
from .instruction import instruction, reader


class Load(NamedTuple):
    """dst ← rows, or the columns of them that are read, padded with zeros to sixteen columns."""

    dst: int  # in the scratch
    columns: int
    matrix: Matrix
    asks: int  # whether rows of the next tile are asked for; between other work, as ENCODE does, it costs less


class Store(NamedTuple):
    """The first of the rows ← src, past the caches where the matrix's flag says so."""

    src: int  # in the scratch
    columns: int
    matrix: Matrix
    rows: int  # that are stored
    fault: int  # address of an int32 that becomes 1 when a number is not finite, or 0


read_load, read_store = reader(Load), reader(Store)


@kernel
def copy_row(row, columns, to, worst, asks, next_row):
    """to ← row, that of the next tile asked for; the larger of its magnitudes and ``worst``, as bits."""
    lanes, whole = simd.zeros_f32(), columns // 16 * 16
    for c in range(0, whole, 16):
        if asks != 0:
            simd.prefetch(row, c + next_row)
        x = simd.load(lanes, row, c)
        worst = simd.maximum(worst, simd.magnitude_bits(x))
        simd.store(x, to, c)
    if whole < columns:
        simd.store(lanes, to, whole)
        if whole > 0:  # the last sixteen, some of them once more
            simd.store(simd.load(lanes, row, columns - 16), to, columns - 16)
        else:
            for c in range(columns):
                to[c] = row[c]
        worst = simd.maximum(worst, simd.magnitude_bits(simd.load(lanes, to, whole)))
    return worst


@kernel
def pick_columns(row, places, columns, to, worst):
    """to ← the columns of a row that stand at ``places``; the larger of their magnitudes and ``worst``, as bits."""
    lanes = simd.zeros_f32()
    simd.store(lanes, to, (columns - 1) // 16 * 16)
    for c in range(columns):
        to[c] = row[places[c]]
    for c in range(0, columns, 16):  # not before: what was just written in parts is slow to be read whole
        worst = simd.maximum(worst, simd.magnitude_bits(simd.load(lanes, to, c)))
    return worst


@instruction(Load)
def load():
    def run(at, start, count, base, stride):
        f = read_load(at)
        dst, matrix, columns = base + f.dst, f.matrix, f.columns
        worst = simd.zeros_i32()
        first, next_tile = matrix.address + 4 * start * matrix.stride, count * matrix.stride
        rows = count
        if matrix.stride == stride and columns == stride:  # rows of the same layout are one long row
            rows, columns = 1, count * columns
        for r in range(rows):
            row, to = simd.f32_at(first + 4 * r * matrix.stride), simd.f32_at(dst + 4 * r * stride)
            if matrix.places == 0:
                worst = copy_row(row, columns, to, worst, f.asks, next_tile)
            else:
                if f.asks != 0:
                    for c in range(0, matrix.stride, 16):
                        simd.prefetch(row, c + next_tile)
                worst = pick_columns(row, simd.i32_at(matrix.places), columns, to, worst)
        if matrix.flag != 0 and simd.largest(worst) >= 0x7F800000:
            simd.i32_at(matrix.flag)[0] = np.int32(1)

    return run


@instruction(Store)
def store():
    def run(at, start, count, base, stride):
        f = read_store(at)
        src, matrix, columns = base + f.src, f.matrix, f.columns
        lanes, worst = simd.zeros_f32(), simd.zeros_i32()
        first, rows = matrix.address + 4 * start * matrix.stride, max(min(count, f.rows - start), 0)
        if matrix.stride == stride and columns == stride:
            rows, columns = 1, rows * columns
        whole = columns // 16 * 16
        for r in range(rows):
            row, values = simd.f32_at(first + 4 * r * matrix.stride), simd.f32_at(src + 4 * r * stride)
            if matrix.flag != 0:
                for c in range(0, whole, 16):
                    x = simd.load(lanes, values, c)
                    worst = simd.maximum(worst, simd.magnitude_bits(x))
                    simd.stream(x, row, c)
            else:
                for c in range(0, whole, 16):
                    x = simd.load(lanes, values, c)
                    worst = simd.maximum(worst, simd.magnitude_bits(x))
                    simd.store(x, row, c)
            if whole > 0 and whole < columns:
                x = simd.load(lanes, values, columns - 16)
                worst = simd.maximum(worst, simd.magnitude_bits(x))
                simd.store(x, row, columns - 16)
            elif whole < columns:
                for c in range(columns):
                    row[c] = values[c]
                    if f.fault != 0 and not abs(values[c]) < np.inf:
                        simd.i32_at(f.fault)[0] = np.int32(1)
        if f.fault != 0 and simd.largest(worst) >= 0x7F800000:
            simd.i32_at(f.fault)[0] = np.int32(1)

    return run
