"""LOOKUP: float rows that are mostly 0, as codes, times an integer weight."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np

from .. import simd
from ..jit import kernel
from .encode import check_scale, row_grid
from .fields import ROW_AFFINE, ROW_HALF, STATIC, Chosen, Finishing, Matrix, ProductWeight, Target
from .instruction import instruction, reader
from .product import finish_row
from .rows import factor_of


class Lookup(NamedTuple):
    """dst ← codes of a float32 row · weight."""

    dst: int  # in the scratch
    columns: int
    codes: int  # in the scratch: 8 · (K + 64) bytes
    totals: int  # in the scratch: (columns,) int32
    matrix: Matrix
    chosen: Chosen
    target: Target
    weight: ProductWeight
    finishing: Finishing


read_lookup = reader(Lookup)
_NONE = {16: simd.zeros16, 32: simd.zeros32, 64: simd.zeros64}

# Floats between those that are read and those that are fetched.
FETCHED = 2048


@kernel
def collect(x, columns, chosen, positions, values):
    """Of what is not 0 in a float32 row, and read, positions among all that is read, and values; how many there are."""
    lanes, bits, ranks = simd.zeros_f32(), simd.i64_at(chosen.bits), simd.i32_at(chosen.ranks)
    found, whole = 0, columns // 64 * 64
    for k in range(0, whole, 64):
        for ahead in range(k + FETCHED, k + FETCHED + 64, 16):
            simd.prefetch(x, ahead)
        a = simd.nonzero_lanes(simd.magnitude_bits(simd.load(lanes, x, k)))
        b = simd.nonzero_lanes(simd.magnitude_bits(simd.load(lanes, x, k + 16)))
        c = simd.nonzero_lanes(simd.magnitude_bits(simd.load(lanes, x, k + 32)))
        d = simd.nonzero_lanes(simd.magnitude_bits(simd.load(lanes, x, k + 48)))
        met = a | b << 16 | c << 32 | d << 48
        if chosen.bits != 0:
            met &= int(bits[k >> 6])
        # Most blocks have none, one or two: written without a branch, that a processor would often guess wrong.
        for _ in range(2):
            positions[found] = np.int32(k + simd.trailing_zeros(met))
            found += np.int64(met != 0)
            met &= met - 1
        while met != 0:
            positions[found] = np.int32(k + simd.trailing_zeros(met))
            found += 1
            met &= met - 1
    for k in range(whole, columns):
        positions[found] = np.int32(k)
        is_read = 1 if chosen.bits == 0 else bits[k >> 6] >> (k & 63) & 1
        found += np.int64(x[k] != 0) & is_read
    for n in range(found):
        values[n] = x[positions[n]]
    if chosen.ranks != 0:
        for n in range(found):
            positions[n] = ranks[positions[n]]
    return found


@kernel
def add_weights(positions, steps, found, rows, stride, column, none, totals):
    """totals ← Σ steps · rows of the weight at ``positions``, for one block of columns."""
    sums = simd.to_i32(none)
    for n in range(found):
        w = simd.signed_to_i32(simd.load(none, rows, np.int64(positions[n]) * stride + column))
        sums = simd.add(sums, simd.multiply(w, simd.fill(sums, steps[n])))
    simd.store(sums, totals, column)


@kernel
def lookup(
    i, x, matrix, chosen, target, is_static, is_half, weight, columns, stride, width, block, codes, totals, finishing,
    out,
):  # fmt: skip
    """Row i of the product where most of a float32 row is 0: the codes of ``x`` times the weight, as :func:`product`.

    With q₀ the code of 0, Σ_k q_k w_k = q₀ Σ_k w_k + Σ (q_k − q₀) w_k over the k where x is not 0.

    Parameters
    ----------
    x : (matrix.stride,) float32
        A row of the ``matrix``, whose flag becomes 1 when a number that is read is not finite.
    chosen : Chosen
        Which K of its columns are read.
    target : Target
        How the row is quantised, per row or with one scale.
    weight : ProductWeight
        With rows of int8 codes, ``stride`` apart.
    width, block
        Columns at a time, and a zero vector of as many bytes.
    codes : int
        Address of scratch for 8 · (K + 64) bytes.
    totals, out
        (columns,) int32 scratch, float32.
    """
    K, lanes = weight.inputs, simd.zeros_f32()
    positions, values = simd.i32_at(codes), simd.f32_at(codes + 4 * (K + 64))
    steps = simd.i32_at(codes + 4 * (K + 64))
    found = collect(x, matrix.stride, chosen, positions, values)
    for n in range(found, (found + 15) // 16 * 16):
        values[n] = np.float32(0.0)
    low, high, worst = lanes, lanes, simd.zeros_i32()
    for n in range(0, found, 16):
        value = simd.load(lanes, values, n)
        low, high = simd.minimum(low, value), simd.maximum(high, value)
        worst = simd.maximum(worst, simd.magnitude_bits(value))
    if simd.largest(worst) >= 0x7F800000:
        simd.i32_at(matrix.flag)[0] = np.int32(1)
    factor = simd.f32_at(target.factor)[i] if target.factor != 0 else np.float32(1.0)
    if is_static:
        scale, zero = simd.f32_at(target.scale)[0], simd.f32_at(target.zero)[0]
        inverse, offset = simd.f32_at(target.inverse)[0], simd.f32_at(target.offset)[0]
    else:
        scale, zero, offset = row_grid(simd.smallest(low) * factor, simd.largest(high) * factor, target, is_half)
        check_scale(scale, target)
        inverse = np.float32(1.0) / scale
    top = simd.fill(lanes, np.float32(target.top))
    none, start = simd.zeros_i32(), simd.fill(lanes, offset)
    zero_code = simd.bits_and(simd.rounded_bits(simd.minimum(simd.maximum(start, lanes), top)), 255)
    sums = none
    for n in range(0, found, 16):
        y = simd.multiply(simd.load(lanes, values, n), simd.fill(lanes, factor))
        y = simd.add(simd.multiply(y, simd.fill(lanes, inverse)), start)
        step = simd.bits_and(simd.rounded_bits(simd.minimum(simd.maximum(y, lanes), top)), 255)
        step = simd.subtract(step, zero_code)
        simd.store(step, steps, n)
        sums = simd.add(sums, step)
    rows = simd.i8_at(weight.codes)
    for column in range(0, columns, width):
        add_weights(positions, steps, found, rows, stride, column, block, totals)
    q0 = np.float64(simd.largest(zero_code))
    numbers = scale, np.float64(zero) - q0, np.int64(simd.total(sums))
    finish_row(totals, columns, *numbers, weight, factor_of(finishing.factor, i), finishing, out)


@instruction(Lookup, product((STATIC, ROW_AFFINE, ROW_HALF), _NONE))
def look_up(mode, width):
    """A variant a ``mode`` of scales and a number of columns looked up at a time: 16, 32 or 64."""
    is_static, is_half, none = mode == STATIC, mode == ROW_HALF, _NONE[width]

    def run(at, start, count, base, stride):
        f = read_lookup(at)
        codes, totals, padded = base + f.codes, simd.i32_at(base + f.totals), (f.columns + width - 1) // width * width
        for r in range(count):
            i, row = start + r, simd.f32_at(base + f.dst + 4 * r * stride)
            x = simd.f32_at(f.matrix.address + 4 * i * f.matrix.stride)
            columns = f.columns, padded, width, none()
            rest = codes, totals, f.finishing, row
            lookup(i, x, f.matrix, f.chosen, f.target, is_static, is_half, f.weight, *columns, *rest)

    return run
