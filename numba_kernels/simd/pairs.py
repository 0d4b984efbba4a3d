"""Products of 2-bit codes by table, two at a time, where a machine looks up bytes faster than it multiplies them.

Two codes of a row are one of sixteen pairs, two weights of a column too; a table of 16 · 16 bytes holds all their
products. The row's pair chooses sixteen of them, and VPSHUFB looks up those of 32 columns at once: 64 multiplications
and additions, where VPMADDUBSW does 32 (after arXiv:2407.00088, which makes a table of each row's numbers instead).
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import cgutils

from .vectors import I8, I16, I32, I64, call_intrinsic, lane_numbers, load_unaligned, place, splat

COLUMNS = 32
# Entries are q₀ w₀ + q₁ w₁ + LIFT for weights from −2 to 1: not below 0, and STEPS of them fit a byte.
LIFT = 12
STEPS = 255 // (LIFT + 6)
# Lifted sums fit uint16 up to so many steps.
MOST_STEPS = (2**16 - 1) // (LIFT + 6)

_codes = np.arange(16)
_low, _high = _codes % 4, _codes // 4
TABLE = (_low[:, None] * (_low - 2) + _high[:, None] * (_high - 2) + LIFT).astype(np.uint8)

_BYTES, _WORDS, _TOTALS = ir.VectorType(I8, 32), ir.VectorType(I16, 16), ir.VectorType(I32, 16)
_LOW_BYTES, _EIGHT = ir.Constant(_WORDS, [255] * 16), ir.Constant(_WORDS, [8] * 16)


def write_pair_product(builder, rows, blocks, arguments):
    """Write :func:`~numba_kernels.simd.products.tile_product` of pairs in LLVM's language.

    A step takes a byte of a row, 16 · its pair, and 32 bytes of weights: pairs of the columns 0, 16, 1, 17, … 15, 31.
    """
    x, room, weights, groups, steps, totals, stride = arguments
    entries = bytearray(TABLE) + bytes(16)  # rows of a tile that are not used hold anything: 16 bytes from any of 256
    table = cgutils.global_constant(builder, "products_of_pairs", ir.Constant(ir.ArrayType(I8, len(entries)), entries))
    table.align = 64
    table = builder.bitcast(table, I8.as_pointer())
    tiles = [(r, n) for r in range(rows) for n in range(blocks)]
    row_starts = [builder.mul(room, I64(r)) for r in range(rows)]
    block_starts = [builder.mul(builder.mul(groups, I64(COLUMNS)), I64(n)) for n in range(blocks)]
    bytes_ = {tile: cgutils.alloca_once(builder, _BYTES) for tile in tiles}
    even, odd = ({tile: cgutils.alloca_once_value(builder, ir.Constant(_WORDS, None)) for tile in tiles} for _ in "ab")
    with cgutils.for_range_slice(builder, I64(0), groups, steps) as (start, _):
        stop = builder.add(start, steps)
        stop = builder.select(builder.icmp_signed("<", stop, groups), stop, groups)
        for total in bytes_.values():
            builder.store(ir.Constant(_BYTES, None), total)
        with cgutils.for_range_slice(builder, start, stop, I64(1)) as (group, _):
            at = builder.mul(group, I64(COLUMNS))
            loaded = [
                load_unaligned(builder, place(builder, weights, builder.add(at, n), _BYTES)) for n in block_starts
            ]
            for r, row_start in enumerate(row_starts):
                pair = builder.zext(builder.load(place(builder, x, builder.add(group, row_start), I8)), I64)
                entries = load_unaligned(builder, place(builder, table, pair, ir.VectorType(I8, 16)))
                entries = builder.shuffle_vector(entries, entries, lane_numbers([*range(16)] * 2))
                for n, index in enumerate(loaded):
                    product = call_intrinsic(builder, "llvm.x86.avx2.pshuf.b", _BYTES, [entries, index])
                    builder.store(builder.add(builder.load(bytes_[r, n]), product), bytes_[r, n])
        for tile in tiles:
            words = builder.bitcast(builder.load(bytes_[tile]), _WORDS)
            low, high = builder.and_(words, _LOW_BYTES), builder.lshr(words, _EIGHT)
            builder.store(builder.add(builder.load(even[tile]), low), even[tile])
            builder.store(builder.add(builder.load(odd[tile]), high), odd[tile])
    lift = splat(builder, _TOTALS, builder.mul(groups, I64(LIFT)))
    for r, n in tiles:
        for half, sums in enumerate((even, odd)):
            at = builder.add(builder.mul(stride, I64(r)), I64(COLUMNS * n + COLUMNS // 2 * half))
            total = builder.sub(builder.zext(builder.load(sums[r, n]), _TOTALS), lift)
            builder.store(total, place(builder, totals, at, _TOTALS)).align = 4
