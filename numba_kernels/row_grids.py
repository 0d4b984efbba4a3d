"""Grids of rows with a scale of their own: found from the row, or that of a group which the row falls into."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .grid_base import SMALLEST_SCALE, CodedRows, GridSpec, is_number, require

MOST_GROUPS = 256
ROW_KEYS = ("alpha", "half_grid", "range_qmax", "divisor", "shift")
GROUP_KEYS = ("alpha", "limits", "widths", "half_grid")


class OwnGrid(GridSpec):
    """A scale and a zero point a row."""


def own_scales(values: np.ndarray, alpha, qmax, half_grid: bool) -> tuple[np.ndarray, np.ndarray]:
    """Scales and zero points of rows by their extremes times ``alpha``, over ``qmax`` steps, (rows, 1) both."""
    low, high = alpha * values.min(1, keepdims=True), alpha * values.max(1, keepdims=True)
    if half_grid:
        scale = np.maximum(abs(low), abs(high)) * (np.float32(2) / (qmax + np.float32(1)))
        scale = np.maximum(scale, SMALLEST_SCALE)
        return scale, np.zeros_like(scale) + qmax / np.float32(2)
    low, high = np.minimum(low, np.float32(0)), np.maximum(high, np.float32(0))
    scale = np.maximum((high - low) / qmax, SMALLEST_SCALE)
    return scale, np.rint(-low / scale)


def mean_magnitudes(values: np.ndarray) -> np.ndarray:
    """Of each row, (rows,) float64, added in the order that :class:`SignGrid` states."""
    rows, columns = values.shape
    magnitudes, sums = np.pad(np.abs(values), ((0, 0), (0, -columns % 16))), np.zeros((rows, 16))
    for start in range(0, columns, 16):
        sums += magnitudes[:, start : start + 16]
    while sums.shape[1] > 1:
        sums = sums[:, : sums.shape[1] // 2] + sums[:, sums.shape[1] // 2 :]
    return sums[:, 0] / columns


@dataclass(frozen=True)
class RowGrid(OwnGrid):
    """A scale, zero point and offset a row, from its extremes times ``alpha``.

    The range is divided into ``range_qmax`` steps, from 0 at most to 0 at least, or, under ``half_grid``, symmetric
    about 0 without a code for it; truncated codes keep every ``divisor``-th of them, after adding ``added`` (in files
    ``shift``).
    """

    alpha: float = 1.0
    half_grid: bool = False
    range_qmax: float = 1.0
    divisor: float = 1.0
    added: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        for name in ("alpha", "range_qmax", "divisor", "added"):
            require(is_number(getattr(self, name)), f"{name} is not a number: {getattr(self, name)!r}")
        require(self.range_qmax > 0 and self.divisor > 0, "an empty grid: range_qmax and divisor must be positive")
        require(isinstance(self.half_grid, bool), f"half_grid must be true or false, got {self.half_grid!r}")

    def to_json(self, numbers):
        numbers = self.alpha, self.half_grid, self.range_qmax, self.divisor, self.added
        return {"bits": self.bits, "granularity": "row", **dict(zip(ROW_KEYS, numbers))}

    def _scales(self, values):
        names = ("alpha", "range_qmax", "divisor", "added")
        alpha, qmax, divisor, added = (np.float32(getattr(self, name)) for name in names)
        scale, zero = own_scales(values, alpha, qmax, self.half_grid)
        return scale * divisor, zero / divisor, (zero + added) / divisor, None


@dataclass(frozen=True)
class SignGrid(OwnGrid):
    """Signs: 1 bit for −m or m, m the mean magnitude of the row (arXiv:2010.07565); 0 counts as negative.

    Magnitudes are added in float64: those of columns j, j + 16, j + 32 … in order, then of the sixteen sums the two
    halves, until one is left.
    """

    bits: int = 1

    def __post_init__(self):
        super().__post_init__()
        require(self.bits == 1, f"signs have 1 bit, got {self.bits!r}")

    def to_json(self, numbers):
        return {"bits": 1, "granularity": "sign"}

    def _scales(self, values):
        scale = np.maximum((2 * mean_magnitudes(values)[:, None]).astype(np.float32), SMALLEST_SCALE)
        zero = np.full_like(scale, 0.5)
        return scale, zero, zero, None


@dataclass(frozen=True)
class GroupGrid(OwnGrid):
    """A scale and a zero point a row, from its extremes, with the bits and the factor of its group (arXiv:2302.00193).

    A row is of the last group whose limit its mean magnitude reaches, added as that of :class:`SignGrid`; the first
    group has no limit. Grids are those of :class:`RowGrid` with ``alphas`` and steps of the group's bits. ``bits``, in
    which all rows are packed, are the most that a group has.

    Parameters
    ----------
    widths : tuple of int
        Bits of 2 to 256 groups.
    alphas : tuple of float
        Theirs.
    limits : tuple of float
        Of all groups but the first, ascending.
    half_grid : bool

    Raises
    ------
    SpecError
        For other numbers of them, and numbers that are none.
    """

    widths: tuple[int, ...] = ()
    alphas: tuple[float, ...] = ()
    limits: tuple[float, ...] = ()
    half_grid: bool = False

    def __post_init__(self):
        super().__post_init__()
        count = len(self.widths)
        require(2 <= count <= MOST_GROUPS, f"there are 2 to {MOST_GROUPS} groups, got {count}")
        for width in self.widths:
            GridSpec(width)
        require(max(self.widths) == self.bits, f"the most bits of groups are {self.bits}, got {self.widths!r}")
        for name, length in (("alphas", count), ("limits", count - 1)):
            numbers = getattr(self, name)
            require(len(numbers) == length, f"{count} groups have {length} {name}, got {len(numbers)}")
            require(all(map(is_number, numbers)), f"{name} must be finite")
            object.__setattr__(self, name, tuple(float(np.float32(number)) for number in numbers))
        require(list(self.limits) == sorted(self.limits), "limits of groups ascend")
        require(isinstance(self.half_grid, bool), f"half_grid must be true or false, got {self.half_grid!r}")

    def to_json(self, numbers):
        alpha, limits = (numbers(np.array(part, np.float32)) for part in (self.alphas, self.limits))
        own = {"alpha": alpha, "limits": limits, "widths": list(self.widths), "half_grid": self.half_grid}
        return {"bits": self.bits, "granularity": "group", **own}

    def table(self) -> np.ndarray:
        """Factor, largest code and limit of each group, (3, groups) float32."""
        tops = [(1 << width) - 1 for width in self.widths]
        return np.array([self.alphas, tops, (0, *self.limits)], np.float32)

    def code(self, values):
        mean = (mean_magnitudes(values)).astype(np.float32)
        group = np.searchsorted(np.array(self.limits, np.float32), mean, side="right")
        alpha, top, _ = self.table()[:, group, None]
        scale, zero = own_scales(values, alpha, top, self.half_grid)
        codes = np.clip(np.rint(values * (np.float32(1) / scale) + zero), np.float32(0), top).astype(np.uint8)
        return CodedRows(codes, scale, zero)
