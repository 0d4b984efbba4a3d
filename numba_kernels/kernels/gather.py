"""Sums of packed messages over in-neighbours."""

from __future__ import annotations

import numba
import numpy as np

from .. import simd
from ..graph import AHEAD
from ..jit import kernel
from .fields import EDGE_CODES, FLOAT_WEIGHTS, INT8_WEIGHTS, LARGEST, NODE_WEIGHTS


@kernel(inline=True)
def fetch(packed, width, column, indices, e):
    """Ask for the row that is read some edges later."""
    simd.prefetch(packed, np.int64(indices[e + AHEAD]) * width + column)


@kernel(inline=True)
def spill(lanes, totals, column, is_first):
    """totals[column + lane] += lane, or = where this is the first."""
    wide = simd.to_i32(lanes)
    if is_first:
        simd.store(wide, totals, column)
    else:
        simd.store(simd.add(wide, simd.load(wide, totals, column)), totals, column)


@kernel(inline=True)
def sum_2bit(packed, width, column, indices, start, stop, none, is_new, totals):
    """2-bit codes: in 4-bit lanes for 5 rows, in 8-bit lanes for 85, then int32."""
    for first in range(start, stop, 85):
        s0, s1, s2, s3 = none, none, none, none
        last = min(first + 85, stop)
        for group in range(first, last, 5):
            even, odd = none, none
            for e in range(group, min(group + 5, last)):
                fetch(packed, width, column, indices, e)
                x = simd.load(none, packed, np.int64(indices[e]) * width + column)
                even = simd.add(even, simd.bits_and(x, 0x33))
                odd = simd.add(odd, simd.bits_and(simd.shift_right(x, 2), 0x33))
            s0 = simd.add(s0, simd.bits_and(even, 0x0F))
            s1 = simd.add(s1, simd.bits_and(odd, 0x0F))
            s2 = simd.add(s2, simd.shift_right(even, 4))
            s3 = simd.add(s3, simd.shift_right(odd, 4))
        spill(s0, totals, column, is_new and first == start)
        spill(s1, totals, column + width, is_new and first == start)
        spill(s2, totals, column + 2 * width, is_new and first == start)
        spill(s3, totals, column + 3 * width, is_new and first == start)


@kernel(inline=True)
def sum_4bit(packed, width, column, indices, start, stop, none, is_new, totals):
    """4-bit codes: in 8-bit lanes for 17 rows, then int32."""
    for first in range(start, stop, 17):
        s0, s1 = none, none
        for e in range(first, min(first + 17, stop)):
            fetch(packed, width, column, indices, e)
            x = simd.load(none, packed, np.int64(indices[e]) * width + column)
            s0 = simd.add(s0, simd.bits_and(x, 0x0F))
            s1 = simd.add(s1, simd.shift_right(x, 4))
        spill(s0, totals, column, is_new and first == start)
        spill(s1, totals, column + width, is_new and first == start)


@kernel(inline=True)
def sum_8bit(packed, width, column, indices, start, stop, none, is_new, totals):
    """8-bit codes: in 16-bit lanes for 257 rows, then int32."""
    for first in range(start, stop, 257):
        s = simd.widen(none)
        for e in range(first, min(first + 257, stop)):
            fetch(packed, width, column, indices, e)
            s = simd.add(s, simd.widen(simd.load(none, packed, np.int64(indices[e]) * width + column)))
        spill(s, totals, column, is_new and first == start)


