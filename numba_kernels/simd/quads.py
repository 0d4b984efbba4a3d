"""Four rows at a time: their bytes side by side, dot products of fours of bytes, totals of four vectors."""

from __future__ import annotations

from llvmlite import binding, ir
from numba.extending import intrinsic

from .features import DOT_PRODUCT
from .vectors import I8, I16, I32, Vector, call_intrinsic, generating, lane_numbers

_BYTES, _PAIRS = ir.VectorType(I8, 64), ir.VectorType(I16, 32)


def _unpack(builder, x, y, half):
    """Lanes of the low (0) or high (1) half of x and y, alternating."""
    count = x.type.count
    first = half * count // 2
    return _shuffle(builder, x, y, [n + k for n in range(first, first + count // 2) for k in (0, count)])


def _shuffle(builder, x, y, lanes):
    return builder.shuffle_vector(x, y, lane_numbers(lanes))


@intrinsic
def interleave(typing_context, p, q, r, s):
    """Bytes of four vectors of sixteen, as 64: byte 4n + k is the n-th of the k-th vector."""
    result = Vector("u8", 4 * p.lanes)
    pairs, whole = ir.VectorType(I16, p.lanes // 2), range(p.lanes // 2)

    def body(builder, *rows):
        low, high = (
            [builder.bitcast(_unpack(builder, x, y, half), pairs) for half in (0, 1)] for x, y in (rows[:2], rows[2:])
        )
        parts = [_unpack(builder, low[half], high[half], k) for half in (0, 1) for k in (0, 1)]
        halves = [_shuffle(builder, *parts[k : k + 2], range(2 * len(whole))) for k in (0, 2)]
        return builder.bitcast(_shuffle(builder, *halves, range(4 * len(whole))), result.llvm)

    return generating(result(p, q, r, s), body)


@intrinsic
def totals_of_four(typing_context, x, y, z, w):
    """The totals of four vectors of sixteen f32, as a vector of four."""
    result = Vector("f32", 4)

    def body(builder, *vectors):
        def paired(x, y, low, high):
            return builder.fadd(_shuffle(builder, x, y, low), _shuffle(builder, x, y, high))

        eights = [paired(v, v, range(8), range(8, 16)) for v in vectors]
        # Within 128 bits: sums over two of the four lanes of a vector, then over both.
        low, high = [0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]
        fours = [paired(*eights[k : k + 2], low, high) for k in (0, 2)]
        both = paired(*fours, [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15])
        return paired(both, both, range(4), range(4, 8))

    return generating(result(x, y, z, w), body)


def _add_quads(builder, sums, x, w):
    """sums[m] + Σ_j x[4m + j] · w[4m + j], j < 4, of 64 bytes, unsigned and signed."""
    if DOT_PRODUCT == "avx512vnni":
        # LLVM 22 changed the operands of this instruction from sixteen int32 to sixty-four int8.
        operand = _BYTES if binding.llvm_version_info[0] >= 22 else sums.type
        arguments = [sums, builder.bitcast(x, operand), builder.bitcast(w, operand)]
        return call_intrinsic(builder, "llvm.x86.avx512.vpdpbusd.512", sums.type, arguments)
    # Even and odd bytes as 16 bits; LLVM knows sums of neighbouring products of those.
    eight = ir.Constant(_PAIRS, [8] * 32)
    xs, ws = builder.bitcast(x, _PAIRS), builder.bitcast(w, _PAIRS)
    low = builder.and_(xs, ir.Constant(_PAIRS, [255] * 32)), builder.ashr(builder.shl(ws, eight), eight)
    high = builder.lshr(xs, eight), builder.ashr(ws, eight)
    for left, right in (low, high):
        wide = ir.VectorType(I32, 32)
        products = builder.mul(builder.sext(left, wide), builder.sext(right, wide))
        even = _shuffle(builder, products, products, range(0, 32, 2))
        odd = _shuffle(builder, products, products, range(1, 32, 2))
        sums = builder.add(sums, builder.add(even, odd))
    return sums


def _add_small_quads(builder, sums, x, w):
    """As :func:`_add_quads`, where sums of two products fit 16 bits."""
    if DOT_PRODUCT not in ("avx2", "avxvnni"):
        return _add_quads(builder, sums, x, w)
    pairs, eight = ir.VectorType(I16, 16), ir.VectorType(I32, 8)
    halves = []
    for lanes in (range(32), range(32, 64)):
        arguments = [_shuffle(builder, v, v, lanes) for v in (x, w)]
        products = call_intrinsic(builder, "llvm.x86.avx2.pmadd.ub.sw", pairs, arguments)
        ones = ir.Constant(pairs, [1] * 16)
        halves.append(call_intrinsic(builder, "llvm.x86.avx2.pmadd.wd", eight, [products, ones]))
    return builder.add(sums, _shuffle(builder, *halves, range(16)))


def _dot_of_vectors(add):
    def typed(typing_context, total, x, w):
        def body(builder, sums, x, w):
            return add(builder, sums, builder.bitcast(x, _BYTES), builder.bitcast(w, _BYTES))

        return generating(total(total, x, w), body)

    return typed


# total[m] += Σ_j x[4m + j] · w[4m + j], j < 4, of vectors of 64 bytes (or sixteen int32), unsigned and signed. Small:
# |x[2n] · w[2n] + x[2n + 1] · w[2n + 1]| < 2¹⁵ for all n, which fewer instructions do without AVX-512's.
dot_quads = intrinsic(_dot_of_vectors(_add_quads))
dot_small_quads = intrinsic(_dot_of_vectors(_add_small_quads))
