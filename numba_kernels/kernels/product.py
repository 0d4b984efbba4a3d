"""PRODUCT: packed activations times an integer weight."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import simd
from ..jit import kernel
from .fields import Operand, ProductWeight
from .instruction import instruction, reader
from .unpack import unpack_row

# A tile of rows is whole groups of these.
_GROUP = 8


def center_codes(codes: np.ndarray) -> tuple[np.ndarray, int]:
    """Weight codes, uint8, as int8, and what was subtracted: they become about as far below 0 as above."""
    shift = (int(codes.max(initial=0)) + 1) // 2
    return (codes.astype(np.int16) - shift).astype(np.int8), shift


def tile_weight(codes: np.ndarray, words: bool) -> np.ndarray:
    """Weight codes, (K, M) int8, in the order products read them.

    Column blocks of 16; in each, groups of 4 inputs; in each, column by column the 4 of them: (M/16, K/4, 16, 4) int8,
    with zeros where K or M end early. With ``words`` groups are of 2 inputs: (M/16, K/2, 16, 2) int16.
    """
    K, M = codes.shape
    inputs, dtype = (2, np.int16) if words else (4, np.int8)
    groups, blocks = -(-K // inputs), -(-M // 16)
    filled = np.zeros((groups * inputs, blocks * 16), dtype)
    filled[:K, :M] = codes
    return np.ascontiguousarray(filled.reshape(groups, inputs, blocks, 16).transpose(2, 0, 3, 1))


@kernel
def finish_row(totals, columns, row_scale, row_zero, row_sum, weight, out):
    """A row of products as float32: (t − z_x Σ q_w − z_w (Σ q_x − K z_x)) · s_x · s_w.

    Until it is rounded to float32 it is exact: in int32, as multiples of ¼, where zero points are multiples of ½ and
    nothing overflows, else in float64.

    Parameters
    ----------
    totals : (columns,) int32
        t = Σ q_x q_w; may stand where ``out`` does.
    row_scale, row_zero, row_sum
        s_x, z_x and Σ q_x, float32, float64 and int64.
    weight : ProductWeight
    out : (columns,) float32
        Written, up to the next multiple of 16.
    """
    lanes, none = simd.zeros_f32(), simd.zeros_i32()
    scale, s = simd.f32_at(weight.scale), simd.fill(lanes, row_scale)
    twice = np.int64(row_zero + row_zero) if abs(row_zero) <= 255.0 else np.int64(0)
    if weight.twice_zero != 0 and np.float64(twice) == row_zero + row_zero:
        zeros, sums = simd.i32_at(weight.twice_zero), simd.i32_at(weight.twice_sums)
        z, r = simd.fill(none, twice), simd.fill(none, 2 * row_sum - weight.inputs * twice)
        quarter = simd.fill(lanes, np.float32(0.25))
        for m in range(0, columns, 16):
            t = simd.shift_left(simd.load(none, totals, m), 2)
            moved = simd.multiply(z, simd.load(none, sums, m))
            moved = simd.add(moved, simd.multiply(r, simd.load(none, zeros, m)))
            y = simd.multiply(simd.to_f32(simd.subtract(t, moved)), quarter)
            simd.store(simd.multiply(simd.multiply(y, s), simd.load(lanes, scale, m)), out, m)
    else:
        zeros, sums, wide = simd.f64_at(weight.zero), simd.f64_at(weight.sums), simd.to_f64(lanes)
        z = simd.fill(wide, row_zero)
        r = simd.fill(wide, np.float64(row_sum) - np.float64(weight.inputs) * row_zero)
        for m in range(0, columns, 16):
            t = simd.to_f64(simd.load(none, totals, m))
            moved = simd.multiply(z, simd.load(wide, sums, m))
            moved = simd.add(moved, simd.multiply(simd.load(wide, zeros, m), r))
            y = simd.multiply(simd.to_f32(simd.subtract(t, moved)), s)
            simd.store(simd.multiply(y, simd.load(lanes, scale, m)), out, m)


class Product(NamedTuple):
    """dst ← packed codes of the row · weight."""

    dst: int  # in the scratch; rows up to a whole group of 8 are written
    columns: int
    codes: int  # in the scratch: :func:`scratch_of_row` bytes a row
    steps: int  # see simd.steps_of_bytes
    operand: Operand  # with a scale and zero point per row, or one of each
    weight: ProductWeight  # with tiles of :func:`tile_weight`


def scratch_of_row(width: int, bits: int, words: bool) -> int:
    """Bytes of scratch a row: its unpacked codes, and their sum."""
    return width * 8 // bits * (2 if words else 1) + 8


read_product = reader(Product)


@instruction(Product)
def multiply(bits, words):
    """For activations of ``bits``, unpacked to bytes or words."""
    many = simd.tile_product(simd.ROWS, simd.BLOCKS, words)
    rest = simd.tile_product(simd.ROWS_OF_ONE, 1, words)
    code_bytes, inputs = (2, 2) if words else (1, 4)

    @kernel
    def product(first, count, f, base, codes, dst, stride):
        operand, weight = f.operand, f.weight
        room = operand.width * 8 // bits * code_bytes
        groups, blocks = (weight.inputs + inputs - 1) // inputs, (f.columns + 15) // 16
        tile = (count + _GROUP - 1) // _GROUP * _GROUP
        sums = simd.i64_at(codes + tile * room)
        for r in range(count):
            packed = simd.u8_at(base + operand.packed + (first + r) * operand.width)
            sums[r] = unpack_row(packed, operand.width, bits, words, simd.u8_at(codes + r * room))
        whole = blocks // simd.BLOCKS * simd.BLOCKS
        for block in range(0, whole, simd.BLOCKS):
            tiles = simd.i8_at(weight.codes + block * groups * 64)
            for r in range(0, tile, simd.ROWS):
                totals = simd.i32_at(dst + 4 * (r * stride + 16 * block))
                many(simd.u8_at(codes + r * room), room, tiles, groups, f.steps, totals, stride)
        for block in range(whole, blocks):
            tiles = simd.i8_at(weight.codes + block * groups * 64)
            for r in range(0, tile, simd.ROWS_OF_ONE):
                totals = simd.i32_at(dst + 4 * (r * stride + 16 * block))
                rest(simd.u8_at(codes + r * room), room, tiles, groups, f.steps, totals, stride)
        row_base = base * operand.per_row
        scale, zero = simd.f32_at(row_base + operand.scale), simd.f32_at(row_base + operand.zero)
        for r in range(count):
            at, row = (first + r) * operand.per_row, dst + 4 * r * stride
            numbers = scale[at], np.float64(zero[at]), sums[r]
            finish_row(simd.i32_at(row), f.columns, *numbers, weight, simd.f32_at(row))

    def run(at, start, count, base, stride):
        f = read_product(at)
        local, first = (base, 0) if f.operand.local != 0 else (0, start)
        product(first, count, f, local, base + f.codes, base + f.dst, stride)

    return run
