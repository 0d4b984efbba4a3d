"""Portable SIMD: LLVM vectors as Numba values, raw memory as Numba pointers, and the few operations kernels need.

A vector is made by :func:`zeros16`, :func:`zeros32`, :func:`zeros64` (bytes), :func:`zeros_i32` or :func:`zeros_f32`
(sixteen lanes) and keeps its type through the operations, so a kernel written once is compiled for each width it is
called with. LLVM lowers the operations to what the machine has: AVX-512, AVX2, NEON or SSE2.

Memory is reached through pointers, which :func:`u8_at` and its like make of an address (``array.ctypes.data``, or
:func:`address` inside a kernel). A pointer counts no references: whoever launches a kernel keeps the arrays alive.

=================  =====================================================================
memory             load, store, stream, prefetch, address, u8_at, i8_at, i32_at, i64_at, f32_at, f64_at
lane by lane       add, subtract, multiply, divide, multiply_add, minimum, maximum, absolute, power_of_two,
                   bits_and, bits_or, shift_left, shift_right
copies, choice     fill, first_lanes
conversion         widen, to_i32, to_signed, to_f32, to_f64, rounded_bits, low_bytes
to fewer numbers   largest, smallest, total, add_pairs, sum_bytes, nonzero_lanes, trailing_zeros
=================  =====================================================================

Products of small integers are in :mod:`numba_kernels.simd.products`, roundings in :mod:`numba_kernels.simd.rounding`.

With the JIT off, NumPy arrays stand in for vectors and pointers (:mod:`numba_kernels.simd.stand_ins`).
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .vectors import (
    I1,
    I8,
    I32,
    I64,
    Vector,
    call_intrinsic,
    generating,
    lane_numbers,
    larger,
    load_unaligned,
    place,
    reduce,
    smaller,
    splat,
)  # fmt: skip


# -- memory ---------------------------------------------------------------------------------------------
@intrinsic
def address(typing_context, array):
    """Where the data of a contiguous array stand, int64."""

    def generate(context, builder, signature, arguments):
        return builder.ptrtoint(context.make_array(array)(context, builder, arguments[0]).data, I64)

    return types.int64(array), generate


def _pointer(dtype):
    def typed(typing_context, address):
        pointer = types.CPointer(dtype)

        def generate(context, builder, signature, arguments):
            return builder.inttoptr(arguments[0], context.get_value_type(pointer))

        return pointer(address), generate

    return typed


u8_at = intrinsic(_pointer(types.uint8))
i8_at = intrinsic(_pointer(types.int8))
i32_at = intrinsic(_pointer(types.int32))
i64_at = intrinsic(_pointer(types.int64))
f32_at = intrinsic(_pointer(types.float32))
f64_at = intrinsic(_pointer(types.float64))


@intrinsic
def load(typing_context, like, pointer, offset):
    """The lanes from ``pointer[offset]`` on, as a vector of the type of ``like``."""
    return generating(like(like, pointer, offset), lambda b, _, p, o: load_unaligned(b, place(b, p, o, like.llvm)))


@intrinsic
def store(typing_context, vector, pointer, offset):
    """Write the lanes from ``pointer[offset]`` on."""

    def generate(context, builder, signature, arguments):
        value, pointer, offset = arguments
        builder.store(value, place(builder, pointer, offset, vector.llvm)).align = 1
        return context.get_dummy_value()

    return types.void(vector, pointer, offset), generate


@intrinsic
def stream(typing_context, vector, pointer, offset):
    """As :func:`store`, past the caches, to an address that is a multiple of 64 bytes."""

    def generate(context, builder, signature, arguments):
        value, pointer, offset = arguments
        stored = builder.store(value, place(builder, pointer, offset, vector.llvm))
        stored.align = 64
        stored.set_metadata("nontemporal", builder.module.add_metadata([I32(1)]))
        return context.get_dummy_value()

    return types.void(vector, pointer, offset), generate


@intrinsic
def prefetch(typing_context, pointer, offset):
    """Ask for the cache line at ``pointer[offset]``; out of range it does nothing."""

    def generate(context, builder, signature, arguments):
        byte = I8.as_pointer()
        function = builder.module.declare_intrinsic(
            "llvm.prefetch", (byte,), ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32])
        )
        builder.call(function, [place(builder, *arguments, I8), I32(0), I32(3), I32(1)])
        return context.get_dummy_value()

    return types.void(pointer, offset), generate


# -- constants ------------------------------------------------------------------------------------------
def _zeros(element, lanes):
    vector = Vector(element, lanes)
    return lambda typing_context: generating(vector(), lambda b: ir.Constant(vector.llvm, None))


zeros16 = intrinsic(_zeros("u8", 16))
zeros32 = intrinsic(_zeros("u8", 32))
zeros64 = intrinsic(_zeros("u8", 64))
zeros_i32 = intrinsic(_zeros("i32", 16))
zeros_f32 = intrinsic(_zeros("f32", 16))


@intrinsic
def fill(typing_context, like, number):
    """A vector of the type of ``like`` whose lanes all hold ``number``."""
    return generating(like(like, number), lambda b, _, n: splat(b, like.llvm, n))


@intrinsic
def first_lanes(typing_context, x, count):
    """The first ``count`` lanes, int64, of an i32 vector, and 0 in the others."""

    def body(builder, value, count):
        numbers = ir.Constant(x.llvm, list(range(x.lanes)))
        chosen = builder.icmp_signed("<", numbers, splat(builder, x.llvm, count))
        return builder.select(chosen, value, ir.Constant(x.llvm, None))

    return generating(x(x, count), body)


# -- lane by lane ---------------------------------------------------------------------------------------
def _binary(integers, floats):
    def typed(typing_context, x, y):
        return generating(x(x, y), floats if x.is_float else integers)

    return typed


add = intrinsic(_binary(lambda b, x, y: b.add(x, y), lambda b, x, y: b.fadd(x, y)))
subtract = intrinsic(_binary(lambda b, x, y: b.sub(x, y), lambda b, x, y: b.fsub(x, y)))
multiply = intrinsic(_binary(lambda b, x, y: b.mul(x, y), lambda b, x, y: b.fmul(x, y)))
divide = intrinsic(_binary(None, lambda b, x, y: b.fdiv(x, y)))
# Signed integers or floats.
minimum = intrinsic(_binary(smaller, smaller))
maximum = intrinsic(_binary(larger, larger))
bits_or = intrinsic(_binary(lambda b, x, y: b.or_(x, y), None))


@intrinsic
def multiply_add(typing_context, x, y, z):
    """Lane by lane x · y + z of floats, rounded once where the machine can."""
    name = f"llvm.fmuladd.v{x.lanes}{x.element}"
    return generating(x(x, y, z), lambda b, *arguments: call_intrinsic(b, name, x.llvm, arguments))


@intrinsic
def absolute(typing_context, x):
    """|x| of floats."""
    return generating(x(x), lambda b, v: call_intrinsic(b, f"llvm.fabs.v{x.lanes}{x.element}", x.llvm, [v]))


@intrinsic
def power_of_two(typing_context, x):
    """2^x of f32 lanes that hold whole numbers from −126 to 127."""
    bits = Vector("i32", x.lanes)

    def body(builder, value):
        exponent = builder.add(builder.fptosi(value, bits.llvm), ir.Constant(bits.llvm, [127] * x.lanes))
        return builder.bitcast(builder.shl(exponent, ir.Constant(bits.llvm, [23] * x.lanes)), x.llvm)

    return generating(x(x), body)


def _with_integer(operation):
    def typed(typing_context, x, number):
        return generating(x(x, number), lambda b, v, n: operation(b, v, splat(b, x.llvm, n)))

    return typed


# The second argument is one integer: a mask, or a count below the lane's width.
bits_and = intrinsic(_with_integer(lambda b, x, y: b.and_(x, y)))
shift_left = intrinsic(_with_integer(lambda b, x, y: b.shl(x, y)))
shift_right = intrinsic(_with_integer(lambda b, x, y: b.lshr(x, y)))


# -- conversion -----------------------------------------------------------------------------------------
@intrinsic
def widen(typing_context, x):
    """Bytes, zero-extended to 16 bits."""
    wide = Vector("u16", x.lanes)
    return generating(wide(x), lambda b, v: b.zext(v, wide.llvm))


@intrinsic
def to_i32(typing_context, x):
    """Unsigned lanes as int32."""
    wide = Vector("i32", x.lanes)
    return generating(wide(x), lambda b, v: b.zext(v, wide.llvm))


@intrinsic
def signed_to_i32(typing_context, x):
    """Lanes, read as signed bytes, as int32."""
    wide = Vector("i32", x.lanes)
    return generating(wide(x), lambda b, v: b.sext(v, wide.llvm))


def _to_float(element):
    def typed(typing_context, x):
        result = Vector(element, x.lanes)

        def body(builder, value):
            if x.is_float:
                return (builder.fptrunc if element == "f32" else builder.fpext)(value, result.llvm)
            return (builder.sitofp if x.element == "i32" else builder.uitofp)(value, result.llvm)

        return generating(result(x), body)

    return typed


@intrinsic
def to_signed(typing_context, x):
    """f32 lanes that hold whole numbers, as int32."""
    whole = Vector("i32", x.lanes)
    return generating(whole(x), lambda b, v: b.fptosi(v, whole.llvm))


to_f32 = intrinsic(_to_float("f32"))
to_f64 = intrinsic(_to_float("f64"))


@intrinsic
def rounded_bits(typing_context, x):
    """i32 lanes whose low byte is x, f32 in 0 … 255, rounded to the nearest integer, halves to even.

    Beside 2²³ neighbouring floats are 1 apart, so that adding it rounds; the lanes are the bits of that sum.
    """
    bits = Vector("i32", x.lanes)

    def body(builder, value):
        return builder.bitcast(builder.fadd(value, ir.Constant(x.llvm, [float(2**23)] * x.lanes)), bits.llvm)

    return generating(bits(x), body)


@intrinsic
def low_bytes(typing_context, x):
    """The lowest byte of each i32 lane."""
    narrow = Vector("u8", x.lanes)
    return generating(narrow(x), lambda b, v: b.trunc(v, narrow.llvm))


@intrinsic
def magnitude_bits(typing_context, x):
    """The bits of |x|, f32, as i32, which are of the same order; from 0x7F800000 on they are no finite number."""
    bits = Vector("i32", x.lanes)

    def body(builder, value):
        return builder.and_(builder.bitcast(value, bits.llvm), ir.Constant(bits.llvm, [0x7FFFFFFF] * x.lanes))

    return generating(bits(x), body)


# -- to one number --------------------------------------------------------------------------------------
def _reduction(combine):
    def typed(typing_context, x):
        result = {"f32": types.float32, "f64": types.float64, "i32": types.int32}[x.element]
        return generating(result(x), lambda b, v: reduce(b, v, combine))

    return typed


smallest = intrinsic(_reduction(smaller))
largest = intrinsic(_reduction(larger))
total = intrinsic(_reduction(lambda b, x, y: b.add(x, y) if x.type.element == I32 else b.fadd(x, y)))


@intrinsic
def add_pairs(typing_context, x):
    """Lanes 2m and 2m + 1 of an i32 vector, added: half as many."""
    half = Vector("i32", x.lanes // 2)

    def body(builder, value):
        even, odd = (builder.shuffle_vector(value, value, lane_numbers(range(n, x.lanes, 2))) for n in (0, 1))
        return builder.add(even, odd)

    return generating(half(x), body)


@intrinsic
def sum_bytes(typing_context, x):
    """The sum of unsigned bytes, int32."""
    wide, name = Vector("i32", x.lanes), f"llvm.vector.reduce.add.v{x.lanes}i32"
    return generating(types.int32(x), lambda b, v: call_intrinsic(b, name, I32, [b.zext(v, wide.llvm)]))


@intrinsic
def nonzero_lanes(typing_context, x):
    """An int64 whose bit m says whether lane m of an i32 vector, of at most 63 lanes, is not 0."""

    def body(builder, value):
        chosen = builder.icmp_unsigned("!=", value, ir.Constant(x.llvm, None))
        return builder.zext(builder.bitcast(chosen, ir.IntType(x.lanes)), I64)

    return generating(types.int64(x), body)


@intrinsic
def trailing_zeros(typing_context, x):
    """How many zeros the bits of an int64 end in; 64 of 0."""
    return generating(types.int64(x), lambda b, v: call_intrinsic(b, "llvm.cttz.i64", I64, [v, I1(0)]))