@kernel(inline=True)
def sum_1bit(packed, width, column, indices, start, stop, none, is_new, totals):
    """1-bit codes: in 2-bit lanes for 3 rows, in 8-bit lanes for 255, then int32."""
    for first in range(start, stop, 255):
        s0, s1, s2, s3, s4, s5, s6, s7 = none, none, none, none, none, none, none, none
        last = min(first + 255, stop)
        for group in range(first, last, 3):
            even, odd = none, none
            for e in range(group, min(group + 3, last)):
                fetch(packed, width, column, indices, e)
                x = simd.load(none, packed, np.int64(indices[e]) * width + column)
                even = simd.add(even, simd.bits_and(x, 0x55))
                odd = simd.add(odd, simd.bits_and(simd.shift_right(x, 1), 0x55))
            s0 = simd.add(s0, simd.bits_and(even, 3))
            s1 = simd.add(s1, simd.bits_and(odd, 3))
            s2 = simd.add(s2, simd.bits_and(simd.shift_right(even, 2), 3))
            s3 = simd.add(s3, simd.bits_and(simd.shift_right(odd, 2), 3))
            s4 = simd.add(s4, simd.bits_and(simd.shift_right(even, 4), 3))
            s5 = simd.add(s5, simd.bits_and(simd.shift_right(odd, 4), 3))
            s6 = simd.add(s6, simd.shift_right(even, 6))
            s7 = simd.add(s7, simd.shift_right(odd, 6))
        is_first = is_new and first == start
        spill(s0, totals, column, is_first)
        spill(s1, totals, column + width, is_first)
        spill(s2, totals, column + 2 * width, is_first)
        spill(s3, totals, column + 3 * width, is_first)
        spill(s4, totals, column + 4 * width, is_first)
        spill(s5, totals, column + 5 * width, is_first)
        spill(s6, totals, column + 6 * width, is_first)
        spill(s7, totals, column + 7 * width, is_first)


@kernel(inline=True)
def sum_narrow(packed, bits, indices, start, stop, none, is_new, totals):
    """Up to sixteen columns, one in a byte: in 8-bit lanes for 255 / (2^bits − 1) rows, then int32."""
    rows = 255 // ((1 << bits) - 1)
    for first in range(start, stop, rows):
        s = none
        for e in range(first, min(first + rows, stop)):
            s = simd.add(s, simd.load(none, packed, np.int64(indices[e]) * 16))
        spill(s, totals, 0, is_new and first == start)


@kernel(inline=True)
def sum_block(packed, width, column, bits, indices, start, stop, none, is_new, totals):
    """One block of bytes, from ``column``; ``none`` is a zero vector of its size."""
    if bits == 2:
        sum_2bit(packed, width, column, indices, start, stop, none, is_new, totals)
    elif bits == 4:
        sum_4bit(packed, width, column, indices, start, stop, none, is_new, totals)
    elif bits == 8:
        sum_8bit(packed, width, column, indices, start, stop, none, is_new, totals)
    else:
        sum_1bit(packed, width, column, indices, start, stop, none, is_new, totals)


@kernel(inline=True)
def clear(totals, room):
    """Zeros, int32; ``room`` a multiple of sixteen."""
    for c in range(0, room, 16):
        simd.store(simd.zeros_i32(), totals, c)


