"""What every grid has, and what is coded with one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

import numpy as np

from .errors import LowBitError

BITS = (1, 2, 3, 4, 8)
MOST_ZERO_POINT = 1 << 24
# Keeps a row of zeros invertible.
SMALLEST_SCALE = np.float32(2.0**-40)


class SpecError(LowBitError, ValueError):
    """Numbers that are no grid."""


@dataclass
class CodedRows:
    """Codes, (rows, columns) uint8, with scale and zero point that broadcast against them; 0 in rows not sent."""

    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    unit: np.ndarray | None = None  # the scale that those of all rows are multiples of, by powers of two
    sent: np.ndarray | None = None  # (rows,) bool, where not all rows are

    def values(self) -> np.ndarray:
        """What the codes stand for, (rows, columns) float32."""
        values = (self.codes.astype(np.float32) - self.zero) * self.scale
        return values if self.sent is None else np.where(self.sent[:, None], values, np.float32(0))

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
