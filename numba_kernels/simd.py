"""Portable SIMD: LLVM vectors as Numba values, and the few operations kernels need of them.

A vector is made by :func:`zeros16`, :func:`zeros32`, :func:`zeros64` (bytes) or :func:`zeros_i32` (sixteen int32) and
keeps its type through the operations, so a kernel written once is compiled for each width it is called with. LLVM
lowers the operations to what the machine has: AVX-512, AVX2, NEON or SSE2. With the JIT off, NumPy arrays stand in
for vectors.
"""

from __future__ import annotations

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

_I8, _I32 = ir.IntType(8), ir.IntType(32)


class Vector(types.Type):
    """``lanes`` integers of ``bits`` bits."""

    def __init__(self, bits: int, lanes: int):
        self.bits, self.lanes = bits, lanes
        super().__init__(name=f"Vector({lanes} x i{bits})")

    @property
    def llvm(self):
        return ir.VectorType(ir.IntType(self.bits), self.lanes)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, fe_type.llvm)


def _address(context, builder, array_type, array, offset, pointee):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), pointee.as_pointer())


def _load(builder, address):
    value = builder.load(address)
    value.align = 1
    return value


def _store(builder, value, address):
    builder.store(value, address).align = 1


def _splat(builder, vector_type, scalar):
    """A vector of copies of an LLVM integer, cut to the lane's width."""
    lane = vector_type.element
    if scalar.type != lane:
        scalar = builder.trunc(scalar, lane)
    one = builder.insert_element(ir.Constant(vector_type, ir.Undefined), scalar, _I32(0))
    zeros = ir.Constant(ir.VectorType(_I32, vector_type.count), [0] * vector_type.count)
    return builder.shuffle_vector(one, one, zeros)


def _zeros(bits, lanes):
    vector = Vector(bits, lanes)

    def typed(typing_context):
        return vector(), lambda context, builder, signature, arguments: ir.Constant(vector.llvm, None)

    return typed


zeros16 = intrinsic(_zeros(8, 16))
zeros32 = intrinsic(_zeros(8, 32))
zeros64 = intrinsic(_zeros(8, 64))
zeros_i32 = intrinsic(_zeros(32, 16))


@intrinsic
def load(typing_context, like, array, offset):
    """The lanes of ``array``, 1-D of bytes, from ``offset``, as a vector of the type of ``like``."""

    def generate(context, builder, signature, arguments):
        return _load(builder, _address(context, builder, array, arguments[1], arguments[2], like.llvm))

    return like(like, array, offset), generate


@intrinsic
def store(typing_context, vector, array, offset):
    """Write the lanes to ``array``, 1-D of the lane's type, from ``offset``."""

    def generate(context, builder, signature, arguments):
        _store(builder, arguments[0], _address(context, builder, array, arguments[1], arguments[2], vector.llvm))
        return context.get_dummy_value()

    return types.void(vector, array, offset), generate


@intrinsic
def add(typing_context, x, y):
    """Lane by lane x + y, modulo the lane."""
    return x(x, y), lambda context, builder, signature, arguments: builder.add(*arguments)


@intrinsic
def bits_and(typing_context, x, mask):
    """Lane by lane x & mask, ``mask`` an integer."""

    def generate(context, builder, signature, arguments):
        return builder.and_(arguments[0], _splat(builder, x.llvm, arguments[1]))

    return x(x, mask), generate


@intrinsic
def shift_right(typing_context, x, count):
    """Lane by lane x >> count, filled with zeros; ``count`` an integer below the lane's width."""

    def generate(context, builder, signature, arguments):
        return builder.lshr(arguments[0], _splat(builder, x.llvm, arguments[1]))

    return x(x, count), generate


@intrinsic
def add_to_i32(typing_context, vector, array, offset):
    """array[offset + lane] += lane's value, zero-extended; ``array`` 1-D int32."""

    def generate(context, builder, signature, arguments):
        wide = ir.VectorType(_I32, vector.lanes)
        address = _address(context, builder, array, arguments[1], arguments[2], wide)
        _store(builder, builder.add(_load(builder, address), builder.zext(arguments[0], wide)), address)
        return context.get_dummy_value()

    return types.void(vector, array, offset), generate


