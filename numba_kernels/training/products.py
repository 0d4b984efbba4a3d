"""Products of codes, which are made on the way, and weights of whole and half numbers: exact, by integers."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from .. import simd
from ..jit import launcher
from ..kernels.product import center_codes, tile_weight
from ..layout import row_bytes
from .coding import code_of

__all__ = ["WholeWeight", "multiply_codes", "whole_weight"]

# Rows that are coded and multiplied before the next are, whole groups of those that products take.
_TILE = 64


class WholeWeight(NamedTuple):
    """A weight of whole and half numbers, (K, M), as :func:`multiply_codes` reads it."""

    form: str
    groups: int  # steps of a product, see simd.products
    steps: int  # for how many of them narrow sums hold
    tiles: np.ndarray
    twice_rest: np.ndarray  # (M,) int32: twice what a column's numbers have beyond those of the tiles
    twice_sums: np.ndarray  # (M,) int32: twice the sums of columns


def whole_weight(centered: np.ndarray, bits: int, reach: float) -> WholeWeight | None:
    """A weight for the products of codes of ``bits``, centred ones up to ``reach``.

    None where its numbers are no multiples of ½, or not whole in some columns and halves in others; where an int32
    might not hold a sum, or this machine multiplies such codes no faster than floats.
    """
    twice = np.rint(2 * centered)
    low, high = (float(extreme) for extreme in (twice.min(), twice.max()))
    most = len(centered) * max(2 * reach * max(-low, high), (high - low) * (1 << bits))
    if not (np.array_equal(twice, 2 * centered) and high - low <= 510 and most < 2**31):
        return None
    odd = twice[0] % 2
    codes = (twice - odd) / 2
    base = codes.min()
    if not (odd == twice % 2).all() or codes.max() - base > 255:
        return None
    whole, middle = center_codes((codes - base).astype(np.uint8))
    top = int((codes - base).max())
    form, steps = simd.form_of(bits, top, *centered.shape)
    if simd.DOT_PRODUCT == "generic":
        return None
    tiles = tile_weight(whole, form)
    rest = 2 * (middle + base) + odd
    return WholeWeight(form, tiles.shape[1], steps, tiles, rest.astype(np.int32), twice.sum(0).astype(np.int32))


def multiply_codes(weight: WholeWeight, x: np.ndarray, first: int, last: int, *arguments) -> bool:
    """out ← Σ (codes − zero) · weight, rounded once.

    The arguments are the ``inverse`` scales, offsets and ``twice_zero``, int32, of rows, with the step from one row's
    to the next; the largest code; and ``out``, (rows, M) float32. Returns whether one of the values is not a number,
    which no code stands for. ``x`` and ``weight`` are such that an int32 holds four times a sum.
    """
    numbers = weight.groups, weight.steps, weight.tiles, weight.twice_rest, weight.twice_sums
    return _multiplying(weight.form)(x, first, last, row_bytes(x.shape[1], 2), *numbers, *arguments)


@functools.cache
def _multiplying(form):
    shape, is_pairs = simd.FORMS[form], form == "pairs"
    kind = np.int16 if form == "words" else np.uint8
    size = np.dtype(kind).itemsize
    many, one = simd.tile_product(form, shape.rows, shape.blocks), simd.tile_product(form, shape.rows_of_one, 1)

    def multiply(
        x, first, last, width, groups, steps, tiles, rest, sums, inverse, offset, twice_zero, step, qmax, out
    ):  # fmt: skip
        room, block_bytes, blocks = groups * shape.row_bytes, groups * shape.block_bytes, len(tiles)
        stride = blocks * shape.columns
        codes, single = np.zeros((_TILE, room // size), kind), np.zeros(4 * width, kind)
        row_sums, totals = np.empty(_TILE, np.int32), np.empty((_TILE, stride), np.int32)
        rows, weights = simd.address(codes), simd.address(tiles)
        whole, faults = blocks // shape.blocks * shape.blocks, False
        for start in range(first, last, _TILE):
            count = min(_TILE, last - start)
            for r in range(count):
                row = single if is_pairs else codes[r]
                v, o, total = inverse[(start + r) * step], offset[(start + r) * step], np.int32(0)
                for j in range(x.shape[1]):
                    code = code_of(x[start + r, j], v, o, qmax)
                    faults |= code != code
                    whole_code = np.int32(code)
                    row[j] = kind(whole_code)
                    total += whole_code
                row_sums[r] = total
                if is_pairs:
                    for j in range(width):
                        codes[r, j] = (row[j] + 4 * row[width + j]) << 4
                        codes[r, width + j] = (row[2 * width + j] + 4 * row[3 * width + j]) << 4
            for block in range(0, whole, shape.blocks):
                for r in range(0, count, shape.rows):
                    to = simd.i32_at(simd.address(totals) + 4 * (r * stride + shape.columns * block))
                    at = simd.i8_at(weights + block * block_bytes)
                    many(simd.u8_at(rows + r * room), room, at, groups, steps, to, stride)
            for block in range(whole, blocks):
                for r in range(0, count, shape.rows_of_one):
                    to = simd.i32_at(simd.address(totals) + 4 * (r * stride + shape.columns * block))
                    at = simd.i8_at(weights + block * block_bytes)
                    one(simd.u8_at(rows + r * room), room, at, groups, steps, to, stride)
            for r in range(count):
                z, s = twice_zero[(start + r) * step], 2 * row_sums[r]
                for m in range(out.shape[1]):
                    four = np.int32(4 * totals[r, m] + s * rest[m] - z * sums[m])
                    out[start + r, m] = np.float32(four) * np.float32(0.25)
        return faults

    multiply.__name__ = f"multiply_{form}"
    return launcher(multiply)
