"""Grids for numbers at hand: of ranges that are tried, the one with the least squared error."""

from __future__ import annotations

import numpy as np

from .errors import GraphError
from .spec import BITS, FixedGrid, GridSpec, RowGrid

GRANULARITIES = ("row", "channel", "tensor")
_SHARES = np.linspace(1.0, 0.3, 15, dtype=np.float32)
_ROWS, _SAMPLE = 1 << 12, 1 << 10


def fitted_grid(values, bits: int, granularity: str = "row") -> GridSpec:
    """A grid of ``bits`` for ``values``.

    Ranges are shares of that of the values, of all rows; errors are those of 1,024 rows, evenly spaced. Both a grid
    with a code for 0 and one that is symmetric about 0, without, are tried.

    Parameters
    ----------
    values : (rows, columns) floats
        Anything that gives rows for slices.
    bits : {1, 2, 3, 4, 8}
    granularity : {"row", "channel", "tensor"}
        A scale a row, from the row itself; one a column; or one.

    Returns
    -------
    numba_kernels.spec.GridSpec
        :meth:`Grid.of` lays it out for :func:`quantize`.

    Raises
    ------
    GraphError
        For other bits and granularities, no values, and values that are not finite.
    """
    rows, columns = values.shape
    if bits not in BITS or isinstance(bits, bool) or granularity not in GRANULARITIES:
        raise GraphError(
            f"bits must be one of {', '.join(map(str, BITS))}, and granularity of {', '.join(GRANULARITIES)}; got "
            f"{bits!r} and {granularity!r}."
        )
    if not rows * columns:
        raise GraphError("no grid fits no values.")
    low, high = np.zeros((2, columns), np.float32)
    for start in range(0, rows, _ROWS):
        part = np.asarray(values[start : start + _ROWS], np.float32)
        if not np.isfinite(part).all():
            raise GraphError("values hold NaN or infinity.")
        low, high = np.minimum(low, part.min(0)), np.maximum(high, part.max(0))
    sample = np.asarray(values[:: max(rows // _SAMPLE, 1)], np.float32)
    if granularity == "row":
        grids = [RowGrid(bits, float(share), half, (1 << bits) - 1) for half in (False, True) for share in _SHARES]
        return min(grids, key=lambda grid: float(((grid.code(sample).values() - sample) ** 2).sum(dtype=np.float64)))
    if granularity == "tensor":
        low, high, columns = low.min(keepdims=True), high.max(keepdims=True), 1
    tried = [_fixed(bits, share * low, share * high, half) for half in (False, True) for share in _SHARES]
    errors = np.stack([_errors(FixedGrid(bits, scale, zero, zero, columns), sample) for scale, zero in tried])
    chosen = np.argmin(errors, 0)
    scale, zero = (np.stack(part)[chosen, np.arange(columns)] for part in zip(*tried))
    return FixedGrid(bits, scale, zero, zero, columns)


def _fixed(bits, low, high, is_half):
    """Scales and zero points of columns."""
    top = np.float32((1 << bits) - 1)
    if is_half:
        scale = np.maximum(-low, high) * (np.float32(2) / (top + 1))
        zero = np.full_like(scale, top / 2)
    else:
        scale = (high - low) / top
        zero = np.rint(np.divide(-low, scale, out=np.zeros_like(scale), where=scale > 0))
    return np.where(scale > 0, scale, np.float32(1)), np.where(scale > 0, zero, np.float32(0))


def _errors(grid, sample):
    """Squared errors of columns, or of all."""
    errors = ((grid.code(sample).values() - sample) ** 2).sum(0, dtype=np.float64)
    return errors if grid.columns > 1 else errors.sum(keepdims=True)
