"""Four vectors at a time: their bytes side by side, their totals."""

from __future__ import annotations

from llvmlite import ir
from numba.extending import intrinsic

from .vectors import I16, Vector, generating, lane_numbers


def _unpack(builder, x, y, half):
    """Lanes of the low (0) or high (1) half of x and y, alternating."""
    count = x.type.count
    first = half * count // 2
    return _shuffle(builder, x, y, [n + k for n in range(first, first + count // 2) for k in (0, count)])


def _shuffle(builder, x, y, lanes):
    return builder.shuffle_vector(x, y, lane_numbers(lanes))


# Within 128 bits: lanes of two vectors of eight, alternating one by one or two by two, of the low and the high half.
_ONES = [0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]
_TWOS = [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]


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
        fours = [paired(*eights[k : k + 2], *_ONES) for k in (0, 2)]
        both = paired(*fours, *_TWOS)
        return paired(both, both, range(4), range(4, 8))

    return generating(result(x, y, z, w), body)


@intrinsic
def add_in_order(typing_context, totals, x, y, z, w):
    """``totals``, a vector of four, and the lanes of four vectors of sixteen f32, from the first lane to the last."""

    def body(builder, totals, *vectors):
        for first in (0, 8):
            x, y, z, w = (_shuffle(builder, v, v, range(first, first + 8)) for v in vectors)
            # Lanes n and n + 4 of each.
            columns = [
                _shuffle(builder, _shuffle(builder, x, y, ones), _shuffle(builder, z, w, ones), twos)
                for ones in _ONES
                for twos in _TWOS
            ]
            for lanes in (range(4), range(4, 8)):
                for column in columns:
                    totals = builder.fadd(totals, _shuffle(builder, column, column, lanes))
        return totals

    return generating(totals(totals, x, y, z, w), body)


@intrinsic
def zeros4_f32(typing_context):
    """Four zeros."""
    four = Vector("f32", 4)
    return generating(four(), lambda builder: ir.Constant(four.llvm, None))
