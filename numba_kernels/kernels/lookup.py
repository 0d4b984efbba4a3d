"""LOOKUP, LOOKUP_FIXED: float rows that are mostly 0, as codes, times an integer weight.

With q₀ the code of 0, Σ_k q_k w_k = q₀ Σ_k w_k + Σ (q_k − q₀) w_k over the k where a row is not 0. The last sum is
made, of *steps* q_k − q₀, whose zero point is z − q₀.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np

from .. import simd
from ..jit import kernel
from .encode import check_scale, row_grid
from .fields import ROW_AFFINE, ROW_HALF, STATIC, Chosen, Coding, Finishing, FixedProduct, Matrix, ProductWeight, Target
from .fixed import dropped_bits, finish_fixed, fixed_codes, parts_of_norm
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


class LookupFixed(NamedTuple):
    """dst ← the same as fixed-point numbers, coded with integer arithmetic."""

    dst: int  # as those of Lookup
    columns: int
    codes: int
    totals: int
    matrix: Matrix
    chosen: Chosen
    target: Target
    weight: ProductWeight
    coding: Coding
    fixed: FixedProduct


read_lookup, read_fixed = reader(Lookup), reader(LookupFixed)
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
def add_weights(positions, steps, found, weight, columns, width, none, totals):
    """totals ← Σ steps · rows of the weight at ``positions``, in blocks of ``width`` columns, as ``none`` has."""
    rows, stride = simd.i8_at(weight.codes), (columns + width - 1) // width * width
    for column in range(0, stride, width):
        sums = simd.to_i32(none)
        for n in range(found):
            w = simd.signed_to_i32(simd.load(none, rows, np.int64(positions[n]) * stride + column))
            sums = simd.add(sums, simd.multiply(w, simd.fill(sums, steps[n])))
        simd.store(sums, totals, column)


@kernel
def places(codes, inputs):
    """Scratch for positions, values, and steps in the place of values."""
    behind = codes + 4 * (inputs + 64)
    return simd.i32_at(codes), simd.f32_at(behind), simd.i32_at(behind)


@kernel
def read_row(f, i, positions, values):
    """Positions and values of what is not 0 in row i, zeros behind them up to the next sixteen; how many there are.

    And the smallest and largest of them and 0, as lanes. The matrix's flag becomes 1 when one is not finite.
    """
    low, high, worst = simd.zeros_f32(), simd.zeros_f32(), simd.zeros_i32()
    x = simd.f32_at(f.matrix.address + 4 * i * f.matrix.stride)
    found = collect(x, f.matrix.stride, f.chosen, positions, values)
    for n in range(found, (found + 15) // 16 * 16):
        values[n] = np.float32(0.0)
    for n in range(0, found, 16):
        value = simd.load(low, values, n)
        low, high = simd.minimum(low, value), simd.maximum(high, value)
        worst = simd.maximum(worst, simd.magnitude_bits(value))
    if simd.largest(worst) >= 0x7F800000:
        simd.i32_at(f.matrix.flag)[0] = np.int32(1)
    return found, low, high


@kernel
def float_steps(values, found, target, factor, inverse, offset, steps):
    """Steps of values times ``factor``, in their place; their sum, and the code of 0."""
    lanes, sums = simd.zeros_f32(), simd.zeros_i32()
    top, start = simd.fill(lanes, np.float32(target.top)), simd.fill(lanes, offset)
    zero_code = simd.bits_and(simd.rounded_bits(simd.minimum(simd.maximum(start, lanes), top)), 255)
    for n in range(0, found, 16):
        y = simd.multiply(simd.load(lanes, values, n), simd.fill(lanes, factor))
        y = simd.add(simd.multiply(y, simd.fill(lanes, inverse)), start)
        step = simd.bits_and(simd.rounded_bits(simd.minimum(simd.maximum(y, lanes), top)), 255)
        step = simd.subtract(step, zero_code)
        simd.store(step, steps, n)
        sums = simd.add(sums, step)
    return np.int64(simd.total(sums)), np.int64(simd.largest(zero_code))


@kernel
def fixed_steps(values, found, target, coding, has_norm, norm, mantissa, steps):
    """The same with integer arithmetic, of values times ``norm`` · ``mantissa`` / 2^15 if ``has_norm``."""
    lanes, sums = simd.zeros_f32(), simd.zeros_i32()
    power = simd.fill(lanes, simd.f32_at(coding.power)[0])
    multiplier = simd.fill(sums, np.int64(simd.i32_at(coding.multiplier)[0]))
    whole = simd.fill(sums, np.int64(simd.i32_at(coding.whole)[0]))
    zero_code = fixed_codes(lanes, power, multiplier, whole, coding, target.top, has_norm, norm, mantissa)
    for n in range(0, found, 16):
        x = simd.load(lanes, values, n)
        step = fixed_codes(x, power, multiplier, whole, coding, target.top, has_norm, norm, mantissa)
        step = simd.subtract(step, zero_code)
        simd.store(step, steps, n)
        sums = simd.add(sums, step)
    return np.int64(simd.total(sums)), np.int64(simd.largest(zero_code))


@instruction(Lookup, product((STATIC, ROW_AFFINE, ROW_HALF), _NONE))
def look_up(mode, width):
    """A variant a ``mode`` of scales and a number of columns looked up at a time: 16, 32 or 64."""
    is_static, is_half, none = mode == STATIC, mode == ROW_HALF, _NONE[width]

    def run(at, start, count, base, stride):
        f = read_lookup(at)
        target, totals = f.target, simd.i32_at(base + f.totals)
        positions, values, steps = places(base + f.codes, f.weight.inputs)
        for r in range(count):
            i, row = start + r, simd.f32_at(base + f.dst + 4 * r * stride)
            found, low, high = read_row(f, i, positions, values)
            factor = factor_of(target.factor, i)
            if is_static:
                scale, zero = simd.f32_at(target.scale)[0], simd.f32_at(target.zero)[0]
                inverse, offset = simd.f32_at(target.inverse)[0], simd.f32_at(target.offset)[0]
            else:
                least, most = simd.smallest(low) * factor, simd.largest(high) * factor
                scale, zero, offset = row_grid(least, most, target, is_half)
                check_scale(scale, target)
                inverse = np.float32(1.0) / scale
            row_sum, q0 = float_steps(values, found, target, factor, inverse, offset, steps)
            add_weights(positions, steps, found, f.weight, f.columns, width, none(), totals)
            numbers = scale, np.float64(zero) - np.float64(q0), row_sum
            finish_row(totals, f.columns, *numbers, f.weight, factor_of(f.finishing.factor, i), f.finishing, row)

    return run


@instruction(LookupFixed, product((False, True), _NONE))
def look_up_fixed(has_norm, width):
    """A variant a width, with degree norms of rows or without."""
    none = _NONE[width]

    def run(at, start, count, base, stride):
        f = read_fixed(at)
        totals, inputs, norm, mantissa = simd.i32_at(base + f.totals), f.weight.inputs, np.float32(1.0), np.int64(0)
        positions, values, steps = places(base + f.codes, inputs)
        dropped = dropped_bits(f.fixed.multiplied, inputs)
        for r in range(count):
            i, row = start + r, simd.f32_at(base + f.dst + 4 * r * stride)
            found, _, _ = read_row(f, i, positions, values)
            if has_norm:
                norm, mantissa = parts_of_norm(f.target.factor, i)
            row_sum, q0 = fixed_steps(values, found, f.target, f.coding, has_norm, norm, mantissa, steps)
            add_weights(positions, steps, found, f.weight, f.columns, width, none(), totals)
            zero = f.fixed.twice_zero - 2 * q0
            finish_fixed(totals, f.columns, row_sum, inputs, zero, f.fixed, dropped, row)

    return run
