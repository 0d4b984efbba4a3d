"""ENCODE_FIXED: a slot to packed codes, in integers; FIXED_NORM: rows times degree norms of 15 bits.

What is computed stands in :mod:`numba_kernels.fixed_point`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import simd
from ..fixed_point import CODED_BITS, NORM_BITS, NUMBER_BITS
from ..jit import kernel
from .fields import Coding, Matrix, Target
from .instruction import instruction, reader
from .rows import factor_of


class EncodeFixed(NamedTuple):
    """Packed codes ← src, times the factor of the row where the target has one."""

    src: int  # in the scratch
    columns: int
    target: Target
    coding: Coding
    source: Matrix  # where src was loaded from: rows of the next tile are asked for; or of address 0


class FixedNorm(NamedTuple):
    """dst ← src · factor, rounded to fixed-point numbers of a unit."""

    dst: int  # in the scratch
    src: int  # in the scratch
    columns: int
    factor: int  # (rows,) float32 of 15 bits
    power: float  # 2^unit


read_encode, read_norm = reader(EncodeFixed), reader(FixedNorm)


@kernel
def dropped_bits(multiplied, count):
    """How many bits accumulators of ``count`` terms may have beyond those that are multiplied."""
    dropped, most = 0, count * multiplied.term
    while most >> dropped >= 1 << multiplied.bits and dropped < multiplied.shift - 1:
        dropped += 1
    return dropped


@kernel
def fixed(accumulators, multiplied, dropped, column):
    """Sixteen fixed-point numbers, float32, of as many int32 accumulators, which stand from ``column`` on."""
    lanes, a = simd.zeros_f32(), accumulators
    if dropped != 0:  # else it is within
        most = simd.fill(a, (np.int64(1) << multiplied.bits) - 1)
        a = simd.shift_down(a, dropped)
        a = simd.minimum(simd.maximum(a, simd.subtract(simd.zeros_i32(), most)), most)
    products = simd.multiply(a, simd.load(accumulators, simd.i32_at(multiplied.multiplier), column))
    v = simd.shift_down(products, multiplied.shift - dropped)
    return simd.multiply(simd.to_f32(v), simd.fill(lanes, np.float32(multiplied.power)))


@kernel
def finish_fixed(totals, columns, row_sum, inputs, zero, product, dropped, out):
    """A row of products as fixed-point numbers.

    Parameters
    ----------
    totals : (columns,) int32
        Σ q_x q_w; may stand where ``out`` does.
    row_sum, inputs, zero
        Σ q_x, of how many inputs, and 2 z_x.
    product : FixedProduct
    dropped
        See :func:`dropped_bits`.
    out : (columns,) float32
    """
    none = simd.zeros_i32()
    zeros, sums = simd.i32_at(product.twice_zeros), simd.i32_at(product.twice_sums)
    z, rest = simd.fill(none, zero), simd.fill(none, 2 * row_sum - inputs * zero)
    for c in range(0, columns, 16):  # what overflows on the way comes back: the result is within int32
        t = simd.shift_left(simd.load(none, totals, c), 2)
        t = simd.subtract(t, simd.multiply(z, simd.load(none, sums, c)))
        t = simd.subtract(t, simd.multiply(rest, simd.load(none, zeros, c)))
        simd.store(fixed(t, product.multiplied, dropped, c), out, c)


@kernel
def fixed_codes(x, power, multiplier, whole, coding, top, has_norm, norm, mantissa):
    """Sixteen codes, int32, of as many float32, times ``norm`` · ``mantissa`` / 2^15 if ``has_norm``.

    ``power``, ``multiplier`` and ``whole`` are those of the numbers' columns.
    """
    none = simd.zeros_i32()
    most = simd.fill(x, np.float32((1 << CODED_BITS) - 1))
    y = simd.multiply(x, power)
    if has_norm:
        y = simd.multiply(y, simd.fill(x, norm))
    w = simd.nearest(simd.minimum(simd.maximum(y, simd.subtract(simd.zeros_f32(), most)), most))
    if has_norm:
        w = simd.shift_down(simd.multiply(w, simd.fill(none, mantissa)), NORM_BITS)
    added = simd.fill(none, coding.added - ((np.int64(1) << coding.shift) >> 1))
    code = simd.add(simd.shift_down(simd.add(simd.multiply(w, multiplier), added), coding.shift), whole)
    return simd.minimum(simd.maximum(code, none), simd.fill(none, top))


@kernel
def encode_sixteen(row, columns, block, f, has_norm, norm, mantissa):
    """Packed codes of sixteen bytes from ``block`` on; of a row times ``norm`` · ``mantissa`` / 2^15, ``has_norm``."""
    lanes, none, target, coding = simd.zeros_f32(), simd.zeros_i32(), f.target, f.coding
    packed, bit, c = none, 0, block
    while c < columns:
        power, multiplier = (
            simd.load(lanes, simd.f32_at(coding.power), c),
            simd.load(none, simd.i32_at(coding.multiplier), c),
        )
        whole = simd.load(none, simd.i32_at(coding.whole), c)
        x = simd.load(lanes, row, c)
        code = fixed_codes(x, power, multiplier, whole, coding, target.top, has_norm, norm, mantissa)
        if c + 16 > columns:
            code = simd.first_lanes(code, columns - c)
        packed = simd.bits_or(packed, simd.shift_left(code, bit))
        bit += target.bits
        c += target.width
    return simd.low_bytes(packed)


@kernel
def parts_of_norm(address, row):
    """The degree norm m · 2^-r of a row: 2^(15 − r), float32, and m, below 2^15."""
    bits, norm = np.int64(simd.i32_at(address)[row]), simd.f32_at(address)[row]
    mantissa = ((bits & 0x7FFFFF) | 0x800000) >> (24 - NORM_BITS)
    return norm / np.float32(mantissa) * np.float32(1 << NORM_BITS), mantissa


@instruction(EncodeFixed, [(False,), (True,)])
def encode_fixed(has_norm):
    def run(at, start, count, base, stride):
        f = read_encode(at)
        target, width, norm, mantissa = f.target, f.target.width, np.float32(1.0), np.int64(0)
        local, first = (base, 0) if target.local != 0 else (0, start)
        for r in range(count):
            row = simd.f32_at(base + f.src + 4 * r * stride)
            packed = simd.u8_at(local + target.packed + (first + r) * width)
            if has_norm:
                norm, mantissa = parts_of_norm(target.factor, start + r)
            if f.source.address != 0:
                next_row = simd.f32_at(f.source.address + 4 * (start + count + r) * f.source.stride)
                for c in range(0, f.columns, 16):
                    simd.prefetch(next_row, c)
            for block in range(0, width, 16):
                codes = encode_sixteen(row, f.columns, block, f, has_norm, norm, mantissa)
                simd.store(codes, packed, block)

    return run


@instruction(FixedNorm)
def fixed_norm():
    def run(at, start, count, base, stride):
        f = read_norm(at)
        lanes = simd.zeros_f32()
        back, most = simd.fill(lanes, np.float32(1.0 / f.power)), simd.fill(lanes, np.float32((1 << NUMBER_BITS) - 1))
        least = simd.subtract(lanes, most)
        for r in range(count):
            times = simd.fill(lanes, np.float32(f.power) * factor_of(f.factor, start + r))
            x, to = simd.f32_at(base + f.src + 4 * r * stride), simd.f32_at(base + f.dst + 4 * r * stride)
            for c in range(0, f.columns, 16):
                y = simd.multiply(simd.load(lanes, x, c), times)
                v = simd.nearest(simd.minimum(simd.maximum(y, least), most))
                simd.store(simd.multiply(simd.to_f32(v), back), to, c)

    return run
