"""Products of a few rows of small integers and blocks of columns of weights, exact in int32.

Every machine multiplies small integers in another way. There are three *forms* of what is multiplied. In a step,

- *bytes*: 4 uint8 of a row meet 4 int8 of each of sixteen columns,
- *words*: 2 int16 of a row meet 2 int16 of each of sixteen columns,
- *pairs*: 2 codes of a row meet 2 weights of each of 32 columns, see :mod:`numba_kernels.simd.pairs`.

===========  ==============================================================================================
avx512vnni   bytes: VPDPBUSD, sixteen columns at once
avxvnni      bytes: VPDPBUSD, eight
i8mm         bytes: USDOT, four
dotprod      bytes: SDOT, four, of rows below 128; words: SMLAL and its like
avx2         bytes: VPMADDUBSW, which adds two products as int16, added as such for as many steps as they fit; words:
             VPMADDWD; pairs: VPSHUFB
generic      words: multiplications of 32 bits, of which LLVM makes PMADDWD and its like
===========  ==============================================================================================
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..layout import row_bytes
from . import pairs
from .features import DOT_PRODUCT
from .vectors import I8, I16, I32, I64, call_intrinsic, lane_numbers, load_unaligned, place, splat


class Form(NamedTuple):
    """What a step takes, and how much of it is multiplied at once, its sums in registers."""

    row_bytes: int  # of a row, a step
    columns: int  # of a block
    block_bytes: int  # of a block, a step
    rows: int
    blocks: int
    rows_of_one: int  # rows that go with a single block


_SHAPE = (4, 4, 8) if DOT_PRODUCT == "avx512vnni" else (4, 1, 4)
FORMS = {
    "bytes": Form(4, 16, 64, *_SHAPE),
    "words": Form(4, 16, 64, *_SHAPE),
    "pairs": Form(1, pairs.COLUMNS, 32, 4, 2, 4),
}
_LANES = {"avx512vnni": 16, "avxvnni": 8, "i8mm": 4, "dotprod": 4, "avx2": 8, "generic": 16}
# Steps from which on bytes, added as int16, are faster than words.
_FEWEST_STEPS = 4


def form_of(bits: int, top: int, inputs: int, columns: int, dot: str = DOT_PRODUCT) -> tuple[str, int]:
    """The fastest exact form of products of codes of ``bits`` and weights, and for how many steps narrow sums hold.

    Weights are centred codes up to ``top``, from −⌈top / 2⌉ on; ``inputs`` by ``columns`` of them.

    Examples
    --------
    >>> form_of(2, 3, 256, 256, "avx2"), form_of(4, 15, 256, 256, "avx2"), form_of(8, 255, 256, 256, "avx2")
    (('pairs', 14), ('bytes', 136), ('words', 1))
    """
    if dot == "generic" or (dot == "dotprod" and bits == 8):
        return "words", 1
    if dot != "avx2":
        return "bytes", 1
    # Pairs are those of packed rows, which are padded; bytes are multiplied about ⅔ as fast.
    width = row_bytes(inputs, 2)
    if bits == 2 and top <= 3 and 2 * width <= pairs.MOST_STEPS and 4 * width <= 1.4 * inputs and columns > 16:
        return "pairs", pairs.STEPS
    steps = (2**15 - 1) // max(2 * ((1 << bits) - 1) * ((top + 1) // 2), 1)
    return ("bytes", steps) if steps >= _FEWEST_STEPS else ("words", 1)


@functools.cache
def tile_product(form: str, rows: int, blocks: int, dot: str = DOT_PRODUCT):
    """The function that multiplies ``rows`` rows by ``blocks`` blocks of columns::

        multiply(x, room, weights, groups, steps, totals, stride)

    x : pointer to uint8
        Rows, ``room`` bytes apart.
    weights : pointer to int8
        Blocks of columns, one after another, each ``groups`` times as many bytes as a step takes.
    groups : int
        Steps.
    steps : int
        For how many of them sums stay exact before they are widened, see :func:`form_of`.
    totals : pointer to int32
        Written: rows of sums, ``stride`` apart.
    """

    @intrinsic
    def multiply(typing_context, x, room, weights, groups, steps, totals, stride):
        def generate(context, builder, signature, arguments):
            if form == "pairs":
                pairs.write_pair_product(builder, rows, blocks, arguments)
            else:
                write_product(builder, rows, blocks, form == "words", dot, arguments)
            return context.get_dummy_value()

        return types.void(x, room, weights, groups, steps, totals, stride), generate

    return multiply


def write_product(builder, rows, blocks, words, dot, arguments):
    """Write :func:`tile_product` of bytes or words in LLVM's language, for the values of its arguments."""
    x, room, weights, groups, steps, totals, stride = arguments
    lanes = _LANES[dot]
    parts = blocks * 16 // lanes
    wide = ir.VectorType(I32, lanes)
    narrow = ir.VectorType(I16, 2 * lanes)
    block_bytes = builder.mul(groups, I64(64))
    row_starts = [builder.mul(room, I64(r)) for r in range(rows)]
    part_starts = [
        builder.add(builder.mul(block_bytes, I64(n * lanes // 16)), I64(n * lanes % 16 * 4)) for n in range(parts)
    ]
    sums = [[cgutils.alloca_once_value(builder, ir.Constant(wide, None)) for _ in range(parts)] for _ in range(rows)]
    in_int16 = dot == "avx2" and not words
    step = _STEPS.get((dot, words), _multiply_words)

    def add_groups(start, stop, into):
        with cgutils.for_range_slice(builder, start, stop, I64(1)) as (group, _):
            bytes_, k = ir.VectorType(I8, 4 * lanes), builder.mul(group, I64(4))
            at = builder.mul(group, I64(64))
            loaded = [load_unaligned(builder, place(builder, weights, builder.add(at, p), bytes_)) for p in part_starts]
            for row, row_start in zip(into, row_starts):
                four = load_unaligned(builder, place(builder, x, builder.add(k, row_start), I32))
                four = builder.bitcast(splat(builder, wide, four), bytes_)
                for total, weight in zip(row, loaded):
                    builder.store(step(builder, builder.load(total), four, weight), total)

    if in_int16:
        with cgutils.for_range_slice(builder, I64(0), groups, steps) as (start, _):
            stop = builder.add(start, steps)
            stop = builder.select(builder.icmp_signed("<", stop, groups), stop, groups)
            part_sums = [[cgutils.alloca_once(builder, narrow) for _ in row] for row in sums]
            for row in part_sums:
                for part in row:
                    builder.store(ir.Constant(narrow, None), part)
            add_groups(start, stop, part_sums)
            for row, part_row in zip(sums, part_sums):
                for total, part in zip(row, part_row):
                    pairs = _add_neighbours(builder, builder.load(part))
                    builder.store(builder.add(builder.load(total), pairs), total)
    else:
        add_groups(I64(0), groups, sums)
    for r, row in enumerate(sums):
        for n, total in enumerate(row):
            at = builder.add(builder.mul(stride, I64(r)), I64(n * lanes))
            builder.store(builder.load(total), place(builder, totals, at, wide)).align = 4


# -- a step: four bytes of a row, repeated, times as many weights as fit a register --------------------------
def _vpdpbusd(builder, total, x, w):
    """x86's dot product of four uint8 and int8, of 512 or 256 bits."""
    bits = 32 * total.type.count
    if binding.llvm_version_info[0] < 22:  # LLVM 22 changed its operands from int32 to int8
        x, w = builder.bitcast(x, total.type), builder.bitcast(w, total.type)
    return call_intrinsic(builder, f"llvm.x86.avx512.vpdpbusd.{bits}", total.type, [total, x, w])


def _neon(name):
    def step(builder, total, x, w):
        return call_intrinsic(builder, f"llvm.aarch64.neon.{name}.v4i32.v16i8", total.type, [total, x, w])

    return step


def _vpmaddubsw(builder, total, x, w):
    """Sums of two products, exact while they fit int16, added to int16."""
    return builder.add(total, call_intrinsic(builder, "llvm.x86.avx2.pmadd.ub.sw", total.type, [x, w]))


def _vpmaddwd(builder, total, x, w):
    pairs = ir.VectorType(I16, 16)
    arguments = [builder.bitcast(x, pairs), builder.bitcast(w, pairs)]
    return builder.add(total, call_intrinsic(builder, "llvm.x86.avx2.pmadd.wd", total.type, arguments))


def _multiply_words(builder, total, x, w):
    count = total.type.count
    pairs, products = ir.VectorType(I16, 2 * count), ir.VectorType(I32, 2 * count)
    x, w = (builder.sext(builder.bitcast(value, pairs), products) for value in (x, w))
    product = builder.mul(x, w)
    even = builder.shuffle_vector(product, product, lane_numbers(range(0, 2 * count, 2)))
    odd = builder.shuffle_vector(product, product, lane_numbers(range(1, 2 * count, 2)))
    return builder.add(total, builder.add(even, odd))


def _add_neighbours(builder, x):
    """int16 lanes as int32, neighbours added."""
    total = ir.VectorType(I32, x.type.count // 2)
    return call_intrinsic(builder, "llvm.x86.avx2.pmadd.wd", total, [x, ir.Constant(x.type, [1] * x.type.count)])


_STEPS = {
    ("avx512vnni", False): _vpdpbusd,
    ("avxvnni", False): _vpdpbusd,
    ("i8mm", False): _neon("usdot"),
    ("dotprod", False): _neon("sdot"),
    ("avx2", False): _vpmaddubsw,
    ("avx2", True): _vpmaddwd,
}


# -- sixteen lanes of four bytes each, of vectors ------------------------------------------------------------
def _split(builder, total, x, w, step, lanes):
    """``step`` on as many lanes at a time as its instruction has."""
    parts = []
    for first in range(0, 16, lanes):
        numbers, bytes_ = range(first, first + lanes), range(4 * first, 4 * (first + lanes))
        part = [builder.shuffle_vector(v, v, lane_numbers(n)) for v, n in ((total, numbers), (x, bytes_), (w, bytes_))]
        parts.append(step(builder, *part))
    while len(parts) > 1:
        both = lane_numbers(range(2 * parts[0].type.count))
        parts = [builder.shuffle_vector(y, z, both) for y, z in zip(parts[::2], parts[1::2])]
    return parts[0]


def _add_quads(builder, total, x, w):
    if (DOT_PRODUCT, False) in _STEPS and DOT_PRODUCT not in ("avx2", "dotprod"):
        return _split(builder, total, x, w, _STEPS[DOT_PRODUCT, False], _LANES[DOT_PRODUCT])
    # Even and odd bytes as words.
    words = ir.VectorType(I16, 32)
    eight, (x, w) = ir.Constant(words, [8] * 32), (builder.bitcast(value, words) for value in (x, w))
    even = builder.and_(x, ir.Constant(words, [255] * 32)), builder.ashr(builder.shl(w, eight), eight)
    total = _multiply_words(builder, total, *even)
    return _multiply_words(builder, total, builder.lshr(x, eight), builder.ashr(w, eight))


def _add_small_quads(builder, total, x, w):
    if DOT_PRODUCT != "avx2":
        return _add_quads(builder, total, x, w)

    def step(builder, total, x, w):
        products = _vpmaddubsw(builder, ir.Constant(ir.VectorType(I16, 16), None), x, w)
        return builder.add(total, _add_neighbours(builder, products))

    return _split(builder, total, x, w, step, 8)


def _of_vectors(add):
    def typed(typing_context, total, x, w):
        bytes_ = ir.VectorType(I8, 64)

        def generate(context, builder, signature, arguments):
            total, x, w = arguments
            return add(builder, total, builder.bitcast(x, bytes_), builder.bitcast(w, bytes_))

        return total(total, x, w), generate

    return typed


# total[m] + Σ_j x[4m + j] · w[4m + j], j < 4, of 64 bytes (or sixteen int32), unsigned and signed. Small: where
# |x[2n] · w[2n] + x[2n + 1] · w[2n + 1]| < 2¹⁵ for all n, which AVX2 has an instruction for.
dot_quads = intrinsic(_of_vectors(_add_quads))
dot_small_quads = intrinsic(_of_vectors(_add_small_quads))
