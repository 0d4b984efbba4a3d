"""PRODUCT: packed activations times an integer weight."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import simd
from ..jit import kernel
from ..layout import PACKED_BITS, row_bytes
from .fields import Finishing, FixedProduct, Operand, ProductWeight
from .finish import finished
from .fixed import dropped_bits, finish_fixed
from .instruction import instruction, reader
from .rows import factor_of
from .unpack import unpacking

# A tile of rows is whole groups of these.
_GROUP = 8


def center_codes(codes: np.ndarray) -> tuple[np.ndarray, int]:
    """Weight codes, uint8, as int8, and what was subtracted: they become about as far below 0 as above."""
    middle = (int(codes.max(initial=0)) + 1) // 2
    return (codes.astype(np.int16) - middle).astype(np.int8), middle


def tile_weight(codes: np.ndarray, form: str) -> np.ndarray:
    """Weight codes, (K, M) int8, in the order in which products of a ``form`` read them.

    Column blocks; in each, steps; in each, column by column the inputs of a step: (M/16, K/4, 16, 4) int8, as words
    (M/16, K/2, 16, 2) int16, with zeros where K or M end early. Pairs, (M/32, 2W, 32) uint8, are those of rows of 2-bit
    codes packed to W bytes: of inputs j and W + j, then of 2W + j and 3W + j; columns stand as 0, 16, 1, 17, …, 31.
    See :mod:`numba_kernels.simd.products`.
    """
    K, M = codes.shape
    inputs, dtype = (2, np.int16) if form == "words" else (4, np.int8)
    groups = row_bytes(K, bits=2) if form == "pairs" else -(-K // inputs)
    blocks = -(-M // simd.FORMS[form].columns)
    filled = np.zeros((groups * inputs, blocks * simd.FORMS[form].columns), dtype)
    filled[:K, :M] = codes
    if form != "pairs":
        return np.ascontiguousarray(filled.reshape(groups, inputs, blocks, 16).transpose(2, 0, 3, 1))
    first, second = filled.reshape(2, 2, groups, -1).transpose(1, 0, 2, 3) + 2
    pairs = (first + 4 * second).astype(np.uint8).reshape(2 * groups, blocks, 2, 16)
    return np.ascontiguousarray(pairs.transpose(1, 0, 3, 2)).reshape(blocks, 2 * groups, 32)


@kernel
def finish_row(totals, columns, row_scale, row_zero, row_sum, weight, factor, finishing, out):
    """A row of products as float32: (t − z_x Σ q_w − z_w (Σ q_x − K z_x)) · s_x · s_w.

    Until it is rounded to float32 it is exact: in int32, as multiples of ¼, where zero points are multiples of ½, one
    for all columns, and nothing overflows, else in float64.

    Parameters
    ----------
    totals : (columns,) int32
        t = Σ q_x q_w; may stand where ``out`` does.
    row_scale, row_zero, row_sum
        s_x, z_x and Σ q_x, float32, float64 and int64.
    weight : ProductWeight
    factor, finishing
        What becomes of the numbers, the row's factor and the rest of it.
    out : (columns,) float32
        Written, up to the next multiple of 16.
    """
    lanes, none = simd.zeros_f32(), simd.zeros_i32()
    scale, s = simd.f32_at(weight.scale), simd.fill(lanes, row_scale)
    twice = np.int64(row_zero + row_zero) if abs(row_zero) <= 255.0 else np.int64(0)
    if weight.twice_sums != 0 and np.float64(twice) == row_zero + row_zero:
        sums, z = simd.i32_at(weight.twice_sums), simd.fill(none, twice)
        rest = simd.fill(none, weight.twice_zero * (2 * row_sum - weight.inputs * twice))
        quarter = simd.fill(lanes, np.float32(0.25))
        for m in range(0, columns, 16):
            t = simd.subtract(simd.shift_left(simd.load(none, totals, m), 2), rest)
            t = simd.subtract(t, simd.multiply(z, simd.load(none, sums, m)))
            y = simd.multiply(simd.multiply(simd.to_f32(t), quarter), s)
            y = simd.multiply(y, simd.load(lanes, scale, m))
            if finishing.bias != 0:
                y = finished(y, m, factor, finishing)
            simd.store(y, out, m)
    else:
        zeros, sums, wide = simd.f64_at(weight.zero), simd.f64_at(weight.sums), simd.to_f64(lanes)
        z = simd.fill(wide, row_zero)
        r = simd.fill(wide, np.float64(row_sum) - np.float64(weight.inputs) * row_zero)
        for m in range(0, columns, 16):
            t = simd.to_f64(simd.load(none, totals, m))
            moved = simd.multiply(z, simd.load(wide, sums, m))
            moved = simd.add(moved, simd.multiply(simd.load(wide, zeros, m), r))
            y = simd.multiply(simd.to_f32(simd.subtract(t, moved)), s)
            y = simd.multiply(y, simd.load(lanes, scale, m))
            if finishing.bias != 0:
                y = finished(y, m, factor, finishing)
            simd.store(y, out, m)


class Product(NamedTuple):
    """dst ← packed codes of the row · weight."""

    dst: int  # in the scratch; rows up to a whole group of 8 are written, and whole blocks of columns
    columns: int
    codes: int  # in the scratch: the unpacked codes of a tile, then their sums, 8 bytes a row
    room: int  # bytes of a row's unpacked codes
    groups: int  # steps of a product, see simd.products
    steps: int
    operand: Operand  # with a scale and zero point per row, or one of each
    weight: ProductWeight  # with tiles of :func:`tile_weight`
    finishing: Finishing


class ProductFixed(NamedTuple):
    """dst ← the same as fixed-point numbers."""

    dst: int  # as those of Product
    columns: int
    codes: int
    room: int
    groups: int
    steps: int
    operand: Operand
    weight: ProductWeight
    fixed: FixedProduct


read_product, read_fixed = reader(Product), reader(ProductFixed)


# Of activations and weights of all widths, wide enough.
_VARIANTS = {(bits, simd.form_of(bits, top, 256, 256)[0]) for bits in PACKED_BITS for top in (1, 3, 15, 255)}


def _sums_of_products(bits, form):
    """The function that writes int32 sums Σ q_x q_w of a tile to slots, and returns a pointer to Σ q_x of its rows."""
    shape, unpack = simd.FORMS[form], unpacking(bits, form)
    many, one = simd.tile_product(form, shape.rows, shape.blocks), simd.tile_product(form, shape.rows_of_one, 1)

    @kernel
    def product(first, count, f, base, codes, dst, stride):
        operand, weight, room, block_bytes = f.operand, f.weight, f.room, f.groups * shape.block_bytes
        tile = (count + _GROUP - 1) // _GROUP * _GROUP
        sums = simd.i64_at(codes + tile * room)
        for r in range(count):
            packed = simd.u8_at(base + operand.packed + (first + r) * operand.width)
            sums[r] = unpack(packed, operand.width, simd.u8_at(codes + r * room))
        blocks = (f.columns + shape.columns - 1) // shape.columns
        whole = blocks // shape.blocks * shape.blocks
        for block in range(0, whole, shape.blocks):
            tiles = simd.i8_at(weight.codes + block * block_bytes)
            for r in range(0, tile, shape.rows):
                totals = simd.i32_at(dst + 4 * (r * stride + shape.columns * block))
                many(simd.u8_at(codes + r * room), room, tiles, f.groups, f.steps, totals, stride)
        for block in range(whole, blocks):
            tiles = simd.i8_at(weight.codes + block * block_bytes)
            for r in range(0, tile, shape.rows_of_one):
                totals = simd.i32_at(dst + 4 * (r * stride + shape.columns * block))
                one(simd.u8_at(codes + r * room), room, tiles, f.groups, f.steps, totals, stride)
        return sums

    return product


@instruction(Product, sorted(_VARIANTS))
def multiply(bits, form):
    """A variant a width of activations and form of products."""
    product = _sums_of_products(bits, form)

    def run(at, start, count, base, stride):
        f = read_product(at)
        local, first = (base, 0) if f.operand.local != 0 else (0, start)
        sums = product(first, count, f, local, base + f.codes, base + f.dst, stride)
        row_base = local * f.operand.per_row
        scale, zero = simd.f32_at(row_base + f.operand.scale), simd.f32_at(row_base + f.operand.zero)
        for r in range(count):
            at_row, row = (first + r) * f.operand.per_row, base + f.dst + 4 * r * stride
            numbers, factor = (
                (scale[at_row], np.float64(zero[at_row]), sums[r]),
                factor_of(f.finishing.factor, start + r),
            )
            finish_row(simd.i32_at(row), f.columns, *numbers, f.weight, factor, f.finishing, simd.f32_at(row))

    return run


@instruction(ProductFixed, sorted(_VARIANTS))
def multiply_fixed(bits, form):
    product = _sums_of_products(bits, form)

    def run(at, start, count, base, stride):
        f = read_fixed(at)
        local, first = (base, 0) if f.operand.local != 0 else (0, start)
        sums = product(first, count, f, local, base + f.codes, base + f.dst, stride)
        inputs, zero, dropped = f.weight.inputs, f.fixed.twice_zero, dropped_bits(f.fixed.multiplied, f.weight.inputs)
        for r in range(count):
            row = base + f.dst + 4 * r * stride
            finish_fixed(simd.i32_at(row), f.columns, sums[r], inputs, zero, f.fixed, dropped, simd.f32_at(row))

    return run
