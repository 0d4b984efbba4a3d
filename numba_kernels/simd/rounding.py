"""Roundings to whole numbers."""

from __future__ import annotations

from llvmlite import ir
from numba.extending import intrinsic

from .vectors import I32, Vector, generating, splat

__all__ = ["nearest", "shift_down"]


@intrinsic
def shift_down(typing_context, x, count):
    """i32 lanes >> count, an integer from 0 to 31, rounded to the nearest, halves up."""

    def body(builder, value, count):
        one = I32(1)
        count = builder.trunc(count, I32) if count.type != I32 else count
        half = builder.lshr(builder.shl(one, count), one)
        return builder.ashr(builder.add(value, splat(builder, x.llvm, half)), splat(builder, x.llvm, count))

    return generating(x(x, count), body)


@intrinsic
def nearest(typing_context, x):
    """The nearest int32, halves to even, of f32 lanes below 2²² in size.

    Beside 1.5 · 2²³ neighbouring floats are 1 apart, so that adding it rounds; the number is what the bits of that sum
    are beyond those of the summand.
    """
    whole = Vector("i32", x.lanes)

    def body(builder, value):
        moved = builder.fadd(value, ir.Constant(x.llvm, [1.5 * 2**23] * x.lanes))
        return builder.sub(builder.bitcast(moved, whole.llvm), ir.Constant(whole.llvm, [0x4B400000] * x.lanes))

    return generating(whole(x), body)
