"""Exact search among packed rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..errors import GraphError
from ..given import given_array, whole_number
from ..kernels.nearest import LEAST, Nearest, nearest
from ..kernels.product import tile_weight
from ..simd import FORMS, form_of
from .coded import slice_of, values_of
from .codes import Codes
from .launch import run_parallel, run_serial
from .memory import address_of, aligned_empty
from .program import Filled, StageProgram, build
from .runtime import checked, running, sharing

METRICS = ("inner", "cosine")
# Queries that one pass over the rows serves, and up to how many are answered one after another in it.
_QUERIES, _FEW = 1024, 6
_ROWS = 1 << 16
# Of a sum of float32 terms: what rounding may have changed, for the sum of their magnitudes.
_ROUNDING = 2.0**-20


def search(codes: Codes, queries, k: int, metric: str, threads: int | None) -> tuple[np.ndarray, np.ndarray]:
    """What :meth:`Codes.search` returns."""
    rows, columns = codes.shape
    if metric not in METRICS:
        raise GraphError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}.")
    if not rows:
        raise GraphError("there are no rows to search among.")
    k = whole_number(k, "k", 1, rows)
    if columns * 128 * codes.grid.top >= 2**31:
        raise GraphError(f"{columns} columns of {codes.grid.bits} bits may overflow an int32 sum.")
    if not all(np.isfinite(part).all() for part in (codes.scale, codes.zero)):
        raise GraphError("scales and zero points of the rows must be finite.")
    if not isinstance(queries, Codes):
        queries = _float_queries(queries, columns)
    if queries.shape[1] != columns:
        raise GraphError(f"queries must have {columns} columns, got {queries.shape[1]}.")
    parts, threads = [], checked(threads)
    with running():
        for start in range(0, queries.shape[0], _QUERIES):
            part = slice(start, start + _QUERIES)
            some = slice_of(queries, part) if isinstance(queries, Codes) else queries[part]
            parts.append(_search(codes, _Asked.of(some, codes, metric), k, metric, threads))
    if not parts:
        return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
    scores, found = (np.concatenate(part) for part in zip(*parts))
    return scores, found


def _float_queries(queries, columns):
    array = given_array(queries, "queries", "f", "pass float32, or Codes")
    if array.ndim != 2:
        raise GraphError(f"queries must have shape (queries, {columns}), got {array.shape}; reshape them.")
    if not np.isfinite(array).all():
        raise GraphError("queries hold NaN or infinity.")
    return array


@dataclass
class _Asked:
    """Queries y as a pass reads them: of a row's codes q a score is unit · m · (Σ q v − z Σ v − moved)."""

    exact: np.ndarray  # (Q, K) float64: v
    weights: np.ndarray  # (Q, K) int8: v is about step · (weights + offset)
    top: int
    step: np.ndarray  # (Q,) float64
    offset: np.ndarray
    unit: np.ndarray

    @classmethod
    def of(cls, queries, codes, metric) -> _Asked:
        """``queries``, Codes or floats."""
        grid, scale = codes.grid, np.ones(1)
        if not grid.per_row:
            scale = codes.scale[: grid.columns].astype(np.float64)
        is_same = grid.per_row or (scale == scale[0]).all()
        if isinstance(queries, Codes) and is_same and queries.grid.is_uniform:
            asked = cls._of_codes(queries, scale[0])
            norms = np.sqrt((asked.exact**2).sum(1)) * asked.unit / scale[0]
        else:
            values = (values_of(queries) if isinstance(queries, Codes) else queries).astype(np.float64)
            norms, asked = np.sqrt((values**2).sum(1)), cls._of_floats(values * scale)
        if metric == "cosine":
            asked.unit = np.divide(asked.unit, norms, out=np.zeros_like(norms), where=norms > 0)
        return asked

    @classmethod
    def _of_codes(cls, queries, scale):
        """Codes are small integers already, about the middle of which they become int8."""
        count, grid = queries.shape[0], queries.grid
        numbers = (part if grid.per_row else np.full(count, part[0]) for part in (queries.scale, queries.zero))
        scales, zeros = (part.astype(np.float64) for part in numbers)
        found, middle = queries.unpacked(), (grid.top + 1) // 2
        weights = (found.astype(np.int16) - middle).astype(np.int8)
        exact = found - zeros[:, None]
        return cls(exact, weights, grid.top, np.ones(count), middle - zeros, scales * scale)

    @classmethod
    def _of_floats(cls, values):
        """Rounded to 8 bits."""
        largest, count = np.abs(values).max(1, initial=0), len(values)
        step = np.where(largest > 0, largest / 127, 1.0)
        weights = np.rint(values / step[:, None]).astype(np.int8)
        return cls(values, weights, 255, step, np.zeros(count), np.ones(count))

    def without_offset(self) -> _Asked:
        """The same, with weights that stand for what they are: twice as large, if need be, else rounded anew."""
        twice = 2 * (self.weights + self.offset[:, None])
        if not self.offset.any():
            return self
        if (twice == np.rint(twice)).all() and np.abs(twice).max(initial=0) <= 127:
            return replace(self, weights=twice.astype(np.int8), step=self.step / 2, offset=0 * self.offset)
        return replace(self._of_floats(self.exact), unit=self.unit)

    def numbers(self, codes, metric):
        """c, D and V' of :class:`Nearest`, (3, Q) float64, and its V, Z and 1 / step, likewise."""
        per_row, most = codes.grid.per_row, float(codes.grid.top)
        step, offset = self.step, self.offset
        beside = self.exact - step[:, None] * (self.weights + offset[:, None])
        middle, radius = most / 2 * beside.sum(1), most / 2 * np.abs(beside).sum(1)
        sums, moved = self.exact.sum(1), np.zeros(len(step))
        if not per_row:
            moved = self.exact @ codes.zero[: codes.grid.columns].astype(np.float64)
        c, d, v = offset, (middle + radius - moved) / step, sums / step if per_row else np.zeros(len(step))
        size = most * (np.abs(self.weights.astype(np.int64)).sum(1) + np.abs(c) * codes.shape[1]) + np.abs(d)
        size = size + np.abs(codes.zero).max(initial=0) * np.abs(v)
        quarters = (4 * c == np.rint(4 * c)) & (4 * d == np.rint(4 * d)) & (radius == 0) & (size < 2**21)
        is_exact = quarters & (metric == "inner") & (not per_row)
        d = np.where(is_exact, d, d + _ROUNDING * size)
        return np.stack([c, d, v]), np.stack([sums, moved, 1 / step])


