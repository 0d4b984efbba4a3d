"""What stands in for :mod:`numba_kernels.simd` with the JIT off: vectors and pointers are NumPy arrays.

A pointer is an array over all memory from its address on, of which kernels touch what they own.
"""

from __future__ import annotations

import ctypes

import numpy as np

from .pairs import LIFT, TABLE
from .products import FORMS

__all__ = [
    "absolute",
    "add",
    "add_in_order",
    "add_pairs",
    "address",
    "bits_and",
    "bits_or",
    "divide",
    "dot_quads",
    "dot_small_quads",
    "f32_at",
    "f64_at",
    "fill",
    "first_lanes",
    "i8_at",
    "i32_at",
    "i64_at",
    "interleave",
    "largest",
    "load",
    "low_bytes",
    "magnitude_bits",
    "maximum",
    "minimum",
    "multiply",
    "multiply_add",
    "nearest",
    "nonzero_lanes",
    "power_of_two",
    "prefetch",
    "rounded_bits",
    "shift_down",
    "shift_left",
    "shift_right",
    "signed_to_i32",
    "smallest",
    "store",
    "stream",
    "subtract",
    "sum_bytes",
    "tile_product",
    "to_f32",
    "to_f64",
    "to_i32",
    "to_signed",
    "total",
    "totals_of_four",
    "trailing_zeros",
    "u8_at",
    "widen",
    "zeros4_f32",
    "zeros16",
    "zeros32",
    "zeros64",
    "zeros_f32",
    "zeros_i32",
]  # fmt: skip

_BEYOND = 1 << 40
# Lanes beyond the columns hold anything, and nothing reads what becomes of it.
_quiet = np.errstate(all="ignore")


def address(array):
    return array.ctypes.data


def _pointer(ctype):
    kind = ctypes.POINTER(ctype)

    def pointer(address):  # to nothing, where a field that may be absent is
        return np.ctypeslib.as_array(ctypes.cast(int(address), kind), (_BEYOND,)) if address else None

    return pointer


u8_at, i8_at = _pointer(ctypes.c_uint8), _pointer(ctypes.c_int8)
i32_at, i64_at = _pointer(ctypes.c_int32), _pointer(ctypes.c_int64)
f32_at, f64_at = _pointer(ctypes.c_float), _pointer(ctypes.c_double)


def zeros16():
    return np.zeros(16, np.uint8)


def zeros32():
    return np.zeros(32, np.uint8)


def zeros64():
    return np.zeros(64, np.uint8)


def zeros_i32():
    return np.zeros(16, np.int32)


def zeros_f32():
    return np.zeros(16, np.float32)


def load(like, pointer, offset):
    return pointer[offset : offset + len(like)].view(like.dtype).copy()


def store(vector, pointer, offset):
    numbers = vector.view(pointer.dtype)
    pointer[offset : offset + len(numbers)] = numbers


stream = store


def prefetch(pointer, offset):
    return None


def fill(like, number):
    return np.full(len(like), number, like.dtype)


def first_lanes(x, count):
    return np.where(np.arange(len(x)) < count, x, np.int32(0))


@_quiet
def add(x, y):
    return x + y


@_quiet
def subtract(x, y):
    return x - y


@_quiet
def multiply(x, y):
    return x * y


@_quiet
def divide(x, y):
    return x / y


def power_of_two(x):
    return np.ldexp(np.ones_like(x), x.astype(np.int32))


@_quiet
def multiply_add(x, y, z):
    return x * y + z


absolute = np.abs


def minimum(x, y):
    return np.minimum(x, y)


def maximum(x, y):
    return np.maximum(x, y)


def bits_and(x, mask):
    return x & x.dtype.type(mask)


def bits_or(x, y):
    return x | y


def shift_left(x, count):
    return x << x.dtype.type(count)


def shift_right(x, count):
    return x >> x.dtype.type(count)


def shift_down(x, count):
    return (x + np.int32((1 << int(count)) >> 1)) >> np.int32(count)


def widen(x):
    return x.astype(np.uint16)


def to_i32(x):
    return x.astype(np.int32)


@_quiet
def to_signed(x):
    return x.astype(np.int32)


def signed_to_i32(x):
    return x.view(np.int8).astype(np.int32)


@_quiet
def to_f32(x):
    return x.astype(np.float32)


def to_f64(x):
    return x.astype(np.float64)


@_quiet
def nearest(x):
    return np.rint(x).astype(np.int32)


@_quiet
def rounded_bits(x):
    return (x + np.float32(2**23)).view(np.int32)


def low_bytes(x):
    return (x & 255).astype(np.uint8)


def magnitude_bits(x):
    return x.view(np.int32) & np.int32(0x7FFFFFFF)


def interleave(p, q, r, s):
    return np.stack([p, q, r, s], 1).ravel()


def smallest(x):
    return x.min()


def largest(x):
    return x.max()


def total(x):
    while len(x) > 1:
        x = x[: len(x) // 2] + x[len(x) // 2 :]
    return x[0]


def add_pairs(x):
    return x[::2] + x[1::2]


def totals_of_four(x, y, z, w):
    return np.array([x.sum(), y.sum(), z.sum(), w.sum()], np.float32)


def zeros4_f32():
    return np.zeros(4, np.float32)


def add_in_order(totals, *vectors):
    return np.add.accumulate([totals, *np.transpose(vectors)])[-1]


def nonzero_lanes(x):
    return sum(1 << m for m in np.flatnonzero(x).tolist())


def trailing_zeros(x):
    x = int(x)
    return (x & -x).bit_length() - 1 if x else 64


def sum_bytes(x):
    return x.sum(dtype=np.int32)


def tile_product(form, rows, blocks):
    columns, row_bytes, block_bytes = FORMS[form].columns, FORMS[form].row_bytes, FORMS[form].block_bytes
    activation, weight = {"bytes": "u1 i1", "words": "u2 i2", "pairs": "u1 u1"}[form].split()

    def multiply(x, room, weights, groups, steps, totals, stride):
        tiles = weights[: blocks * groups * block_bytes].view(weight).astype(np.int32)
        for r in range(rows):
            row = x[r * room : r * room + groups * row_bytes].view(activation).astype(np.int32)
            if form == "pairs":
                entries = TABLE[row[:, None] // 16, tiles.reshape(blocks, groups, 32)].astype(np.int32) - LIFT
                sums = entries.sum(1).reshape(blocks, 16, 2).transpose(0, 2, 1)
            else:
                sums = np.einsum("bgmp,gp->bm", tiles.reshape(blocks, groups, 16, -1), row.reshape(groups, -1))
            totals[r * stride : r * stride + blocks * columns] = sums.reshape(-1)

    return multiply


def dot_quads(total, x, w):
    products = x.view(np.uint8).astype(np.int32) * w.view(np.int8)
    return total + products.reshape(16, 4).sum(1, dtype=np.int32)


dot_small_quads = dot_quads
