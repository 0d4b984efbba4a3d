"""Levels: whole numbers that the codes of a weight stand for, in the place of themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .spec import require


@dataclass(frozen=True)
class Levels:
    """What the codes 0, 1, 2, … of a weight stand for, before zero point and scale: whole numbers of their own.

    Raises
    ------
    SpecError
        Unless these are 2 to 2^bits whole numbers from 0 to 255, ascending.
    """

    values: tuple[int, ...]
    bits: int

    def __post_init__(self):
        values = self.values
        known = isinstance(values, tuple) and all(type(value) is int and 0 <= value <= 255 for value in values)
        require(known, f"levels are whole numbers from 0 to 255, got {values!r:.80}")
        require(2 <= len(values) <= 1 << self.bits, f"2 to {1 << self.bits} levels, got {len(values)}")
        require(all(low < high for low, high in zip(values, values[1:])), f"levels ascend, got {values!r:.80}")

    @property
    def top(self) -> int:
        """Largest level."""
        return self.values[-1]

    def of(self, codes: np.ndarray) -> np.ndarray:
        """The levels of ``codes``, uint8.

        Raises
        ------
        SpecError
            For codes that have none.
        """
        require(codes.max(initial=0) < len(self.values), "codes beyond the last level")
        return np.array(self.values, np.uint8)[codes]
