"""The kernel that executes a program: block by block over threads, tile by tile, instruction by instruction."""

from __future__ import annotations

import numba
import numpy as np

from .. import simd
from ..jit import kernel, telling_when_slow
from ..kernels.attend import attend
from ..kernels.fields import (
    ATTEND,
    DECODE,
    ENCODE,
    FIELDS,
    FINISH,
    GATHER,
    HEADER,
    HEADS,
    LARGER,
    LOAD,
    LOOKUP,
    MAP,
    PLACE,
    PRODUCT,
    READOUT,
    STORE,
    TERM,
    Attention,
    Edges,
    Finish,
    Heads,
    Matrix,
    Operand,
    Segments,
    Target,
    Term,
    Weight,
)
from ..kernels.gather import gather, sum_segments
from ..kernels.maps import map_rows
from ..kernels.product import lookup, product
from ..kernels.requantise import decode, encode
from ..kernels.rows import (
    add_term,
    finish_rows,
    keep_larger,
    load_rows,
    place_rows,
    read_out,
    store_rows,
    sum_heads,
)  # fmt: skip
from .program import Launch, Program


@kernel(inline=True)
def read_matrix(code, f):
    return Matrix(code[f], code[f + 1], code[f + 2])


@kernel(inline=True)
def read_target(code, numbers, f):
    return Target(
        code[f], code[f + 1], code[f + 2], code[f + 3], code[f + 4], code[f + 5], code[f + 6], code[f + 7],
        code[f + 8], code[f + 9], code[f + 10], numbers[f + 11], numbers[f + 12], numbers[f + 13], numbers[f + 14],
        code[f + 15],
    )  # fmt: skip


@kernel(inline=True)
def read_operand(code, f):
    return Operand(code[f], code[f + 1], code[f + 2], code[f + 3], code[f + 4], code[f + 5], code[f + 6])


@kernel(inline=True)
def read_edges(code, f):
    return Edges(
        code[f], code[f + 1], code[f + 2], code[f + 3], code[f + 4],
        code[f + 5], code[f + 6], code[f + 7], code[f + 8], code[f + 9], code[f + 10], code[f + 11], code[f + 12],
    )  # fmt: skip


@kernel(inline=True)
def read_attention(code, numbers, f):
    return Attention(
        code[f], code[f + 1], code[f + 2], code[f + 3], code[f + 4], numbers[f + 5], code[f + 6], numbers[f + 7]
    )  # fmt: skip


@kernel(inline=True)
def read_weight(code, f):
    return Weight(code[f], code[f + 1], code[f + 2], code[f + 3], code[f + 4])


