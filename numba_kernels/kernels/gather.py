"""GATHER: sums of packed messages over in-neighbours; HUB_PARTS: sums of parts of the edges of hubs, before."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np

from .. import simd
from ..jit import kernel
from ..layout import PACKED_BITS
from .fields import Edges, Multiplied, Operand
from .fixed import dropped_bits, fixed
from .instruction import instruction, reader
from .sums import center, clear, summing


class Gather(NamedTuple):
    """dst ← Σ_u (q_u − z) · s over the in-neighbours u of row i, plus its own code where there are such."""

    dst: int  # in the scratch
    columns: int
    totals: int  # in the scratch: int32, for the codes of a packed row and AHEAD + 1 numbers more
    operand: Operand
    edges: Edges
    exact: int  # number of codes up to which float32 holds Σ (code − zero) exactly, and every term of it
    own: int  # packed codes of the rows themselves, added once
    hubs: int  # (H,) int64, rows whose edges were summed before
    num_hubs: int
    hub_starts: int  # (H + 1,) int64, where a hub's partial sums stand
    partials: int  # (…, codes of a packed row) int32


class GatherFixed(NamedTuple):
    """dst ← the same as fixed-point numbers, of 2 · Σ_u (q_u − z)."""

    dst: int  # as those of Gather
    columns: int
    totals: int
    operand: Operand
    edges: Edges
    twice_zero: int  # (columns,) int32, 2 z
    own: int
    hubs: int
    num_hubs: int
    hub_starts: int
    partials: int
    multiplied: Multiplied


class HubParts(NamedTuple):
    """partials[i] ← Σ codes of the packed rows that indices[starts[i]:stops[i]] names."""

    columns: int
    packed: int  # (N, width) uint8
    width: int
    starts: int  # int64
    stops: int
    indices: int
    partials: int  # (…, codes of a packed row) int32


read_gather, read_fixed, read_parts = reader(Gather), reader(GatherFixed), reader(HubParts)
_VARIANTS = list(product(PACKED_BITS, (0, 16, 32, 64), (False, True), (False, True)))


@kernel
def find(hubs, count, row):
    """Position of ``row`` among the ascending ``hubs``, or −1."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if hubs[middle] < row:
            low = middle + 1
        else:
            high = middle
    return low if low < count and hubs[low] == row else -1


@kernel
def sum_parts(partials, first, last, room, totals):
    """totals ← sum of the partial sums of a hub."""
    clear(totals, room)
    none = simd.zeros_i32()
    for part in range(first, last):
        partial = simd.i32_at(partials + part * room * 4)
        for c in range(0, room, 16):
            simd.store(simd.add(simd.load(none, totals, c), simd.load(none, partial, c)), totals, c)


def _gathering(read, write, bits, lanes, has_own, has_hubs):
    """The function of fields that ``read`` reads, and ``write(fields, totals, count, row)`` makes a row of sums of."""
    sum_rows, codes_a_byte = summing(bits, lanes), 8 // bits

    def run(at, start, count, base, stride):
        f = read(at)
        width, packed, own = f.operand.width, simd.u8_at(f.operand.packed), simd.u8_at(f.own)
        indptr, indices = simd.i64_at(f.edges.indptr), simd.i32_at(f.edges.indices)
        totals, room, hub = simd.i32_at(base + f.totals), width * codes_a_byte, -1
        for r in range(count):
            i, row = start + r, simd.f32_at(base + f.dst + 4 * r * stride)
            begin, end = indptr[i], indptr[i + 1]
            summed = end - begin
            if has_hubs:
                hub = find(simd.i64_at(f.hubs), f.num_hubs, i)
            if has_hubs and hub >= 0:
                parts = simd.i64_at(f.hub_starts)
                sum_parts(f.partials, parts[hub], parts[hub + 1], room, totals)
            elif begin == end:
                clear(totals, room)
            else:
                sum_rows(packed, width, indices, begin, end, True, totals)
            if has_own:
                totals[room] = np.int32(i)
                sum_rows(own, width, totals, room, room + 1, False, totals)
                summed += 1
            write(f, totals, summed, row)

    return run


@kernel
def _write_floats(f, totals, count, row):
    zero, scale = simd.f32_at(f.operand.zero), simd.f32_at(f.operand.scale)
    center(totals, count, f.exact, zero, scale, f.columns, row)


@kernel
def _write_fixed(f, totals, count, row):
    dropped = dropped_bits(f.multiplied, count)
    none, twice_zero, times = simd.zeros_i32(), simd.i32_at(f.twice_zero), simd.fill(simd.zeros_i32(), count)
    for c in range(0, f.columns, 16):
        moved = simd.multiply(times, simd.load(none, twice_zero, c))
        doubled = simd.shift_left(simd.load(none, totals, c), 1)
        simd.store(fixed(simd.subtract(doubled, moved), f.multiplied, dropped, c), row, c)


@instruction(Gather, _VARIANTS)
def gather(bits, lanes, has_own, has_hubs):
    """A variant a width of codes, a number of bytes summed at a time (see ``summing``), own codes and hubs or not."""
    return _gathering(read_gather, _write_floats, bits, lanes, has_own, has_hubs)


@instruction(GatherFixed, _VARIANTS)
def gather_fixed(bits, lanes, has_own, has_hubs):
    return _gathering(read_fixed, _write_fixed, bits, lanes, has_own, has_hubs)


@instruction(HubParts, product(PACKED_BITS, (0, 16, 32, 64)))
def hub_parts(bits, lanes):
    sum_rows, codes_a_byte = summing(bits, lanes), 8 // bits

    def run(at, start, count, base, stride):
        f = read_parts(at)
        packed, indices = simd.u8_at(f.packed), simd.i32_at(f.indices)
        starts, stops, room = simd.i64_at(f.starts), simd.i64_at(f.stops), f.width * codes_a_byte
        for n in range(start, start + count):
            totals = simd.i32_at(f.partials + n * room * 4)
            sum_rows(packed, f.width, indices, starts[n], stops[n], True, totals)

    return run
