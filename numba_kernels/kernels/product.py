"""PRODUCT: packed activations times an integer weight."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import simd
from ..jit import kernel
from .fields import Operand, ProductWeight
from .instruction import instruction, reader
from .unpack import sum_row, unpack_row


def tile_weight(codes: np.ndarray) -> tuple[np.ndarray, int]:
    """Weight codes, (K, M) uint8, as int8 in the order :func:`multiply` reads them, and what was subtracted.

    Column blocks of 16; in each, groups of 4 inputs; in each, column by column the 4 of them: [M/16][K/4][16][4], with
    zeros where K or M end early. Codes that may exceed an int8 are moved by 128.
    """
    K, M = codes.shape
    moved, shift = move_to_int8(codes)
    groups, blocks = -(-K // 4), -(-M // 16)
    filled = np.zeros((groups * 4, blocks * 16), np.int8)
    filled[:K, :M] = moved
    tiles = filled.reshape(groups, 4, blocks, 16).transpose(2, 0, 3, 1)
    return np.ascontiguousarray(tiles).reshape(-1), shift


def move_to_int8(codes: np.ndarray) -> tuple[np.ndarray, int]:
    """Codes as int8, moved by 128 where they may exceed it, and by how much."""
    shift = 128 if codes.size and codes.max() > 127 else 0
    return (codes.astype(np.int16) - shift).astype(np.int8), shift


@kernel(inline=True)
def finish_lanes(totals, m, at, row_scale, row_zero, rest, weight, out):
    """Sixteen products as float32: (t − z_x Σ q_w − z_w (Σ q_x − K z_x)) · s_x · s_w, from column m on, at ``out[at]``.

    ``rest`` is Σ q_x − K z_x. What is subtracted is computed in float64, where it is exact.
    """
    lanes = simd.zeros_f32()
    t = simd.to_f64(totals)
    z, r = simd.fill(t, row_zero), simd.fill(t, rest)
    zeros, sums = simd.load(t, simd.f64_at(weight.zero), m), simd.load(t, simd.f64_at(weight.sums), m)
    moved = simd.add(simd.multiply(z, sums), simd.multiply(zeros, r))
    y = simd.multiply(simd.to_f32(simd.subtract(t, moved)), simd.fill(lanes, row_scale))
    simd.store(simd.multiply(y, simd.load(lanes, simd.f32_at(weight.scale), m)), out, at)


@kernel(inline=True)
def finish_four(t0, t1, t2, t3, m, at, row_scale, row_zero, rest, weight, out):
    """As :func:`finish_lanes`, four neighbours."""
    finish_lanes(t0, m, at, row_scale, row_zero, rest, weight, out)
    finish_lanes(t1, m + 16, at + 16, row_scale, row_zero, rest, weight, out)
    finish_lanes(t2, m + 32, at + 32, row_scale, row_zero, rest, weight, out)
    finish_lanes(t3, m + 48, at + 48, row_scale, row_zero, rest, weight, out)


@kernel
def multiply_wide(x, room, tiles, groups, block, scales, zeros, rests, weight, out, stride):
    """Four rows, ``room`` bytes apart, times four blocks of columns: sixteen vectors of totals stay in registers."""
    z = simd.zeros_i32()
    a0, a1, a2, a3, b0, b1, b2, b3 = z, z, z, z, z, z, z, z
    c0, c1, c2, c3, d0, d1, d2, d3 = z, z, z, z, z, z, z, z
    step = groups * 64
    w0 = block * step
    w1, w2, w3 = w0 + step, w0 + 2 * step, w0 + 3 * step
    x1, x2, x3 = room, 2 * room, 3 * room
    for group in range(groups):
        k, w = 4 * group, 64 * group
        a0 = simd.dot4(a0, x, k, tiles, w0 + w)
        a1 = simd.dot4(a1, x, k, tiles, w1 + w)
        a2 = simd.dot4(a2, x, k, tiles, w2 + w)
        a3 = simd.dot4(a3, x, k, tiles, w3 + w)
        b0 = simd.dot4(b0, x, k + x1, tiles, w0 + w)
        b1 = simd.dot4(b1, x, k + x1, tiles, w1 + w)
        b2 = simd.dot4(b2, x, k + x1, tiles, w2 + w)
        b3 = simd.dot4(b3, x, k + x1, tiles, w3 + w)
        c0 = simd.dot4(c0, x, k + x2, tiles, w0 + w)
        c1 = simd.dot4(c1, x, k + x2, tiles, w1 + w)
        c2 = simd.dot4(c2, x, k + x2, tiles, w2 + w)
        c3 = simd.dot4(c3, x, k + x2, tiles, w3 + w)
        d0 = simd.dot4(d0, x, k + x3, tiles, w0 + w)
        d1 = simd.dot4(d1, x, k + x3, tiles, w1 + w)
        d2 = simd.dot4(d2, x, k + x3, tiles, w2 + w)
        d3 = simd.dot4(d3, x, k + x3, tiles, w3 + w)
    m = block * 16
    finish_four(a0, a1, a2, a3, m, m, scales[0], zeros[0], rests[0], weight, out)
    finish_four(b0, b1, b2, b3, m, m + stride, scales[1], zeros[1], rests[1], weight, out)
    finish_four(c0, c1, c2, c3, m, m + 2 * stride, scales[2], zeros[2], rests[2], weight, out)
    finish_four(d0, d1, d2, d3, m, m + 3 * stride, scales[3], zeros[3], rests[3], weight, out)


@kernel
def multiply_narrow(x, room, tiles, groups, block, scales, zeros, rests, weight, out, stride):
    """Eight rows times one block of columns."""
    z = simd.zeros_i32()
    t0, t1, t2, t3, t4, t5, t6, t7 = z, z, z, z, z, z, z, z
    w = block * groups * 64
    for k in range(0, 4 * groups, 4):
        t0 = simd.dot4(t0, x, k, tiles, w)
        t1 = simd.dot4(t1, x, k + room, tiles, w)
        t2 = simd.dot4(t2, x, k + 2 * room, tiles, w)
        t3 = simd.dot4(t3, x, k + 3 * room, tiles, w)
        t4 = simd.dot4(t4, x, k + 4 * room, tiles, w)
        t5 = simd.dot4(t5, x, k + 5 * room, tiles, w)
        t6 = simd.dot4(t6, x, k + 6 * room, tiles, w)
        t7 = simd.dot4(t7, x, k + 7 * room, tiles, w)
        w += 64
    m = block * 16
    finish_lanes(t0, m, m, scales[0], zeros[0], rests[0], weight, out)
    finish_lanes(t1, m, m + stride, scales[1], zeros[1], rests[1], weight, out)
    finish_lanes(t2, m, m + 2 * stride, scales[2], zeros[2], rests[2], weight, out)
    finish_lanes(t3, m, m + 3 * stride, scales[3], zeros[3], rests[3], weight, out)
    finish_lanes(t4, m, m + 4 * stride, scales[4], zeros[4], rests[4], weight, out)
    finish_lanes(t5, m, m + 5 * stride, scales[5], zeros[5], rests[5], weight, out)
    finish_lanes(t6, m, m + 6 * stride, scales[6], zeros[6], rests[6], weight, out)
    finish_lanes(t7, m, m + 7 * stride, scales[7], zeros[7], rests[7], weight, out)


@kernel
def product(first, count, operand, weight, columns, base, codes, out, stride):
    """Rows of (q_x − z_x) @ (q_w − z_w) · s_x · s_w, for ``count`` rows from ``first`` on of packed codes.

    Parameters
    ----------
    operand : Operand
        With a scale and zero point per row, or one of each.
    weight : ProductWeight
        With tiles of :func:`tile_weight`.
    base : int
        Added to the operand's addresses.
    codes : int
        Address of scratch: the unpacked codes of a tile, then three numbers a row.
    out, stride
        float32 rows of a tile, written; a tile is whole groups of eight rows, and those beyond ``count`` are not
        meaningful.
    """
    room = operand.width * 8 // operand.bits
    groups, blocks = (weight.inputs + 3) // 4, (columns + 15) // 16
    tile = (count + 7) // 8 * 8
    scales = codes + tile * room
    scale, zero, rest = simd.f32_at(scales), simd.f64_at(scales + 8 * tile), simd.f64_at(scales + 16 * tile)
    row_base = base * operand.per_row
    row_scale, row_zero = simd.f32_at(row_base + operand.scale), simd.f32_at(row_base + operand.zero)
    for r in range(tile):
        scale[r], zero[r], rest[r] = np.float32(0.0), 0.0, 0.0
    for r in range(count):
        packed = simd.u8_at(base + operand.packed + (first + r) * operand.width)
        unpacked = simd.u8_at(codes + r * room)
        unpack_row(packed, operand.width, operand.bits, unpacked)
        at = (first + r) * operand.per_row
        scale[r], zero[r] = row_scale[at], np.float64(row_zero[at])
        rest[r] = np.float64(sum_row(unpacked, room)) - np.float64(weight.inputs) * zero[r]
    tiles = simd.i8_at(weight.codes)
    block = 0
    while block + 4 <= blocks:
        for r in range(0, tile, 4):
            multiply_wide(
                simd.u8_at(codes + r * room), room, tiles, groups, block, simd.f32_at(scales + 4 * r),
                simd.f64_at(scales + 8 * (tile + r)), simd.f64_at(scales + 8 * (2 * tile + r)),
                weight, simd.f32_at(out + 4 * r * stride), stride,
            )  # fmt: skip
        block += 4
    while block < blocks:
        for r in range(0, tile, 8):
            multiply_narrow(
                simd.u8_at(codes + r * room), room, tiles, groups, block, simd.f32_at(scales + 4 * r),
                simd.f64_at(scales + 8 * (tile + r)), simd.f64_at(scales + 8 * (2 * tile + r)),
                weight, simd.f32_at(out + 4 * r * stride), stride,
            )  # fmt: skip
        block += 1


class Product(NamedTuple):
    """dst ← packed codes of the row · weight."""

    dst: int  # in the scratch
    columns: int
    codes: int  # in the scratch: the unpacked codes of a tile, then three numbers a row
    operand: Operand
    weight: ProductWeight


read_product = reader(Product)


@instruction(Product)
def multiply():
    def run(at, start, count, base, stride):
        f = read_product(at)
        local, first = (base, 0) if f.operand.local != 0 else (0, start)
        product(first, count, f.operand, f.weight, f.columns, local, base + f.codes, base + f.dst, stride)

    return run
