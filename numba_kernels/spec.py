"""The number contract: how numbers become codes and codes numbers, stated once.

A code q is an unsigned integer from 0 to 2^bits − 1 and stands for (q − zero_point) · scale, zero_point a float; a
number x has the code clamp(rint(x · (1 / scale) + offset), 0, 2^bits − 1), all in float32, halves rounded to even.
``offset`` is the zero point but under skewness-aware truncation (arXiv:2308.14949), which codes on a shifted grid.

What a scale belongs to is the *granularity*: the whole tensor, a channel (column), a row, whose own extremes give it,
with bits that may be those of a group of rows, a row of signs, whose mean magnitude does, or a row by a power of two of
one scale ("shift"). Each is a frozen value here or, of rows, in :mod:`numba_kernels.row_grids`. Files hold them as
JSON; kernels are laid out from them, and the NumPy twin codes with them. Codes of a weight may stand for other whole
numbers than themselves, its :class:`~numba_kernels.levels.Levels`.

    granularity  JSON beside "bits" and "granularity"
    tensor       scale, zero_point, offset: numbers
    channel      the same: numbers, or names of float32 arrays of a number a column
    shift        the same: numbers; reach
    row          alpha, half_grid, range_qmax, divisor, shift
    sign         nothing; 1 bit
    group        widths: bits of groups; alpha, limits: numbers, or names of float32 arrays; half_grid

A tensor's or a channel's grid may say ``"arithmetic": "integer"``: then codes come of whole multipliers and shifts, as
:mod:`numba_kernels.fixed_point` says, and offsets and zero points are multiples of ½.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Callable

import numpy as np

from .fixed_point import Coding, are_halves, most_steps
from .grid_base import BITS, MOST_ZERO_POINT, SMALLEST_SCALE, CodedRows, GridSpec, SpecError, is_number, require
from .row_grids import GROUP_KEYS, MOST_GROUPS, ROW_KEYS, GroupGrid, OwnGrid, RowGrid, SignGrid

__all__ = [
    "BITS",
    "MOST_GROUPS",
    "MOST_HALVINGS",
    "MOST_ZERO_POINT",
    "SMALLEST_SCALE",
    "CodedRows",
    "FixedGrid",
    "GridSpec",
    "GroupGrid",
    "IntegerGrid",
    "OwnGrid",
    "RowGrid",
    "ShiftGrid",
    "SignGrid",
    "SpecError",
    "from_json",
    "is_number",
    "require",
]
# In "shift" a row's scale is the common one over 2^0 … 2^6; 2^6 over that, its weight in sums, fits an int8.
MOST_HALVINGS = 6


@dataclass(frozen=True, eq=False)
class FixedGrid(GridSpec):
    """One scale, zero point and offset, or one of each a column: (1,) or (columns,) float32 arrays.

    Raises
    ------
    SpecError
        For numbers that are not finite, scales that are not positive, zero points beyond 2^24, beside which float32 has
        no codes, or lengths that differ from ``columns`` and 1.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    offset: np.ndarray
    columns: int = 1

    def __post_init__(self):
        super().__post_init__()
        for name in ("scale", "zero_point", "offset"):
            with np.errstate(over="ignore"):
                array = np.array(getattr(self, name), np.float32).reshape(-1)
            require(len(array) in (1, self.columns), f"{len(array)} numbers for {self.columns} columns in {name}")
            require(np.isfinite(array).all(), f"{name} must be finite")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        require((self.scale > 0).all(), "a scale must be positive")
        is_within = (abs(self.zero_point) <= MOST_ZERO_POINT).all()
        require(is_within, f"a zero point is at most {MOST_ZERO_POINT:,} in size")

    @property
    def is_uniform(self) -> bool:
        """Whether all columns share scale, zero point and offset."""
        return all((array == array[0]).all() for array in (self.scale, self.zero_point, self.offset))

    @property
    def most_steps(self) -> float:
        """The largest magnitude of a code, in steps from 0."""
        return most_steps(self.zero_point, self.top)

    def to_json(self, numbers):
        arrays = {name: numbers(getattr(self, name)) for name in _KEYS["tensor"]}
        return {"bits": self.bits, "granularity": "channel" if self.columns > 1 else "tensor", **arrays}

    def _scales(self, values):
        return self.scale, self.zero_point, self.offset, None

    def __eq__(self, other):
        return type(self) is type(other) and all(
            np.array_equal(getattr(self, field.name), getattr(other, field.name)) for field in fields(self)
        )

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class IntegerGrid(FixedGrid):
    """The same, coded with integer arithmetic."""

    def __post_init__(self):
        super().__post_init__()
        is_served = are_halves(self.zero_point, self.offset)
        require(is_served, "integer arithmetic needs zero points and offsets that are whole, or all odd halves")
        is_within = ((self.offset >= 0) & (self.offset <= self.top)).all()
        require(is_within, "integer arithmetic needs offsets that are codes")

    def to_json(self, numbers):
        return {**super().to_json(numbers), "arithmetic": "integer"}

    @property
    def coding(self) -> Coding:
        """Its multipliers."""
        scale, offset = np.broadcast_arrays(self.scale, self.offset)
        return Coding.of(scale, offset, self.top)

    def code(self, values, norm=None):
        """Codes of ``values``, (rows, columns) float32, times a degree norm a row if they are given."""
        return CodedRows(self.coding.codes(values, self.top, norm), self.scale, self.zero_point)