@intrinsic
def widen(typing_context, x):
    """The lanes of ``x``, zero-extended to twice their width."""
    wide = Vector(2 * x.bits, x.lanes)
    return wide(x), lambda context, builder, signature, arguments: builder.zext(arguments[0], wide.llvm)


@intrinsic
def prefetch(typing_context, array, offset):
    """Ask for the cache line at ``array[offset]``, 1-D of bytes; out of range it does nothing."""

    def generate(context, builder, signature, arguments):
        pointer = _I8.as_pointer()
        address = _address(context, builder, array, arguments[0], arguments[1], _I8)
        signature = ir.FunctionType(ir.VoidType(), [pointer, _I32, _I32, _I32])
        function = builder.module.declare_intrinsic("llvm.prefetch", (pointer,), signature)
        builder.call(function, [address, _I32(0), _I32(3), _I32(1)])
        return context.get_dummy_value()

    return types.void(array, offset), generate


def _has_dot_product() -> bool:
    """Whether the code generated here may use AVX-512's u8 × s8 dot product."""
    if numba.config.CPU_NAME or numba.config.CPU_FEATURES:
        return "+avx512vnni" in (numba.config.CPU_FEATURES or "")
    features = binding.get_host_cpu_features()
    return bool(features.get("avx512vnni") and features.get("avx512f") and features.get("avx512bw"))


HAS_DOT_PRODUCT = _has_dot_product()


@intrinsic
def dot4(typing_context, total, x, x_offset, w, w_offset):
    """total[m] += Σ_j x[x_offset + j] · w[w_offset + 4m + j], j < 4, for sixteen int32 totals.

    ``x`` holds uint8, ``w`` int8, both 1-D.
    """

    def generate(context, builder, signature, arguments):
        quad = _load(builder, _address(context, builder, x, arguments[1], arguments[2], _I32))
        bytes64 = ir.VectorType(_I8, 64)
        xs = builder.bitcast(_splat(builder, total.llvm, quad), bytes64)
        ws = _load(builder, _address(context, builder, w, arguments[3], arguments[4], bytes64))
        if HAS_DOT_PRODUCT:
            # LLVM 22 changed the operands of this instruction from sixteen int32 to sixty-four int8.
            operand = bytes64 if binding.llvm_version_info[0] >= 22 else total.llvm
            function = ir.FunctionType(total.llvm, [total.llvm, operand, operand])
            dot = cgutils.get_or_insert_function(builder.module, function, "llvm.x86.avx512.vpdpbusd.512")
            return builder.call(dot, [arguments[0], builder.bitcast(xs, operand), builder.bitcast(ws, operand)])
        result = arguments[0]
        for j in range(4):
            pick = ir.Constant(ir.VectorType(_I32, 16), [4 * m + j for m in range(16)])
            x_j = builder.zext(builder.shuffle_vector(xs, xs, pick), total.llvm)
            w_j = builder.sext(builder.shuffle_vector(ws, ws, pick), total.llvm)
            result = builder.add(result, builder.mul(x_j, w_j))
        return result

    return total(total, x, x_offset, w, w_offset), generate


if numba.config.DISABLE_JIT:
    # The same operations on NumPy arrays.

    def zeros16():
        return np.zeros(16, np.uint8)

    def zeros32():
        return np.zeros(32, np.uint8)

    def zeros64():
        return np.zeros(64, np.uint8)

    def zeros_i32():
        return np.zeros(16, np.int32)

    def load(like, array, offset):
        return array[offset : offset + len(like)].copy()

    def store(vector, array, offset):
        array[offset : offset + len(vector)] = vector

    def add(x, y):
        return x + y

    def bits_and(x, mask):
        return x & np.uint8(mask)

    def shift_right(x, count):
        return x >> np.uint8(count)

    def add_to_i32(vector, array, offset):
        array[offset : offset + len(vector)] += vector.astype(np.int32)

    def widen(x):
        return x.astype(np.uint16)

    def prefetch(array, offset):
        return None

    def dot4(total, x, x_offset, w, w_offset):
        products = w[w_offset : w_offset + 64].reshape(16, 4).astype(np.int32) * x[x_offset : x_offset + 4]
        return total + products.sum(1, dtype=np.int32)
