"""The number contract: how numbers become codes and codes numbers, stated once.

A code q is an unsigned integer from 0 to 2^bits − 1 and stands for (q − zero_point) · scale, zero_point a float; a
number x has the code clamp(rint(x · (1 / scale) + offset), 0, 2^bits − 1), all in float32, halves rounded to even.
``offset`` is the zero point but under skewness-aware truncation (arXiv:2308.14949), which codes on a shifted grid.

What a scale belongs to is the *granularity*: the whole tensor, a channel (column), a row, whose own extremes give it,
a row of signs, whose mean magnitude does, or a row by a power of two of one scale ("shift"). Each is a frozen value
here. Files hold them as JSON; kernels are laid out from them, and the NumPy twin codes with them. Codes of a weight may
stand for other whole numbers than themselves, its :class:`~numba_kernels.levels.Levels`.

    granularity  JSON beside "bits" and "granularity"
    tensor       scale, zero_point, offset: numbers
    channel      the same: numbers, or names of float32 arrays of a number a column
    shift        the same: numbers; reach
    row          alpha, half_grid, range_qmax, divisor, shift
    sign         nothing; 1 bit

A tensor's or a channel's grid may say ``"arithmetic": "integer"``: then codes come of whole multipliers and shifts, as
:mod:`numba_kernels.fixed_point` says, and offsets and zero points are multiples of ½.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Callable

import numpy as np

from .errors import LowBitError
from .fixed_point import Coding, are_halves, most_steps

BITS = (1, 2, 3, 4, 8)
# In "shift" a row's scale is the common one over 2^0 … 2^6; 2^6 over that, its weight in sums, fits an int8.
MOST_HALVINGS = 6
MOST_ZERO_POINT = 1 << 24
# Keeps a row of zeros invertible.
SMALLEST_SCALE = np.float32(2.0**-40)


class SpecError(LowBitError, ValueError):
    """Numbers that are no grid."""


@dataclass
class CodedRows:
    """Codes, (rows, columns) uint8, with scale and zero point that broadcast against them."""

    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    unit: np.ndarray | None = None  # the scale that those of all rows are multiples of, by powers of two

    def values(self) -> np.ndarray:
        """What the codes stand for, (rows, columns) float32."""
        return (self.codes.astype(np.float32) - self.zero) * self.scale

    def powers(self) -> np.ndarray:
        """Scales in units, (rows,) int8."""
        return np.rint(self.scale[:, 0] / self.unit).astype(np.int8)

    def first(self, rows: int) -> CodedRows:
        """The first rows."""
        scale, zero = (part[:rows] if part.ndim == 2 else part for part in (self.scale, self.zero))
        return CodedRows(self.codes[:rows], scale, zero, self.unit)


def require(condition, message):
    """Raise SpecError unless ``condition`` holds."""
    if not condition:
        raise SpecError(message)


def is_number(value) -> bool:
    """Whether a value is a number, finite in float32."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return False
    try:
        with np.errstate(over="ignore"):
            return bool(np.isfinite(np.float32(value)))
    except OverflowError:  # of a whole number
        return False


@dataclass(frozen=True)
class GridSpec:
    """What every grid has: ``bits``, 1, 2, 3, 4 or 8."""

    bits: int

    def __post_init__(self):
        known = isinstance(self.bits, (int, np.integer)) and not isinstance(self.bits, bool) and self.bits in BITS
        require(known, f"codes have {', '.join(map(str, BITS))} bits, got {self.bits!r}")

    @property
    def top(self) -> int:
        """Largest code."""
        return (1 << self.bits) - 1

    def to_json(self, numbers: Callable[[np.ndarray], float | str]) -> dict:
        """What a file holds of it; ``numbers`` gives an array's one number, or the name it is kept under."""
        raise NotImplementedError

    def _scales(self, values: np.ndarray) -> tuple:
        """Scale, zero point and offset of rows, and the unit of scales that are its multiples."""
        raise NotImplementedError

    def code(self, values: np.ndarray) -> CodedRows:
        """Codes of ``values``, (rows, columns) float32."""
        scale, zero, offset, unit = self._scales(values)
        place = np.rint(values * (np.float32(1) / scale) + offset)
        codes = np.clip(place, np.float32(0), np.float32(self.top)).astype(np.uint8)
        return CodedRows(codes, scale, zero, unit)


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


@dataclass(frozen=True)
class RowGrid(GridSpec):
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
        return {"bits": self.bits, "granularity": "row", **dict(zip(_KEYS["row"], numbers))}

    def _scales(self, values):
        names = ("alpha", "range_qmax", "divisor", "added")
        alpha, qmax, divisor, added = (np.float32(getattr(self, name)) for name in names)
        low, high = alpha * values.min(1, keepdims=True), alpha * values.max(1, keepdims=True)
        if self.half_grid:
            scale = np.maximum(abs(low), abs(high)) * (np.float32(2) / (qmax + np.float32(1)))
            scale = np.maximum(scale, SMALLEST_SCALE)
            zero = np.full_like(scale, qmax / np.float32(2))
        else:
            low, high = np.minimum(low, np.float32(0)), np.maximum(high, np.float32(0))
            scale = np.maximum((high - low) / qmax, SMALLEST_SCALE)
            zero = np.rint(-low / scale)
        return scale * divisor, zero / divisor, (zero + added) / divisor, None


@dataclass(frozen=True)
class SignGrid(RowGrid):
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
        rows, columns = values.shape
        magnitudes = np.pad(np.abs(values), ((0, 0), (0, -columns % 16)))
        sums = np.zeros((rows, 16))
        for start in range(0, columns, 16):
            sums += magnitudes[:, start : start + 16]
        while sums.shape[1] > 1:
            sums = sums[:, : sums.shape[1] // 2] + sums[:, sums.shape[1] // 2 :]
        scale = np.maximum((2 * sums / columns).astype(np.float32), SMALLEST_SCALE)
        zero = np.full_like(scale, 0.5)
        return scale, zero, zero, None


_KEYS = {
    "tensor": ("scale", "zero_point", "offset"),
    "channel": ("scale", "zero_point", "offset"),
    "shift": ("scale", "zero_point", "offset", "reach"),
    "row": ("alpha", "half_grid", "range_qmax", "divisor", "shift"),
    "sign": (),
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
    numbers = []
    for key in keys[:3]:
        value = content[key]
        require(isinstance(value, str) or is_number(value), f"{key} is not a number: {value!r}")
        numbers.append(array(value) if isinstance(value, str) else np.array([value], np.float32))
        require(numbers[-1].dtype == np.float32 and numbers[-1].ndim == 1, f"{key} must be float32 numbers")
    scale, zero_point, offset = numbers
    if granularity == "shift":
        return ShiftGrid(content["bits"], scale, zero_point, offset, length, content["reach"])
    kind = IntegerGrid if is_integer else FixedGrid
    return kind(content["bits"], scale, zero_point, offset, length)