@dataclass(frozen=True, eq=False)
class ShiftGrid(FixedGrid):
    """One scale, halved for rows whose largest magnitude is at most reach / 2, reach / 4 … reach / 64.

    Sums of such rows over neighbours are still sums of integers, shifted.
    """

    reach: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        require(self.is_uniform, "reach goes with one scale for all columns")
        require(is_number(self.reach) and self.reach >= 0, f"reach must not be negative, got {self.reach!r}")

    def to_json(self, numbers):
        return {**super().to_json(numbers), "granularity": "shift", "reach": self.reach}

    def _scales(self, values):
        largest = np.abs(values).max(1, keepdims=True, initial=0)
        halves = np.float32(self.reach) * np.float32(2) ** -np.arange(1, MOST_HALVINGS + 1, dtype=np.float32)
        halvings = (largest <= halves).sum(1, keepdims=True).astype(np.float32)
        scale, unit = self.scale[:1], self.scale[:1] * np.float32(2.0**-MOST_HALVINGS)
        return scale * np.float32(2) ** -halvings, self.zero_point[:1], self.offset[:1], unit


_KEYS = {
    "tensor": ("scale", "zero_point", "offset"),
    "channel": ("scale", "zero_point", "offset"),
    "shift": ("scale", "zero_point", "offset", "reach"),
    "row": ROW_KEYS,
    "sign": (),
    "group": GROUP_KEYS,
}


def from_json(content: dict, columns: int, array: Callable[[str], np.ndarray]) -> GridSpec:
    """The grid of ``columns`` columns that a file's JSON describes; ``array`` gives arrays by name.

    Raises
    ------
    SpecError
        When it describes none, or has other keys.
    """
    require(isinstance(content, dict), f"a quantizer is an object, got {content!r}")
    granularity = str(content.get("granularity"))
    require(granularity in _KEYS, f"granularity {granularity!r}; known are {', '.join(_KEYS)}")
    keys = _KEYS[granularity]
    is_integer = granularity in ("tensor", "channel") and content.get("arithmetic") == "integer"
    has = {"bits", "granularity", *keys, *(["arithmetic"] if is_integer else [])}
    require(set(content) == has, f"a {granularity} quantizer has {keys}, got {[*content]}")
    require(isinstance(columns, int) and not isinstance(columns, bool) and columns > 0, f"{columns!r} columns")
    if granularity == "row":
        return RowGrid(content["bits"], *(content[key] for key in keys))
    if granularity == "sign":
        return SignGrid(content["bits"])
    length = columns if granularity == "channel" else 1
    if granularity == "group":
        return _grouped(content, array)
    scale, zero_point, offset = (_numbers(key, content[key], array) for key in keys[:3])
    if granularity == "shift":
        return ShiftGrid(content["bits"], scale, zero_point, offset, length, content["reach"])
    kind = IntegerGrid if is_integer else FixedGrid
    return kind(content["bits"], scale, zero_point, offset, length)


def _numbers(key, value, array):
    """A number, or the float32 array that is named, as an array of one dimension."""
    require(isinstance(value, str) or is_number(value), f"{key} is not a number: {value!r}")
    found = array(value) if isinstance(value, str) else np.array([value], np.float32)
    require(found.dtype == np.float32 and found.ndim == 1, f"{key} must be float32 numbers")
    return found


def _grouped(content, array):
    """A grid of groups; one number stands for those of all groups."""
    widths = content["widths"]
    require(isinstance(widths, (list, tuple)), f"widths are a list of bits, got {widths!r}")
    each = []
    for key, length in (("alpha", len(widths)), ("limits", len(widths) - 1)):
        numbers = _numbers(key, content[key], array).tolist()
        each.append(tuple(numbers * length if len(numbers) == 1 else numbers))
    return GroupGrid(content["bits"], tuple(widths), *each, content["half_grid"])
