"""LARGEST, LARGEST_WEIGHTED: the largest message of the in-neighbours; GATHER_EDGES: sums with codes of edges."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import simd
from ..jit import kernel
from ..layout import PACKED_BITS
from .fields import Edges, Operand
from .instruction import instruction, reader
from .sums import center, clear


class Largest(NamedTuple):
    """dst ← max (q_u − z) · s over the in-neighbours u of row i, 0 where there are none."""

    dst: int  # in the scratch
    columns: int
    totals: int  # in the scratch: int32, for the codes of a packed row
    operand: Operand
    edges: Edges


class LargestWeighted(NamedTuple):
    """dst ← max w_iu ((q_u − z) · s) over the in-neighbours u of row i, 0 where there are none."""

    dst: int  # in the scratch
    columns: int
    totals: int  # in the scratch
    operand: Operand
    edges: Edges
    weights: int  # float32, in the order of indices


class GatherEdges(NamedTuple):
    """dst ← Σ max(code of the source + code of the edge − 2 · zero, 0) · s over the in-edges of row i."""

    dst: int  # in the scratch
    columns: int
    totals: int  # in the scratch: int32, for the codes of a packed row
    operand: Operand
    edges: Edges
    edge_packed: int  # packed codes of edges, of as many bits and bytes a row
    edge_ids: int  # (E,) int64: the row of each edge there, or 0 for their order


read_largest, read_weighted, read_edges = reader(Largest), reader(LargestWeighted), reader(GatherEdges)


@kernel
def largest_codes(packed, width, bits, indices, start, stop, columns, totals):
    """totals ← the largest of the codes of the packed rows that indices[start:stop] names, column by column."""
    none = simd.zeros16()
    top = (1 << bits) - 1
    for column in range(0, width, 16):
        bit = 0
        c = column
        while c < columns:
            s = simd.zeros_i32()
            for e in range(start, stop):
                x = simd.to_i32(simd.load(none, packed, np.int64(indices[e]) * width + column))
                s = simd.maximum(s, simd.bits_and(simd.shift_right(x, bit), top))
            simd.store(s, totals, c)
            bit += bits
            c += width


@kernel
def largest_weighted_values(packed, width, bits, zero, scale, indices, weights, start, stop, columns, row):
    """row ← the largest of weight · ((code − zero) · scale) over the edges, of which there is one."""
    none = simd.zeros16()
    top = (1 << bits) - 1
    for column in range(0, width, 16):
        bit = 0
        c = column
        while c < columns:
            z, size = simd.load(simd.zeros_f32(), zero, c), simd.load(simd.zeros_f32(), scale, c)
            s = simd.fill(z, np.float32(-np.inf))
            for e in range(start, stop):
                x = simd.to_i32(simd.load(none, packed, np.int64(indices[e]) * width + column))
                x = simd.subtract(simd.to_f32(simd.bits_and(simd.shift_right(x, bit), top)), z)
                x = simd.multiply(simd.multiply(x, size), simd.fill(s, np.float32(weights[e])))
                s = simd.maximum(s, x)
            simd.store(s, row, c)
            bit += bits
            c += width


@kernel
def sum_edges(packed, width, bits, zero, indices, edge_packed, edge_ids, has_ids, start, stop, columns, totals):
    """totals ← Σ max(code of the source + code of the edge − 2 · zero, 0) over edges; 2 · zero is whole."""
    none = simd.zeros16()
    top = (1 << bits) - 1
    for column in range(0, width, 16):
        bit = 0
        c = column
        while c < columns:
            s = simd.zeros_i32()
            z = simd.load(simd.zeros_f32(), zero, c)
            z = simd.to_signed(simd.add(z, z))
            for e in range(start, stop):
                edge = np.int64(edge_ids[e]) if has_ids else e
                x = simd.to_i32(simd.load(none, packed, np.int64(indices[e]) * width + column))
                y = simd.to_i32(simd.load(none, edge_packed, edge * width + column))
                x = simd.bits_and(simd.shift_right(x, bit), top)
                x = simd.add(x, simd.bits_and(simd.shift_right(y, bit), top))
                s = simd.add(s, simd.maximum(simd.subtract(x, z), simd.zeros_i32()))
            simd.store(s, totals, c)
            bit += bits
            c += width


@instruction(Largest, [(bits,) for bits in PACKED_BITS])
def largest(bits):
    def run(at, start, count, base, stride):
        f = read_largest(at)
        packed, width, totals = simd.u8_at(f.operand.packed), f.operand.width, simd.i32_at(base + f.totals)
        scale, zero = simd.f32_at(f.operand.scale), simd.f32_at(f.operand.zero)
        indptr, indices = simd.i64_at(f.edges.indptr), simd.i32_at(f.edges.indices)
        for r in range(count):
            begin, end = indptr[start + r], indptr[start + r + 1]
            largest_codes(packed, width, bits, indices, begin, end, f.columns, totals)
            row = simd.f32_at(base + f.dst + 4 * r * stride)
            center(totals, np.int64(1 if end > begin else 0), -1, zero, scale, f.columns, row)

    return run


@instruction(LargestWeighted, [(bits,) for bits in PACKED_BITS])
def largest_weighted(bits):
    def run(at, start, count, base, stride):
        f = read_weighted(at)
        packed, width, weights = simd.u8_at(f.operand.packed), f.operand.width, simd.f32_at(f.weights)
        scale, zero = simd.f32_at(f.operand.scale), simd.f32_at(f.operand.zero)
        indptr, indices = simd.i64_at(f.edges.indptr), simd.i32_at(f.edges.indices)
        for r in range(count):
            begin, end = indptr[start + r], indptr[start + r + 1]
            row = simd.f32_at(base + f.dst + 4 * r * stride)
            if begin == end:
                clear(simd.i32_at(base + f.dst + 4 * r * stride), f.columns)
            else:
                largest_weighted_values(packed, width, bits, zero, scale, indices, weights, begin, end, f.columns, row)

    return run


@instruction(GatherEdges, [(bits,) for bits in PACKED_BITS])
def gather_edges(bits):
    def run(at, start, count, base, stride):
        f = read_edges(at)
        packed, width, totals = simd.u8_at(f.operand.packed), f.operand.width, simd.i32_at(base + f.totals)
        scale, zero, edge_codes = simd.f32_at(f.operand.scale), simd.f32_at(f.operand.zero), simd.u8_at(f.edge_packed)
        indptr, indices = simd.i64_at(f.edges.indptr), simd.i32_at(f.edges.indices)
        has_ids = f.edge_ids != 0
        ids = simd.i64_at(f.edge_ids if has_ids else f.edges.indptr)
        for r in range(count):
            begin, end = indptr[start + r], indptr[start + r + 1]
            sum_edges(packed, width, bits, zero, indices, edge_codes, ids, has_ids, begin, end, f.columns, totals)
            row = simd.f32_at(base + f.dst + 4 * r * stride)
            center(totals, np.int64(0), -1, zero, scale, f.columns, row)

    return run
