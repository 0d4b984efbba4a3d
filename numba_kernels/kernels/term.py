"""TERM: a term of a sum of slots; PAIRWISE: of two slots; PLACE: a slot's columns among those of another."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import simd
from .instruction import instruction, reader
from .rows import clear_from, factor_of


class Term(NamedTuple):
    """dst ← [dst +] coefficient · (src · factor)."""

    dst: int  # in the scratch
    src: int  # in the scratch
    columns: int
    coefficient: float
    factor: int  # (rows,) float32, or 0 for 1
    is_first: int  # whether dst is written anew


class Pairwise(NamedTuple):
    """dst ← the function of dst and src, number by number."""

    dst: int  # in the scratch
    src: int  # in the scratch
    columns: int


class Place(NamedTuple):
    """dst[:, offset:offset + columns] ← src; zeros after the last of ``total`` columns."""

    dst: int  # in the scratch
    src: int  # in the scratch
    columns: int
    offset: int
    total: int


read_term, read_pairwise, read_place = reader(Term), reader(Pairwise), reader(Place)
PAIRWISE = {"maximum": simd.maximum, "multiply": simd.multiply}


@instruction(Term)
def term():
    def run(at, start, count, base, stride):
        f = read_term(at)
        lanes, coefficient = simd.zeros_f32(), np.float32(f.coefficient)
        for r in range(count):
            factor = simd.fill(lanes, factor_of(f.factor, start + r))
            x, to = simd.f32_at(base + f.src + 4 * r * stride), simd.f32_at(base + f.dst + 4 * r * stride)
            for c in range(0, f.columns, 16):
                y = simd.multiply(simd.fill(lanes, coefficient), simd.multiply(simd.load(lanes, x, c), factor))
                if f.is_first == 0:
                    y = simd.add(simd.load(lanes, to, c), y)
                simd.store(y, to, c)

    return run


@instruction(Pairwise, [(function,) for function in PAIRWISE])
def pairwise(function):
    of_two = PAIRWISE[function]

    def run(at, start, count, base, stride):
        f = read_pairwise(at)
        lanes = simd.zeros_f32()
        for r in range(count):
            x, to = simd.f32_at(base + f.src + 4 * r * stride), simd.f32_at(base + f.dst + 4 * r * stride)
            for c in range(0, f.columns, 16):
                simd.store(of_two(simd.load(lanes, to, c), simd.load(lanes, x, c)), to, c)

    return run


@instruction(Place)
def place():
    def run(at, start, count, base, stride):
        f = read_place(at)
        for r in range(count):
            x, to = simd.f32_at(base + f.src + 4 * r * stride), simd.f32_at(base + f.dst + 4 * r * stride)
            for c in range(f.columns):
                to[f.offset + c] = x[c]
            if f.offset + f.columns == f.total:
                clear_from(to, f.total)

    return run