@kernel
def execute(at, start, count, base, scratch):
    """One instruction, at an address, on ``count`` rows from ``start`` on; ``base`` is the address of the scratch."""
    code, numbers = simd.i64_at(at), simd.f64_at(at)
    operation, columns, stride = code[0], code[3], scratch.stride
    dst = base + code[1] * scratch.rows * stride * 4
    src = base + code[2] * scratch.rows * stride * 4
    if operation == LOAD:
        load_rows(read_matrix(code, HEADER), start, count, columns, dst, stride)
    elif operation == STORE:
        store_rows(read_matrix(code, HEADER), start, count, columns, src, stride)
    elif operation == TERM:
        term = Term(numbers[HEADER], code[HEADER + 1], code[HEADER + 2])
        add_term(term, start, count, columns, src, dst, stride)
    elif operation == FINISH:
        finish = Finish(code[HEADER], code[HEADER + 1], code[HEADER + 2], numbers[HEADER + 3])
        finish_rows(finish, start, count, columns, src, dst, stride)
    elif operation == ENCODE:
        target = read_target(code, numbers, HEADER)
        # Factors are those of the nodes, whether the codes stay in the tile or not.
        local, first = (base, 0) if target.local != 0 else (0, start)
        encode(start, first, count, columns, target, local, base + scratch.grid, src, stride)
    elif operation == DECODE:
        operand = read_operand(code, HEADER)
        local, first = (base, 0) if operand.local != 0 else (0, start)
        decode(first, count, operand, columns, local, dst, stride)
    elif operation == GATHER:
        operand, edges = read_operand(code, HEADER), read_edges(code, HEADER + 7)
        gather(start, count, operand, edges, columns, base + scratch.totals, dst, stride)
    elif operation == MAP:
        map_rows(code[HEADER], numbers[HEADER + 1], count, columns, src, dst, stride)
    elif operation == PLACE:
        place_rows(code[HEADER], code[HEADER + 1], count, columns, src, dst, stride)
    elif operation == LARGER:
        keep_larger(count, columns, src, dst, stride)
    elif operation == HEADS:
        heads = Heads(code[HEADER], code[HEADER + 1], code[HEADER + 2], code[HEADER + 3])
        sum_heads(heads, count, columns, src, dst, stride)
    elif operation == READOUT:
        segments = Segments(code[HEADER + 3], code[HEADER + 4])
        read_out(read_matrix(code, HEADER), segments, start, count, columns, dst, stride)
    elif operation == ATTEND:
        messages, left = read_operand(code, HEADER), read_operand(code, HEADER + 7)
        right, attention = read_operand(code, HEADER + 14), read_attention(code, numbers, HEADER + 21)
        attend(start, count, messages, left, right, attention, columns, base + scratch.totals, dst, stride)
    elif operation == PRODUCT:
        operand, weight = read_operand(code, HEADER), read_weight(code, HEADER + 7)
        local, first = (base, 0) if operand.local != 0 else (0, start)
        product(first, count, operand, weight, columns, local, base + scratch.codes, dst, stride)
    elif operation == LOOKUP:
        matrix, target = read_matrix(code, HEADER), read_target(code, numbers, HEADER + 3)
        weight, totals = read_weight(code, HEADER + 19), simd.i32_at(base + scratch.totals)
        for r in range(count):
            x = simd.f32_at(matrix.address + 4 * (start + r) * matrix.stride)
            row = simd.f32_at(dst + 4 * r * stride)
            lookup(start + r, x, matrix.flag, target, weight, columns, base + scratch.codes, totals, row)


@kernel(parallel=True)
def run(code, bounds, scratch):
    """Execute a program on all rows.

    Parameters
    ----------
    code : (instructions, FIELDS) int64
        See :mod:`numba_kernels.kernels.fields`.
    bounds : (B + 1,) int64
        Blocks of rows, one task each; what is computed does not depend on them.
    scratch : Scratch
    """
    for block in numba.prange(bounds.shape[0] - 1):
        memory = np.empty(scratch.size + 64, np.uint8)
        base = (simd.address(memory) + 63) // 64 * 64
        first = simd.address(code)
        for start in range(bounds[block], bounds[block + 1], scratch.rows):
            count = min(scratch.rows, bounds[block + 1] - start)
            for n in range(code.shape[0]):
                execute(first + n * FIELDS * 8, start, count, base, scratch)
        memory[0] = 0  # until here the scratch is in use


def launch(prepared: Launch, hub_sums: list, arguments: dict, rows: tuple | None = None):
    """Run a prepared stage, or some of its ``rows``, those between two numbers.

    ``arguments`` are the numbers its fields are filled with, by :class:`Argument`.
    """
    if not len(prepared.code):
        return
    for row, field, argument in prepared.arguments:
        prepared.code[row, field] = arguments[argument]
    if rows is None or rows[0] == 0:
        for parts in hub_sums:
            sum_segments(*parts)
    bounds = prepared.bounds if rows is None else np.unique(np.clip(prepared.bounds, *rows))
    run(prepared.code, bounds, prepared.scratch)


def warm_up():
    """Compile all kernels, or load them from the disk cache, unless this process has; says so if it takes long.

    Every model runs on the same kernels. The first call of a model does this itself.
    """
    if getattr(run, "signatures", True):  # without a compiler there is nothing to do
        return
    none = np.zeros(0, np.int64)
    with telling_when_slow("compiling kernels"):
        sum_segments(none, none, np.zeros((0, 64), np.uint8), 2, 1, np.zeros(0, np.int32), np.zeros((0, 64), np.int32))
        empty = Program().finish(np.zeros(1, np.int64))
        run(empty.code, empty.bounds, empty.scratch)
