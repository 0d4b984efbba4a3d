"""NEAREST: of packed rows those that have the largest products with queries."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import simd
from ..jit import kernel
from ..layout import PACKED_BITS
from .instruction import instruction, reader
from .unpack import unpacking

# What a threshold is before there are as many rows as are wanted; finite, so that differences are.
LEAST = np.float32(-3e38)
_GROUP = 8


class Nearest(NamedTuple):
    """Keep the ``k`` rows of each query with the largest scores, of equal ones those that come first.

    A row's score is m · (Σ_j q_j v_j − z V − Z), in float64, of its codes q. First an estimate of it is made of
    weights w, int8, that stand for v: m · (Σ q_j w_j + c Σ q_j − z V' + D), in float32, in the query's own unit; D has
    what bounds the error, so that rows whose estimates are not above the query's threshold need not be looked at.
    """

    packed: int
    width: int
    depth: int  # codes of a row
    scale: int
    zero: int  # float32, of rows or columns
    per_row: int
    norms: int  # (rows,) float32, 1 / ‖row‖, for cosines; 0 for inner products
    codes: int  # in the scratch: the unpacked codes of a tile, then their sums, 8 bytes a row
    room: int  # bytes of a row's unpacked codes; one by one, of a row, or of as many as 64 bytes hold
    totals: int  # in the scratch: int32 of a tile's rows and as many queries as are multiplied at once
    groups: int  # steps of a product, see simd.products
    steps: int
    queries: int
    lanes: int  # queries, padded to what is multiplied at once
    weights: int  # int8: tiles of :func:`numba_kernels.kernels.product.tile_weight`, or, one by one, planes of ``room``
    numbers: int  # (3, lanes) float32: c, D, V'
    exact: int  # (queries, depth) float64: v
    moved: int  # (3, queries) float64: V, Z, one over the query's unit
    k: int
    block_rows: int  # rows that share what is kept
    thresholds: int  # (blocks, lanes) float32
    scores: int  # (blocks, queries, k) float64, heaps with the worst first
    rows: int  # (blocks, queries, k) int64


read = reader(Nearest)
_FORMS = [(bits, form) for bits in PACKED_BITS for form in ("one", simd.form_of(bits, 255, 256, 256)[0])]
VARIANTS = sorted({*_FORMS, (2, simd.form_of(2, 3, 256, 256)[0])})


@kernel
def is_worse(score, row, other_score, other_row):
    """Whether a row comes after another."""
    return (score < other_score) | ((score == other_score) & (row > other_row))


@kernel
def replace_worst(scores, rows, first, k, score, row):
    """Put a row in the place of the first of a heap, the worst."""
    at, child = 0, 1
    while child < k:
        other = child + 1
        if other < k and is_worse(
            scores[first + other], rows[first + other], scores[first + child], rows[first + child]
        ):
            child = other
        if not is_worse(scores[first + child], rows[first + child], score, row):
            break
        scores[first + at], rows[first + at] = scores[first + child], rows[first + child]
        at, child = child, 2 * child + 1
    scores[first + at], rows[first + at] = score, row


def _looking_at(bits):
    """The function that finds a row's score for a query, and keeps the row if it is among the best."""
    top = (1 << bits) - 1

    @kernel
    def look_at(f, row, query, block):
        packed, exact = simd.u8_at(f.packed + row * f.width), simd.f64_at(f.exact + 8 * query * f.depth)
        scale, zero, moved = simd.f32_at(f.scale), simd.f32_at(f.zero), simd.f64_at(f.moved)
        total, squares, place, plane = 0.0, 0.0, 0, 0
        for j in range(f.depth):
            code = np.float64((np.int64(packed[place]) >> plane) & top)
            total += code * exact[j]
            if f.norms != 0:
                at = row if f.per_row else j
                value = np.float64(scale[at]) * (code - np.float64(zero[at]))
                squares += value * value
            place += 1
            if place == f.width:
                place, plane = 0, plane + bits
        score = total - moved[f.queries + query]
        if f.per_row:
            score = (score - np.float64(zero[row]) * moved[query]) * np.float64(scale[row])
        if f.norms != 0:
            score = score / np.sqrt(squares) if squares > 0.0 else 0.0
        scores, rows = simd.f64_at(f.scores), simd.i64_at(f.rows)
        first = (block * f.queries + query) * f.k
        if score > scores[first]:
            replace_worst(scores, rows, first, f.k, score, row)
            worst = scores[first] * moved[2 * f.queries + query]
            if worst > LEAST:
                simd.f32_at(f.thresholds)[block * f.lanes + query] = np.float32(worst)

    return look_at


@kernel
def numbers_of(f, row):
    """Zero point and factor of a row."""
    z = simd.f32_at(f.zero)[row] if f.per_row else np.float32(0)
    m = simd.f32_at(f.scale)[row] if f.per_row else np.float32(1)
    return z, m * simd.f32_at(f.norms)[row] if f.norms != 0 else m


@kernel
def lanes_above(value, least):
    """The lanes of ``value`` that are above those of ``least``, as bits."""
    return simd.nonzero_lanes(simd.magnitude_bits(simd.subtract(simd.maximum(value, least), least)))


def _one_by_one(bits):
    """The instruction for few queries: packed rows meet one after another, and are not written unpacked."""
    look_at, top, dot = _looking_at(bits), (1 << bits) - 1, simd.dot_quads if bits == 8 else simd.dot_small_quads

    @kernel
    def add_rows(f, row, query, t):
        """Lanes of products of as many rows as 64 bytes hold, from ``row`` on, or of a part of one."""
        none, planes = simd.zeros64(), 8 // bits
        x, w = simd.u8_at(f.packed + row * f.width), simd.i8_at(f.weights + query * planes * f.room)
        for part in range(0, f.room, 64):
            bytes_ = simd.load(none, x, part)
            for plane in range(planes):
                code = bytes_ if bits == 8 else simd.bits_and(simd.shift_right(bytes_, plane * bits), top)
                t = dot(t, code, simd.load(none, w, plane * f.room + part))
        return t

    @kernel
    def multiply_one(f, start, count, query, totals):
        """The products of a query and a tile of rows."""
        none, r = simd.zeros_i32(), 0
        if f.width == 16:
            while r + 4 <= count:
                simd.store(simd.add_pairs(simd.add_pairs(add_rows(f, start + r, query, none))), totals, r)
                r += 4
        elif f.width == 32:
            while r + 2 <= count:
                t = simd.add_pairs(simd.add_pairs(add_rows(f, start + r, query, none)))
                simd.store(simd.add_pairs(t), totals, r)
                r += 2
        else:
            while r < count:
                totals[r] = simd.total(add_rows(f, start + r, query, none))
                r += 1
        w = simd.i8_at(f.weights + query * (8 // bits) * f.room)
        while r < count:  # fewer rows than 64 bytes hold: nothing is read behind them
            packed, t = simd.u8_at(f.packed + (start + r) * f.width), 0
            for plane in range(8 // bits):
                for j in range(f.width):
                    t += ((np.int64(packed[j]) >> (plane * bits)) & top) * np.int64(w[plane * f.room + j])
            totals[r] = t
            r += 1

    @kernel
    def one_by_one(f, start, count, totals, block):
        none, floats, numbers = simd.zeros_i32(), simd.zeros_f32(), simd.f32_at(f.numbers)
        thresholds = simd.f32_at(f.thresholds + 4 * block * f.lanes)
        zeros, scales, norms = simd.f32_at(f.zero), simd.f32_at(f.scale), simd.f32_at(f.norms)
        for query in range(f.queries):
            d, v, whole = numbers[f.lanes + query], numbers[2 * f.lanes + query], count // 16 * 16
            multiply_one(f, start, count, query, totals)
            for r in range(0, whole, 16):
                value = simd.add(simd.to_f32(simd.load(none, totals, r)), simd.fill(floats, d))
                if f.per_row:
                    moved = simd.multiply(simd.load(floats, zeros, start + r), simd.fill(floats, v))
                    value = simd.multiply(simd.subtract(value, moved), simd.load(floats, scales, start + r))
                if f.norms != 0:
                    value = simd.multiply(value, simd.load(floats, norms, start + r))
                above = lanes_above(value, simd.fill(floats, thresholds[query]))
                while above != 0:
                    look_at(f, start + r + simd.trailing_zeros(above), query, block)
                    above &= above - 1
            for r in range(whole, count):
                z, m = numbers_of(f, start + r)
                if (np.float32(totals[r]) + d - z * v) * m > thresholds[query]:
                    look_at(f, start + r, query, block)

    def run(at, start, count, base, stride):
        f = read(at)
        one_by_one(f, start, count, simd.i32_at(base + f.totals), start // f.block_rows)

    return run


def _together(bits, form):
    """The instruction for many queries: a tile of rows is unpacked, and multiplied by blocks of them."""
    look_at, shape, unpack = _looking_at(bits), simd.FORMS[form], unpacking(bits, form)
    many, one = simd.tile_product(form, shape.rows, shape.blocks), simd.tile_product(form, shape.rows_of_one, 1)

    @kernel
    def sift(f, start, count, sums, totals, stride, first, block):
        """Look at the rows whose estimates, for queries from ``first`` on, are above thresholds."""
        none, floats, at = simd.zeros_i32(), simd.zeros_f32(), f.numbers + 4 * first
        c, d, v = simd.f32_at(at), simd.f32_at(at + 4 * f.lanes), simd.f32_at(at + 8 * f.lanes)
        thresholds = simd.f32_at(f.thresholds + 4 * (block * f.lanes + first))
        for r in range(count):
            z, m = numbers_of(f, start + r)
            row_sum = simd.fill(floats, np.float32(sums[r]))
            zero, factor = simd.fill(floats, -z), simd.fill(floats, m)
            t = simd.i32_at(totals + 4 * r * stride)
            for q in range(0, stride, 16):
                value = simd.to_f32(simd.load(none, t, q))
                value = simd.multiply_add(simd.load(floats, c, q), row_sum, value)
                moved = simd.multiply_add(zero, simd.load(floats, v, q), simd.load(floats, d, q))
                value = simd.multiply(simd.add(value, moved), factor)
                above = lanes_above(value, simd.load(floats, thresholds, q))
                while above != 0:
                    query = first + q + simd.trailing_zeros(above)
                    if query < f.queries:
                        look_at(f, start + r, query, block)
                    above &= above - 1

    @kernel
    def together(f, start, count, codes, sums, totals, block):
        tile, blocks = (count + _GROUP - 1) // _GROUP * _GROUP, f.lanes // shape.columns
        block_bytes = f.groups * shape.block_bytes
        whole = blocks // shape.blocks * shape.blocks
        for part in range(0, whole, shape.blocks):
            tiles, stride = simd.i8_at(f.weights + part * block_bytes), shape.columns * shape.blocks
            for r in range(0, tile, shape.rows):
                out = simd.i32_at(totals + 4 * r * stride)
                many(simd.u8_at(codes + r * f.room), f.room, tiles, f.groups, f.steps, out, stride)
            sift(f, start, count, sums, totals, stride, shape.columns * part, block)
        for part in range(whole, blocks):
            tiles, stride = simd.i8_at(f.weights + part * block_bytes), shape.columns
            for r in range(0, tile, shape.rows_of_one):
                out = simd.i32_at(totals + 4 * r * stride)
                one(simd.u8_at(codes + r * f.room), f.room, tiles, f.groups, f.steps, out, stride)
            sift(f, start, count, sums, totals, stride, shape.columns * part, block)

    def run(at, start, count, base, stride):
        f, tile = read(at), (count + _GROUP - 1) // _GROUP * _GROUP
        codes = base + f.codes
        sums = simd.i64_at(codes + tile * f.room)
        for r in range(count):
            sums[r] = unpack(simd.u8_at(f.packed + (start + r) * f.width), f.width, simd.u8_at(codes + r * f.room))
        together(f, start, count, codes, sums, base + f.totals, start // f.block_rows)

    return run


@instruction(Nearest, VARIANTS)
def nearest(bits, form):
    """A variant a width of codes and form of products; "one" is for few queries, one after another."""
    return _one_by_one(bits) if form == "one" else _together(bits, form)