@kernel
def sum_codes(packed, width, bits, columns, indices, start, stop, is_new, totals):
    """totals += codes of the packed rows that indices[start:stop] names; = if ``is_new``. Exact.

    ``totals``, int32, has a place for each code of a row of ``width`` bytes. AHEAD more indices are read, to fetch.
    """
    if is_new and start == stop:
        clear(totals, width * 8 // bits)
    if columns <= 16 and bits < 8:
        sum_narrow(packed, bits, indices, start, stop, simd.zeros16(), is_new, totals)
    elif width == 16:
        sum_block(packed, width, 0, bits, indices, start, stop, simd.zeros16(), is_new, totals)
    elif width == 32:
        sum_block(packed, width, 0, bits, indices, start, stop, simd.zeros32(), is_new, totals)
    else:
        for column in range(0, width, 64):
            sum_block(packed, width, column, bits, indices, start, stop, simd.zeros64(), is_new, totals)


@kernel
def sum_products(packed, width, bits, indices, weights, by_node, start, stop, columns, totals):
    """totals += weight · code over edges, for int8 weights of edges or sources; returns the sum of the weights."""
    none = simd.zeros16()
    top = (1 << bits) - 1
    for column in range(0, width, 16):
        shift = 0
        for c in range(column, columns, width):
            s = simd.load(simd.to_i32(none), totals, c)
            for e in range(start, stop):
                x = simd.to_i32(simd.load(none, packed, np.int64(indices[e]) * width + column))
                x = simd.bits_and(simd.shift_right(x, shift), top)
                weight = np.int32(weights[indices[e] if by_node else e])
                s = simd.add(s, simd.multiply(x, simd.fill(s, weight)))
            simd.store(s, totals, c)
            shift += bits
    total = np.int64(0)
    for e in range(start, stop):
        total += np.int64(weights[indices[e] if by_node else e])
    return total


@kernel
def add_weighted(packed, width, bits, zero, scale, indices, weights, start, stop, columns, row):
    """row += scale · Σ weight · (code − zero) over the edges, in float32, in their order."""
    none = simd.zeros16()
    top = (1 << bits) - 1
    for column in range(0, width, 16):
        shift = 0
        for c in range(column, columns, width):
            s = simd.zeros_f32()
            z = simd.load(s, zero, c)
            for e in range(start, stop):
                x = simd.to_i32(simd.load(none, packed, np.int64(indices[e]) * width + column))
                x = simd.subtract(simd.to_f32(simd.bits_and(simd.shift_right(x, shift), top)), z)
                s = simd.multiply_add(x, simd.fill(s, np.float32(weights[e])), s)
            s = simd.multiply_add(s, simd.load(s, scale, c), simd.load(s, row, c))
            simd.store(s, row, c)
            shift += bits


@kernel
def largest_codes(packed, width, bits, indices, start, stop, columns, totals):
    """totals ← the largest of the codes of the packed rows that indices[start:stop] names, column by column."""
    none = simd.zeros16()
    top = (1 << bits) - 1
    for column in range(0, width, 16):
        shift = 0
        for c in range(column, columns, width):
            s = simd.zeros_i32()
            for e in range(start, stop):
                x = simd.to_i32(simd.load(none, packed, np.int64(indices[e]) * width + column))
                s = simd.maximum(s, simd.bits_and(simd.shift_right(x, shift), top))
            simd.store(s, totals, c)
            shift += bits


@kernel
def sum_edges(packed, width, bits, zero, indices, edge_packed, edge_ids, has_ids, start, stop, columns, totals):
    """totals ← Σ max(code of the source + code of the edge − 2 · zero, 0) over edges; 2 · zero is whole."""
    none = simd.zeros16()
    top = (1 << bits) - 1
    for column in range(0, width, 16):
        shift = 0
        for c in range(column, columns, width):
            s = simd.zeros_i32()
            z = simd.load(simd.zeros_f32(), zero, c)
            z = simd.to_signed(simd.add(z, z))
            for e in range(start, stop):
                edge = np.int64(edge_ids[e]) if has_ids else e
                x = simd.to_i32(simd.load(none, packed, np.int64(indices[e]) * width + column))
                y = simd.to_i32(simd.load(none, edge_packed, edge * width + column))
                x = simd.bits_and(simd.shift_right(x, shift), top)
                x = simd.add(x, simd.bits_and(simd.shift_right(y, shift), top))
                s = simd.add(s, simd.maximum(simd.subtract(x, z), simd.zeros_i32()))
            simd.store(s, totals, c)
            shift += bits


@kernel(inline=True)
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


@kernel(inline=True)
def sum_parts(partials, first, last, room, totals):
    """totals ← sum of the partial sums of a hub."""
    clear(totals, room)
    none = simd.zeros_i32()
    for part in range(first, last):
        partial = simd.i32_at(partials + part * room * 4)
        for c in range(0, room, 16):
            simd.store(simd.add(simd.load(none, totals, c), simd.load(none, partial, c)), totals, c)


@kernel(inline=True)
def center_block(c, totals, count, zero, scale, row, none):
    """Lanes of :func:`center` from column c on, as many as ``none`` has, in float32."""
    t, lanes = simd.load(simd.to_i32(none), totals, c), simd.to_f32(none)
    moved = simd.multiply(simd.load(lanes, zero, c), simd.fill(lanes, np.float32(count)))
    y = simd.multiply(simd.subtract(simd.to_f32(t), moved), simd.load(lanes, scale, c))
    simd.store(y, row, c)


@kernel(inline=True)
def center(totals, count, exact, zero, scale, columns, row):
    """row ← (totals − zero · count) · scale. Up to ``exact`` codes float32 holds the difference, beyond float64."""
    if abs(count) > exact:
        none, lanes = simd.zeros_i32(), simd.zeros_f32()
        wide = simd.fill(simd.to_f64(lanes), np.float64(count))
        for c in range(0, columns, 16):
            moved = simd.multiply(simd.to_f64(simd.load(lanes, zero, c)), wide)
            centered = simd.to_f32(simd.subtract(simd.to_f64(simd.load(none, totals, c)), moved))
            simd.store(simd.multiply(centered, simd.load(lanes, scale, c)), row, c)
    elif columns > 32:
        for c in range(0, columns, 64):
            center_block(c, totals, count, zero, scale, row, simd.zeros64())
    else:
        for c in range(0, columns, 16):
            center_block(c, totals, count, zero, scale, row, simd.zeros16())


@kernel
def gather(start, count, operand, edges, columns, memory, dst, stride):
    """Rows of Σ_u w_iu (q_u − z) · s over the in-neighbours u of row i, plus its own code where asked.

    For ``count`` rows from ``start`` on, to the address ``dst``, float32, ``stride`` apart. ``memory`` is the address
    of int32 scratch for the codes of a packed row and AHEAD + 1 numbers more. Sums of codes are exact; with float
    weights the sum is one of float32, the slower path.
    """
    packed, width, bits = simd.u8_at(operand.packed), operand.width, operand.bits
    scale, zero = simd.f32_at(operand.scale), simd.f32_at(operand.zero)
    indptr, indices, totals = simd.i64_at(edges.indptr), simd.i32_at(edges.indices), simd.i32_at(memory)
    room = width * 8 // bits
    for r in range(count):
        i, row = start + r, simd.f32_at(dst + 4 * r * stride)
        begin, end = indptr[i], indptr[i + 1]
        summed = end - begin
        if edges.weight_kind == INT8_WEIGHTS or edges.weight_kind == NODE_WEIGHTS:
            clear(totals, room)
            weights, by_node = simd.i8_at(edges.weights), edges.weight_kind == NODE_WEIGHTS
            summed = sum_products(packed, width, bits, indices, weights, by_node, begin, end, columns, totals)
        elif edges.weight_kind == FLOAT_WEIGHTS:
            clear(totals, room)
            summed = np.int64(0)
        elif edges.weight_kind == LARGEST:
            largest_codes(packed, width, bits, indices, begin, end, columns, totals)
            summed = np.int64(1 if end > begin else 0)
        elif edges.weight_kind == EDGE_CODES:
            edge_codes, has_ids = simd.u8_at(edges.edge_packed), edges.edge_ids != 0
            ids = simd.i64_at(edges.edge_ids if has_ids else edges.indptr)
            sum_edges(packed, width, bits, zero, indices, edge_codes, ids, has_ids, begin, end, columns, totals)
            summed = np.int64(0)
        elif edges.num_hubs > 0 and find(simd.i64_at(edges.hubs), edges.num_hubs, i) >= 0:
            hub, parts = find(simd.i64_at(edges.hubs), edges.num_hubs, i), simd.i64_at(edges.hub_starts)
            sum_parts(edges.partials, parts[hub], parts[hub + 1], room, totals)
        else:
            sum_codes(packed, width, bits, columns, indices, begin, end, True, totals)
        if edges.own != 0:
            totals[room] = np.int32(i)
            own = simd.u8_at(edges.own)
            if edges.weight_kind == NODE_WEIGHTS:
                weights = simd.i8_at(edges.own_weights)
                summed += sum_products(own, width, bits, totals, weights, True, room, room + 1, columns, totals)
            else:
                sum_codes(own, width, bits, columns, totals, room, room + 1, False, totals)
                summed += 1
        center(totals, summed, edges.exact, zero, scale, columns, row)
        if edges.weight_kind == FLOAT_WEIGHTS:
            weights = simd.f32_at(edges.weights)
            add_weighted(packed, width, bits, zero, scale, indices, weights, begin, end, columns, row)


@kernel(parallel=True)
def sum_segments(starts, stops, packed, bits, columns, indices, partials):
    """Partial sums of hubs: partials[n] ← Σ codes of the rows that indices[starts[n]:stops[n]] names.

    ``packed`` is (N, W) uint8, ``indices`` (E,) int32, ``partials`` (segments, 8 / bits · W) int32.
    """
    for n in numba.prange(starts.shape[0]):
        totals = simd.i32_at(simd.address(partials) + n * partials.shape[1] * 4)
        rows, edges = simd.u8_at(simd.address(packed)), simd.i32_at(simd.address(indices))
        sum_codes(rows, packed.shape[1], bits, columns, edges, starts[n], stops[n], True, totals)
