"""Vectors as Numba types, and how their operations are written in LLVM's language."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import register_model

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32, F64 = ir.FloatType(), ir.DoubleType()


_ELEMENTS = {"u8": I8, "u16": I16, "i32": I32, "f32": F32, "f64": F64}


class Vector(types.Type):
    """``lanes`` numbers of one element type: "u8", "u16", "i32", "f32" or "f64"."""

    def __init__(self, element: str, lanes: int):
        self.element, self.lanes = element, lanes
        super().__init__(name=f"Vector({lanes} x {element})")

    @property
    def is_float(self) -> bool:
        return self.element in ("f32", "f64")

    @property
    def llvm(self):
        return ir.VectorType(_ELEMENTS[self.element], self.lanes)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, fe_type.llvm)


def lane_numbers(numbers):
    """A constant vector of int32."""
    return ir.Constant(ir.VectorType(I32, len(numbers)), list(numbers))


def splat(builder, vector_type, scalar):
    """A vector of copies of an LLVM number; an integer is cut to the lane's width."""
    lane = vector_type.element
    if scalar.type != lane:
        scalar = builder.trunc(scalar, lane) if isinstance(lane, ir.IntType) else builder.fptrunc(scalar, lane)
    one = builder.insert_element(ir.Constant(vector_type, ir.Undefined), scalar, I32(0))
    return builder.shuffle_vector(one, one, lane_numbers([0] * vector_type.count))


def place(builder, pointer, offset, pointee):
    """The address of ``pointer[offset]``, as one of a ``pointee``."""
    return builder.bitcast(builder.gep(pointer, [offset]), pointee.as_pointer())


def load_unaligned(builder, address):
    """What stands at an address of any alignment."""
    value = builder.load(address)
    value.align = 1
    return value


def call_intrinsic(builder, name, result, arguments):
    """Call one of LLVM's own functions."""
    function = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), arguments)


def reduce(builder, value, combine):
    """One number of all lanes, halving the vector."""
    lanes = value.type.count
    while lanes > 1:
        lanes //= 2
        low = builder.shuffle_vector(value, value, lane_numbers(range(lanes)))
        high = builder.shuffle_vector(value, value, lane_numbers(range(lanes, 2 * lanes)))
        value = combine(builder, low, high)
    return builder.extract_element(value, I32(0))


def smaller(builder, x, y):
    """Lane by lane the smaller, of signed integers or floats."""
    less = builder.fcmp_ordered if isinstance(x.type.element, (ir.FloatType, ir.DoubleType)) else builder.icmp_signed
    return builder.select(less("<", x, y), x, y)


def larger(builder, x, y):
    """Lane by lane the larger, of signed integers or floats."""
    less = builder.fcmp_ordered if isinstance(x.type.element, (ir.FloatType, ir.DoubleType)) else builder.icmp_signed
    return builder.select(less(">", x, y), x, y)


def generating(result, body):
    """A code generator that calls ``body(builder, *arguments)``."""
    return result, lambda context, builder, signature, arguments: body(builder, *arguments)