def inverse_norms(codes: Codes) -> np.ndarray:
    """1 / ‖row‖ of each row, float32, 0 for rows of zeros."""
    norms = np.empty(codes.shape[0], np.float32)
    for start in range(0, len(norms), _ROWS):
        values = values_of(slice_of(codes, slice(start, start + _ROWS)))
        norms[start : start + _ROWS] = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64))
    return np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)


def _search(codes, asked, k, metric, threads):
    """Scores and rows, best first, of at most ``_QUERIES`` queries, in one pass over the rows."""
    (rows, columns), grid, count = codes.shape, codes.grid, len(asked.exact)
    form, steps = form_of(grid.bits, asked.top, columns, count)
    room, planes = grid.width, 8 // grid.bits
    if count <= _FEW:
        asked, form, steps, groups, lanes = asked.without_offset(), "one", 1, 0, count
        weights = np.pad(asked.weights, ((0, 0), (0, planes * room - columns))).reshape(count, planes, room)
        weights = np.ascontiguousarray(np.tile(weights, max(64 // room, 1)))
        room = weights.shape[2]
    else:
        weights = tile_weight(asked.weights.T, form)
        room *= {"bytes": planes, "words": 2 * planes, "pairs": 2}[form]
        groups, lanes = weights.shape[1], len(weights) * FORMS[form].columns
    numbers, moved = asked.numbers(codes, metric)
    padded = np.zeros((3, lanes), np.float32)
    padded[:, :count] = numbers
    norms = codes.inverse_norms if metric == "cosine" else None
    with sharing(min(threads, -(-rows // 64))) as granted:
        block_rows = -(-rows // granted)
        bounds = np.minimum(block_rows * np.arange(granted + 1), rows)
        thresholds = np.full((granted, lanes), -LEAST, np.float32)
        thresholds[:, :count] = LEAST
        scores, found = np.full((granted, count, k), -np.inf), np.full((granted, count, k), rows, np.int64)
        exact, moved = np.ascontiguousarray(asked.exact), np.ascontiguousarray(moved)
        at, program = address_of, StageProgram()
        unpacked = program.area_of_rows("codes", room + 8)
        shape = FORMS["bytes" if form == "one" else form]
        totals = program.area_of_rows("totals", 4 * shape.columns * shape.blocks)
        fields = Nearest(
            at(codes.packed), grid.width, columns, at(codes.scale), at(codes.zero), int(grid.per_row),
            0 if norms is None else at(norms), unpacked, room, totals, groups, steps, count, lanes, at(weights),
            at(padded), at(exact), at(moved), k, block_rows, at(thresholds), at(scores), at(found),
        )  # fmt: skip
        program.add(nearest, (grid.bits, form), fields)
        filled = Filled(build([program], [], []), [rows])
        filled.set_bounds(0, bounds)
        size = filled.program.scratch_size
        scratch = aligned_empty((granted * size,), np.uint8)
        if granted == 1:
            run_serial(filled.stages_at, 0, 1, 0, rows, at(scratch))
        else:
            run_parallel(filled.stages_at, 0, granted, 0, rows, at(scratch), size)
    scores, found = (part.transpose(1, 0, 2).reshape(count, -1) for part in (scores, found))
    best = np.lexsort((found, -scores), axis=1)[:, :k]
    scores, found = (np.take_along_axis(part, best, 1) for part in (scores, found))
    return (scores * asked.unit[:, None]).astype(np.float32), found
