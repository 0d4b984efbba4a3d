"""ENCODE_FIXED: a slot to packed codes, in integers; FIXED_NORM: rows times degree norms of 15 bits.

What is computed stands in :mod:`numba_kernels.fixed_point`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import simd
from ..fixed_point import CODED_BITS, NORM_BITS, NUMBER_BITS
from ..jit import kernel
from .fields import Matrix, Target
from .instruction import instruction, reader
from .rows import factor_of


class EncodeFixed(NamedTuple):
    """Packed codes ← src, times the factor of the row where the target has one."""

    src: int  # in the scratch
    columns: int
    target: Target
    power: int  # (columns,) float32
    multiplier: int  # (columns,) int32
    whole: int  # (columns,) int32
    shift: int
    added: int
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
def encode_sixteen(row, columns, block, f, has_norm, power, mantissa):
    """Packed codes of sixteen bytes from ``block`` on; of a row times ``power`` · ``mantissa`` / 2^15, ``has_norm``."""
    lanes, none, target = simd.zeros_f32(), simd.zeros_i32(), f.target
    top, added = simd.fill(none, target.top), simd.fill(none, f.added - ((np.int64(1) << f.shift) >> 1))
    most = simd.fill(lanes, np.float32((1 << CODED_BITS) - 1))
    least = simd.subtract(lanes, most)
    packed, bit, c = none, 0, block
    while c < columns:
        x = simd.multiply(simd.load(lanes, row, c), simd.load(lanes, simd.f32_at(f.power), c))
        if has_norm:
            x = simd.multiply(x, simd.fill(lanes, power))
        w = simd.nearest(simd.minimum(simd.maximum(x, least), most))
        if has_norm:
            w = simd.shift_down(simd.multiply(w, simd.fill(none, mantissa)), NORM_BITS)
        w = simd.add(simd.multiply(w, simd.load(none, simd.i32_at(f.multiplier), c)), added)
        code = simd.add(simd.shift_down(w, f.shift), simd.load(none, simd.i32_at(f.whole), c))
        code = simd.minimum(simd.maximum(code, none), top)
        if c + 16 > columns:
            code = simd.first_lanes(code, columns - c)
        packed = simd.bits_or(packed, simd.shift_left(code, bit))
        bit += target.bits
        c += target.width
    return simd.low_bytes(packed)


@kernel
def parts_of_norm(address, row):
    """A degree norm m · 2^-r: 2^(15 − r), float32, and m, below 2^15."""
    bits, norm = np.int64(simd.i32_at(address)[row]), simd.f32_at(address)[row]
    mantissa = ((bits & 0x7FFFFF) | 0x800000) >> (24 - NORM_BITS)
    return norm / np.float32(mantissa) * np.float32(1 << NORM_BITS), mantissa


@instruction(EncodeFixed, [(False,), (True,)])
def encode_fixed(has_norm):
    def run(at, start, count, base, stride):
        f = read_encode(at)
        target, width, power, mantissa = f.target, f.target.width, np.float32(1.0), np.int64(0)
        local, first = (base, 0) if target.local != 0 else (0, start)
        for r in range(count):
            row = simd.f32_at(base + f.src + 4 * r * stride)
            packed = simd.u8_at(local + target.packed + (first + r) * width)
            if has_norm:
                power, mantissa = parts_of_norm(target.factor, start + r)
            if f.source.address != 0:
                next_row = simd.f32_at(f.source.address + 4 * (start + count + r) * f.source.stride)
                for c in range(0, f.columns, 16):
                    simd.prefetch(next_row, c)
            for block in range(0, width, 16):
                codes = encode_sixteen(row, f.columns, block, f, has_norm, power, mantissa)
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
