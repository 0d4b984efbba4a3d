"""LARGEST, LARGEST_WEIGHTED: the largest message of the in-neighbours; GATHER_EDGES: sums with codes of edges."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import simd
from ..jit import kernel
from ..layout import PACKED_BITS
from .fields import Edges, Operand
from .instruction import instruction, reader
from .planes import by_edge, codes_at
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
def from_zero(given, c):
    return simd.zeros_i32(), (c,)


@kernel
def take_largest(value, codes, held, given, e, place):
    return simd.maximum(value, codes)


@kernel
def from_least(given, c):
    zero, scale, _ = given
    z = simd.load(simd.zeros_f32(), zero, c)
    return simd.fill(z, np.float32(-np.inf)), (z, simd.load(z, scale, c))


@kernel
def take_largest_weighted(value, codes, held, given, e, place):
    z, scale = held
    x = simd.multiply(simd.subtract(simd.to_f32(codes), z), scale)
    return simd.maximum(value, simd.multiply(x, simd.fill(x, np.float32(given[2][e]))))


@kernel
def from_zero_edges(given, c):
    z = simd.load(simd.zeros_f32(), given[0], c)
    return simd.zeros_i32(), (simd.to_signed(simd.add(z, z)),)


@kernel
def take_edge(value, codes, held, given, e, place):
    _, edge_packed, edge_ids, has_ids = given
    x = simd.add(codes, codes_at(edge_packed, edge_ids[e] if has_ids else e, place))
    return simd.add(value, simd.maximum(simd.subtract(x, held[0]), simd.zeros_i32()))


largest_codes = by_edge(from_zero, take_largest)  # int32
largest_weighted_values = by_edge(from_least, take_largest_weighted)  # float32, of which there is one
sum_edges = by_edge(from_zero_edges, take_edge)  # int32; twice the zero is whole


@instruction(Largest, [(bits,) for bits in PACKED_BITS])
def largest(bits):
    def run(at, start, count, base, stride):
        f = read_largest(at)
        packed, width, totals = simd.u8_at(f.operand.packed), f.operand.width, simd.i32_at(base + f.totals)
        scale, zero = simd.f32_at(f.operand.scale), simd.f32_at(f.operand.zero)
        indptr, indices = simd.i64_at(f.edges.indptr), simd.i32_at(f.edges.indices)
        for r in range(count):
            begin, end = indptr[start + r], indptr[start + r + 1]
            largest_codes(packed, width, bits, indices, begin, end, f.columns, (), totals)
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
                given = zero, scale, weights
                largest_weighted_values(packed, width, bits, indices, begin, end, f.columns, given, row)

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
            given = zero, edge_codes, ids, has_ids
            sum_edges(packed, width, bits, indices, begin, end, f.columns, given, totals)
            row = simd.f32_at(base + f.dst + 4 * r * stride)
            center(totals, np.int64(0), -1, zero, scale, f.columns, row)

    return run
