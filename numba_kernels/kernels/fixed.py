"""ENCODE_FIXED: a slot to packed codes, in integers; FIXED_NORM: rows times degree norms of 15 bits.

What is computed stands in :mod:`numba_kernels.fixed_point`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import simd
from ..fixed_point import CODE_SHIFT, CODED_BITS
from ..jit import kernel
from .fields import Target
from .instruction import instruction, reader
from .rows import factor_of


class EncodeFixed(NamedTuple):
    """Packed codes ← clamp(((w · multiplier + added) >> 30) + whole, 0, top), w the nearest to src · factor · power."""

    src: int  # in the scratch
    columns: int
    target: Target
    multiplier: int  # (columns,) int32
    whole: int  # (columns,) int32
    added: int
    power: float  # 2^unit


class FixedNorm(NamedTuple):
    """dst ← src · factor, rounded to fixed-point numbers of a unit."""

    dst: int  # in the scratch
    src: int  # in the scratch
    columns: int
    factor: int  # (rows,) float32 of 15 bits
    power: float  # 2^unit


read_encode, read_norm = reader(EncodeFixed), reader(FixedNorm)


@kernel
def fixed(accumulators, multiplied, column):
    """Sixteen fixed-point numbers, float32, of as many int32 accumulators, which stand from ``column`` on."""
    lanes, most = simd.zeros_f32(), simd.fill(accumulators, multiplied.most)
    clamped = simd.minimum(simd.maximum(accumulators, simd.subtract(simd.zeros_i32(), most)), most)
    numbers = simd.load(accumulators, simd.i32_at(multiplied.multiplier), column)
    v = simd.multiply_shift(clamped, numbers, np.int64(1) << (multiplied.shift - 1), multiplied.shift)
    return simd.multiply(simd.to_f32(v), simd.fill(lanes, np.float32(multiplied.power)))


@kernel
def encode_sixteen(row, columns, block, f, times):
    """Packed codes of sixteen bytes from ``block`` on; ``times`` is what the row is multiplied with."""
    lanes, none, target = simd.zeros_f32(), simd.zeros_i32(), f.target
    wide, top = simd.to_f64(lanes), simd.fill(none, target.top)
    by, most = simd.fill(wide, times), simd.fill(wide, np.float64(1 << CODED_BITS))
    least = simd.subtract(wide, most)
    packed, bit, c = none, 0, block
    while c < columns:
        x = simd.multiply(simd.to_f64(simd.load(lanes, row, c)), by)
        w = simd.nearest(simd.minimum(simd.maximum(x, least), most))
        moved = simd.multiply_shift(w, simd.load(none, simd.i32_at(f.multiplier), c), f.added, CODE_SHIFT)
        code = simd.add(moved, simd.load(none, simd.i32_at(f.whole), c))
        code = simd.minimum(simd.maximum(code, none), top)
        if c + 16 > columns:
            code = simd.first_lanes(code, columns - c)
        packed = simd.bits_or(packed, simd.shift_left(code, bit))
        bit += target.bits
        c += target.width
    return simd.low_bytes(packed)


@instruction(EncodeFixed)
def encode_fixed():
    def run(at, start, count, base, stride):
        f = read_encode(at)
        target, width = f.target, f.target.width
        local, first = (base, 0) if target.local != 0 else (0, start)
        for r in range(count):
            row = simd.f32_at(base + f.src + 4 * r * stride)
            packed = simd.u8_at(local + target.packed + (first + r) * width)
            times = f.power * np.float64(factor_of(target.factor, start + r))
            for block in range(0, width, 16):
                simd.store(encode_sixteen(row, f.columns, block, f, times), packed, block)

    return run


@instruction(FixedNorm)
def fixed_norm():
    def run(at, start, count, base, stride):
        f = read_norm(at)
        lanes = simd.zeros_f32()
        wide, back = simd.to_f64(lanes), simd.fill(lanes, np.float32(1.0 / f.power))
        for r in range(count):
            times = simd.fill(wide, f.power * np.float64(factor_of(f.factor, start + r)))
            x, to = simd.f32_at(base + f.src + 4 * r * stride), simd.f32_at(base + f.dst + 4 * r * stride)
            for c in range(0, f.columns, 16):
                v = simd.nearest(simd.multiply(simd.to_f64(simd.load(lanes, x, c)), times))
                simd.store(simd.multiply(simd.to_f32(v), back), to, c)

    return run
