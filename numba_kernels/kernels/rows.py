"""Element by element work on float32 rows of a tile, each instruction a pass over rows that are in cache."""

from __future__ import annotations

import numpy as np

from .. import simd
from ..jit import kernel
from .fields import MAX, MEAN


@kernel
def load_rows(matrix, start, count, columns, dst, stride):
    """Rows from ``start`` on of a matrix in memory into the tile ``dst``, padded with zeros to sixteen columns."""
    lanes, worst = simd.zeros_f32(), simd.zeros_i32()
    first, next_tile = matrix.address + 4 * start * matrix.stride, count * matrix.stride
    if matrix.stride == stride and columns == stride:  # rows of the same layout are one long row
        count, columns = 1, count * columns
    whole = columns // 16 * 16
    for r in range(count):
        row, to = simd.f32_at(first + 4 * r * matrix.stride), simd.f32_at(dst + 4 * r * stride)
        for c in range(0, whole, 16):
            simd.prefetch(row, c + next_tile)
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
    if matrix.flag != 0 and simd.largest(worst) >= 0x7F800000:
        simd.i32_at(matrix.flag)[0] = np.int32(1)


@kernel
def store_rows(matrix, start, count, columns, src, stride):
    """Rows of the tile ``src`` into a matrix in memory, past the caches where its flag says so."""
    lanes = simd.zeros_f32()
    first = matrix.address + 4 * start * matrix.stride
    if matrix.stride == stride and columns == stride:
        count, columns = 1, count * columns
    whole = columns // 16 * 16
    for r in range(count):
        row, values = simd.f32_at(first + 4 * r * matrix.stride), simd.f32_at(src + 4 * r * stride)
        if matrix.flag != 0:
            for c in range(0, whole, 16):
                simd.stream(simd.load(lanes, values, c), row, c)
        else:
            for c in range(0, whole, 16):
                simd.store(simd.load(lanes, values, c), row, c)
        if whole > 0 and whole < columns:
            simd.store(simd.load(lanes, values, columns - 16), row, columns - 16)
        elif whole < columns:
            for c in range(columns):
                row[c] = values[c]


@kernel(inline=True)
def factor_of(address, row):
    """The row's factor, 1 where there are none."""
    return simd.f32_at(address)[row] if address != 0 else np.float32(1.0)


@kernel(inline=True)
def add_block(c, term, x, to, factor, none):
    """Lanes of :func:`add_term` from column c on, as many as ``none`` has."""
    lanes = simd.to_f32(none)
    y = simd.multiply(simd.load(lanes, x, c), simd.fill(lanes, factor))
    y = simd.multiply(simd.fill(lanes, np.float32(term.coefficient)), y)
    if term.is_first == 0:
        y = simd.add(simd.load(lanes, to, c), y)
    simd.store(y, to, c)


@kernel
def add_term(term, start, count, columns, src, dst, stride):
    """dst ← [dst +] coefficient · (src · factor), rows of tiles."""
    if term.factor == 0:
        count, columns = 1, count * stride
    for r in range(count):
        factor = factor_of(term.factor, start + r)
        x, to = simd.f32_at(src + 4 * r * stride), simd.f32_at(dst + 4 * r * stride)
        if columns > 32:
            for c in range(0, columns, 64):
                add_block(c, term, x, to, factor, simd.zeros64())
        else:
            for c in range(0, columns, 16):
                add_block(c, term, x, to, factor, simd.zeros16())


@kernel(inline=True)
def finish_block(c, finish, x, to, factor, none):
    """Lanes of :func:`finish_rows` from column c on, as many as ``none`` has."""
    lanes = simd.to_f32(none)
    y = simd.multiply(simd.load(lanes, x, c), simd.fill(lanes, factor))
    if finish.scale != 0:
        y = simd.multiply(y, simd.load(lanes, simd.f32_at(finish.scale), c))
    y = simd.add(y, simd.load(lanes, simd.f32_at(finish.bias), c))
    simd.store(simd.maximum(y, simd.fill(lanes, np.float32(finish.floor))), to, c)


@kernel
def finish_rows(finish, start, count, columns, src, dst, stride):
    """dst ← max(src · factor · scale + bias, floor), rows of tiles."""
    for r in range(count):
        factor = factor_of(finish.factor, start + r)
        x, to = simd.f32_at(src + 4 * r * stride), simd.f32_at(dst + 4 * r * stride)
        if columns > 32:
            for c in range(0, columns, 64):
                finish_block(c, finish, x, to, factor, simd.zeros64())
        else:
            for c in range(0, columns, 16):
                finish_block(c, finish, x, to, factor, simd.zeros16())


@kernel
def place_rows(offset, total, count, columns, src, dst, stride):
    """dst[:, offset:offset + columns] ← src, rows of tiles; zeros after the last of ``total`` columns."""
    for r in range(count):
        x, to = simd.f32_at(src + 4 * r * stride), simd.f32_at(dst + 4 * r * stride)
        for c in range(columns):
            to[offset + c] = x[c]
        if offset + columns == total:
            clear_from(to, total)


@kernel
def keep_larger(count, columns, src, dst, stride):
    """dst ← max(dst, src), rows of tiles."""
    lanes = simd.zeros_f32()
    for r in range(count):
        x, to = simd.f32_at(src + 4 * r * stride), simd.f32_at(dst + 4 * r * stride)
        for c in range(0, columns, 16):
            simd.store(simd.maximum(simd.load(lanes, to, c), simd.load(lanes, x, c)), to, c)


@kernel
def sum_heads(heads, count, columns, src, dst, stride):
    """``columns`` weighted sums of each row, see :class:`~numba_kernels.kernels.fields.Heads`."""
    vector = simd.f32_at(heads.vector)
    for r in range(count):
        x, to = simd.f32_at(src + 4 * r * stride), simd.f32_at(dst + 4 * r * stride)
        clear_from(to, columns)
        for k in range(columns):
            total, at = np.float32(0.0), k * heads.step
            for _ in range(heads.count):
                total += x[at] * vector[at]
                at += heads.stride
            to[k] = total


@kernel(inline=True)
def clear_from(row, columns):
    """Zeros from ``columns`` to the next multiple of sixteen."""
    for c in range(columns, (columns + 15) // 16 * 16):
        row[c] = np.float32(0.0)


@kernel
def read_out(matrix, segments, start, count, columns, dst, stride):
    """Sums, means or largest of segments of a matrix's rows, 0 for empty ones, into the tile ``dst``."""
    starts, lanes = simd.i64_at(segments.starts), simd.zeros_f32()
    for r in range(count):
        first, last = starts[start + r], starts[start + r + 1]
        row = simd.f32_at(dst + 4 * r * stride)
        for c in range(0, columns, 16):
            simd.store(lanes, row, c)
        for i in range(first, last):
            x = simd.f32_at(matrix.address + 4 * i * matrix.stride)
            if segments.kind == MAX and i > first:
                for c in range(columns):
                    row[c] = max(row[c], x[c])
            else:
                for c in range(columns):
                    row[c] += x[c]
        if segments.kind == MEAN and last > first:
            for c in range(columns):
                row[c] /= np.float32(last - first)
