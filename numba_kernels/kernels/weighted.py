"""Sums of packed messages times weights of edges or of nodes: int8, in integers, or float32."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np

from .. import simd
from ..jit import kernel
from ..layout import PACKED_BITS
from .fields import Edges, Operand
from .instruction import instruction, reader
from .planes import by_edge
from .quads import VARIANTS, weighing
from .sums import center, clear, summing


class GatherProducts(NamedTuple):
    """dst ← Σ_u w_iu (q_u − z) · s over the in-neighbours u of row i, w int8, plus its own code if there is one."""

    dst: int  # in the scratch
    columns: int
    totals: int  # in the scratch: int32, for the codes of a packed row and AHEAD + 1 numbers more
    operand: Operand
    edges: Edges
    weights: int  # int8, in the order of indices, or of the source nodes
    own: int  # packed codes of the rows themselves, added once
    own_weights: int  # int8, with weights of nodes those of the rows themselves
    words: int  # in the scratch: EDGES bytes, and int32 for the codes of a packed row


class GatherFloats(NamedTuple):
    """dst ← the same with float32 weights, summed in float32 in the order of the edges."""

    dst: int  # in the scratch
    columns: int
    totals: int  # in the scratch
    operand: Operand
    edges: Edges
    exact: int  # as of Gather
    weights: int  # float32, in the order of indices
    own: int  # packed codes of the rows themselves, added once, or 0


# Edges whose weights are collected before their rows are read.
EDGES = 256

read_products, read_floats = reader(GatherProducts), reader(GatherFloats)


@kernel
def collect(weights, ids, by_node, first, last, bytes_):
    """bytes_ ← int8 weights of the edges from ``first`` to below ``last``, then zeros to whole quads; their sum."""
    total = np.int64(0)
    for e in range(first, last):
        weight = weights[ids[e] if by_node else e]
        bytes_[e - first] = weight
        total += np.int64(weight)
    for n in range(last - first, (last - first + 3) // 4 * 4):
        bytes_[n] = np.int8(0)
    return total


@kernel
def from_zero(given, c):
    zero, scale, _ = given
    s = simd.zeros_f32()
    return s, (simd.load(s, zero, c), simd.load(s, scale, c))


@kernel
def take_weighted(value, codes, held, given, e, place):
    return simd.multiply_add(
        simd.subtract(simd.to_f32(codes), held[0]), simd.fill(value, np.float32(given[2][e])), value
    )


@kernel
def add_scaled(value, held, row, c):
    simd.store(simd.multiply_add(value, held[1], simd.load(value, row, c)), row, c)


# row += scale · Σ weight · (code − zero) over the edges, in float32, in their order.
add_weighted = by_edge(from_zero, take_weighted, add_scaled)


@instruction(
    GatherProducts, ((*variant, *more) for variant in VARIANTS for more in product((False, True), (False, True)))
)
def gather_products(bits, lanes, by_node, has_own):
    """A variant a width of codes, bytes at a time, for weights of nodes or of edges, with or without own codes."""
    codes_a_byte, add_rows = 8 // bits, weighing(bits, lanes, is_signed=True, is_aligned=True)

    def run(at, start, count, base, stride):
        f = read_products(at)
        width, packed, own = f.operand.width, simd.u8_at(f.operand.packed), simd.u8_at(f.own)
        scale, zero, totals = simd.f32_at(f.operand.scale), simd.f32_at(f.operand.zero), simd.i32_at(base + f.totals)
        indptr, indices, room = simd.i64_at(f.edges.indptr), simd.i32_at(f.edges.indices), width * codes_a_byte
        weights, own_weights, own_ids = simd.i8_at(f.weights), simd.i8_at(f.own_weights), base + f.totals + 4 * room
        words, bytes_ = simd.i32_at(base + f.words), simd.i8_at(base + f.words)
        for r in range(count):
            i, row = start + r, simd.f32_at(base + f.dst + 4 * r * stride)
            begin, end, summed = indptr[i], indptr[i + 1], np.int64(0)
            clear(totals, room)
            simd.store(simd.fill(simd.zeros_i32(), i), simd.i32_at(own_ids), 0)
            parts = (end - begin + EDGES - 1) // EDGES
            for part in range(parts + 1 if has_own else parts):
                is_own = part == parts
                rows, ids = own if is_own else packed, simd.i32_at(own_ids) if is_own else indices
                first = 0 if is_own else begin + part * EDGES
                last = 1 if is_own else min(first + EDGES, end)
                if is_own and not by_node:
                    words[0] = np.int32(1)
                    summed += 1
                else:
                    of = own_weights if is_own else weights
                    summed += collect(of, ids, by_node, first, last, bytes_)
                quads = (last - first + 3) // 4
                add_rows(rows, width, f.columns, f.columns, ids, first, quads, words, 1, totals)
            # Signed weights may cancel, so that their sum bounds nothing: float64 throughout.
            center(totals, summed, -1, zero, scale, f.columns, row)

    return run


@instruction(GatherFloats, [(bits,) for bits in PACKED_BITS])
def gather_floats(bits):
    codes_a_byte, add_own = 8 // bits, summing(bits, 16)

    def run(at, start, count, base, stride):
        f = read_floats(at)
        width, packed, own = f.operand.width, simd.u8_at(f.operand.packed), simd.u8_at(f.own)
        scale, zero, totals = simd.f32_at(f.operand.scale), simd.f32_at(f.operand.zero), simd.i32_at(base + f.totals)
        indptr, indices, room = simd.i64_at(f.edges.indptr), simd.i32_at(f.edges.indices), width * codes_a_byte
        weights = simd.f32_at(f.weights)
        for r in range(count):
            i, row = start + r, simd.f32_at(base + f.dst + 4 * r * stride)
            clear(totals, room)
            summed = np.int64(0)
            if f.own != 0:
                totals[room] = np.int32(i)
                add_own(own, width, totals, room, room + 1, False, totals)
                summed += 1
            center(totals, summed, f.exact, zero, scale, f.columns, row)
            begin, end = indptr[i], indptr[i + 1]
            add_weighted(packed, width, bits, indices, begin, end, f.columns, (zero, scale, weights), row)

    return run
