"""Reductions of rows that stand together: those of a node's edges, of a graph's nodes."""

from __future__ import annotations

import numpy as np

from ..jit import launcher

REDUCES = ("sum", "mean", "max", "min")
_SUM, _MEAN, _MAX, _MIN = range(4)
_UFUNCS = {"sum": np.add, "mean": np.add, "max": np.maximum, "min": np.minimum}


def reduce_segments(values: np.ndarray, starts: np.ndarray, reduce: str, order: np.ndarray | None = None) -> np.ndarray:
    """Rows ``starts[n]`` to below ``starts[n + 1]`` of ``values`` reduced, for each n; 0 where there are none.

    ``order`` says which row stands where, if not each in its own place. Sums of float32 run row by row, in float64.
    """
    shape = len(starts) - 1, *values.shape[1:]
    if values.dtype == np.float32:
        rows = np.ascontiguousarray(values).reshape(len(values), int(np.prod(shape[1:])))
        result = np.empty((shape[0], rows.shape[1]), np.float32)
        order = np.empty(0, np.int64) if order is None else order
        _reduce_rows(rows, order, starts, REDUCES.index(reduce), np.empty(rows.shape[1]), result)
        return result.reshape(shape)
    values = values if order is None else values[order]
    result, filled = np.zeros(shape, values.dtype), np.flatnonzero(np.diff(starts))
    if len(filled):
        result[filled] = _UFUNCS[reduce].reduceat(values, starts[:-1][filled], axis=0)
    return result


@launcher
def _reduce_rows(values, order, starts, reduce, total, result):
    """``result``, (S, C), of ``values``, (R, C); ``total`` is scratch, (C,) float64."""
    for s in range(len(starts) - 1):
        first, last = starts[s], starts[s + 1]
        total[:] = 0
        for e in range(first, last):
            row = order[e] if len(order) > 0 else e
            if reduce <= _MEAN:
                for c in range(len(total)):
                    total[c] += values[row, c]
            elif e == first:
                for c in range(len(total)):
                    total[c] = values[row, c]
            elif reduce == _MAX:
                for c in range(len(total)):
                    x = np.float64(values[row, c])
                    total[c] = x if x > total[c] or x != x else total[c]
            else:
                for c in range(len(total)):
                    x = np.float64(values[row, c])
                    total[c] = x if x < total[c] or x != x else total[c]
        count = np.float64(max(last - first, 1)) if reduce == _MEAN else np.float64(1)
        for c in range(len(total)):
            result[s, c] = np.float32(total[c] / count)
