"""Rows that send nothing: FIND_SILENT tells which, CLEAR_SILENT forgets their codes, GATHER_SENT sums the others.

WAKE finds the rows that something changes for.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np

from .. import simd
from ..jit import kernel
from ..layout import AHEAD, PACKED_BITS
from .fields import Edges, Operand
from .instruction import instruction, reader
from .sums import center, clear, summing

# Edges of a tile whose sources are told apart at once.
LISTED = 2048


class FindSilent(NamedTuple):
    """sent[i] ← whether a number of row i reaches its column's threshold in size; of entries, others become 0."""

    src: int  # in the scratch
    columns: int
    thresholds: int  # (columns,) float32, and infinity up to whole sixteens
    sent: int  # (rows,) uint8


class ClearSilent(NamedTuple):
    """dst ← 0 in the rows that are not sent."""

    dst: int  # in the scratch
    columns: int
    sent: int  # (rows,) uint8


class GatherSent(NamedTuple):
    """dst ← Σ_u (q_u − z) · s over those in-neighbours u of row i that are sent."""

    dst: int  # in the scratch
    columns: int
    totals: int  # in the scratch: int32, for the codes of a packed row
    operand: Operand
    edges: Edges
    exact: int  # as of Gather
    sent: int  # (sources,) uint8
    listed: int  # in the scratch: int32, LISTED + AHEAD + 16
    ends: int  # in the scratch: int32, one a row of the tile


class Wake(NamedTuple):
    """Of the rows that follow, the first that are awake: in memory, a row's number and how many; sent[i] ← 0 before.

    A row sleeps where neither it nor any of its in-neighbours has sent anything that arrives now.
    """

    edges: Edges
    arrived: int  # (sources,) uint8: which rows were sent
    sent: int  # (rows,) uint8: which are sent now
    awake: int  # in the scratch: two int64


read_find, read_clear, read_gather = reader(FindSilent), reader(ClearSilent), reader(GatherSent)
read_wake = reader(Wake)


@instruction(FindSilent, [(False,), (True,)])
def find_silent(of_entries):
    def run(at, start, count, base, stride):
        f = read_find(at)
        lanes, thresholds, sent = simd.zeros_f32(), simd.f32_at(f.thresholds), simd.u8_at(f.sent)
        for r in range(count):
            row, most = simd.f32_at(base + f.src + 4 * r * stride), simd.fill(lanes, np.float32(-1.0))
            for c in range(0, f.columns, 16):
                over = simd.subtract(simd.absolute(simd.load(lanes, row, c)), simd.load(lanes, thresholds, c))
                most = simd.maximum(most, over)
            sent[start + r] = np.uint8(1) if simd.largest(most) >= np.float32(0.0) else np.uint8(0)
            if of_entries:
                for c in range(f.columns):
                    row[c] = row[c] if abs(row[c]) >= thresholds[c] else np.float32(0.0)

    return run


@instruction(ClearSilent)
def clear_silent():
    def run(at, start, count, base, stride):
        f = read_clear(at)
        lanes, sent = simd.zeros_f32(), simd.u8_at(f.sent)
        for r in range(count):
            if sent[start + r] == 0:
                row = simd.f32_at(base + f.dst + 4 * r * stride)
                for c in range(0, f.columns, 16):
                    simd.store(lanes, row, c)

    return run


@kernel
def list_sent(indices, begin, end, sent, listed, n):
    """Append to the ``n`` sources that are listed those of the edges from ``begin`` to below ``end`` that are sent."""
    for e in range(begin, end):
        u = indices[e]
        listed[n] = u
        n += np.int64(sent[u])
    return n


@kernel
def end_list(listed, n):
    """AHEAD zeros behind the list, which are fetched."""
    for c in range(0, AHEAD, 16):
        simd.store(simd.zeros_i32(), listed, n + c)


@instruction(GatherSent, product(PACKED_BITS, (0, 16, 32, 64)))
def gather_sent(bits, lanes):
    """A variant a width of codes and a number of bytes summed at a time, see :func:`~.sums.summing`."""
    sum_rows, codes_a_byte = summing(bits, lanes), 8 // bits

    def run(at, start, count, base, stride):
        f = read_gather(at)
        width, packed, sent = f.operand.width, simd.u8_at(f.operand.packed), simd.u8_at(f.sent)
        scale, zero, totals = simd.f32_at(f.operand.scale), simd.f32_at(f.operand.zero), simd.i32_at(base + f.totals)
        indptr, indices, room = simd.i64_at(f.edges.indptr), simd.i32_at(f.edges.indices), width * codes_a_byte
        listed, ends = simd.i32_at(base + f.listed), simd.i32_at(base + f.ends)
        none, r = simd.zeros_f32(), 0
        while r < count:
            begin, last, n = indptr[start + r], r, 0
            while last < count and indptr[start + last + 1] - begin <= LISTED:
                n = list_sent(indices, indptr[start + last], indptr[start + last + 1], sent, listed, n)
                ends[last] = np.int32(n)
                last += 1
            if last == r:  # one row of more edges than are listed at once
                end, summed = indptr[start + r + 1], 0
                clear(totals, room)
                while begin < end:
                    n = list_sent(indices, begin, min(begin + LISTED, end), sent, listed, 0)
                    end_list(listed, n)
                    sum_rows(packed, width, listed, 0, n, False, totals)
                    summed += n
                    begin += LISTED
                center(totals, summed, f.exact, zero, scale, f.columns, simd.f32_at(base + f.dst + 4 * r * stride))
                r += 1
                continue
            end_list(listed, n)
            first = 0
            for k in range(r, last):
                row, end = simd.f32_at(base + f.dst + 4 * k * stride), ends[k]
                if first == end:
                    for c in range(0, f.columns, 16):
                        simd.store(none, row, c)
                else:
                    sum_rows(packed, width, listed, first, end, True, totals)
                    center(totals, end - first, f.exact, zero, scale, f.columns, row)
                first = end
            r = last

    return run


@kernel
def is_awake(indptr, indices, arrived, i):
    """Whether row i, or an in-neighbour of it, has sent something."""
    e, end, any_sent = indptr[i], indptr[i + 1], arrived[i] != 0
    while e < end and not any_sent:
        any_sent = arrived[indices[e]] != 0
        e += 1
    return any_sent


@instruction(Wake)
def wake():
    def run(at, start, count, base, stride):
        f = read_wake(at)
        indptr, indices = simd.i64_at(f.edges.indptr), simd.i32_at(f.edges.indices)
        arrived, sent, awake = simd.u8_at(f.arrived), simd.u8_at(f.sent), simd.i64_at(base + f.awake)
        i, stop = start, start + count
        while i < stop and not is_awake(indptr, indices, arrived, i):
            sent[i] = np.uint8(0)
            i += 1
        first = i
        while i < stop and is_awake(indptr, indices, arrived, i):
            i += 1
        awake[0], awake[1] = np.int64(first), np.int64(i - first)

    return run
