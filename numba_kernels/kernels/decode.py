"""DECODE: packed codes to values in a slot."""

from __future__ import annotations

from typing import NamedTuple

from .. import simd
from ..jit import kernel
from .fields import Operand
from .instruction import instruction, reader
from .rows import clear_from


class Decode(NamedTuple):
    """dst ← (code − zero) · scale."""

    dst: int  # in the scratch
    columns: int
    operand: Operand


read_decode = reader(Decode)


@kernel
def decode_rows(first, count, operand, columns, base, dst, stride):
    """Values, float32 rows from the address ``dst`` on, of ``count`` rows from ``first`` on of packed codes."""
    row_base = base * operand.per_row
    scale, zero = simd.f32_at(row_base + operand.scale), simd.f32_at(row_base + operand.zero)
    none, lanes, top = simd.zeros16(), simd.zeros_f32(), (1 << operand.bits) - 1
    for r in range(count):
        packed = simd.u8_at(base + operand.packed + (first + r) * operand.width)
        row = simd.f32_at(dst + 4 * r * stride)
        for block in range(0, operand.width, 16):
            x = simd.to_i32(simd.load(none, packed, block))
            bit = 0
            c = block
            while c < columns:
                code = simd.to_f32(simd.bits_and(simd.shift_right(x, bit), top))
                if operand.per_row != 0:
                    s, z = simd.fill(lanes, scale[first + r]), simd.fill(lanes, zero[first + r])
                else:
                    s, z = simd.load(lanes, scale, c), simd.load(lanes, zero, c)
                simd.store(simd.multiply(simd.subtract(code, z), s), row, c)
                bit += operand.bits
                c += operand.width
        if operand.per_row != 0:
            clear_from(row, columns)


@instruction(Decode)
def decode():
    def run(at, start, count, base, stride):
        f = read_decode(at)
        local, first = (base, 0) if f.operand.local != 0 else (0, start)
        decode_rows(first, count, f.operand, f.columns, local, base + f.dst, stride)

    return run
