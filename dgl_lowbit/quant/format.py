"""The number format: unsigned codes q in {0 … 2^b − 1} stand for x ≈ scale · (q − zero_point)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

SUPPORTED_BITS = (1, 2, 3, 4, 8, 32)
FLOAT_BITS = 32


@dataclass(frozen=True)
class QFormat:
    """Width of a code.

    Parameters
    ----------
    bits : int
        1, 2, 3, 4, 8, or 32 for "not quantised".

    Raises
    ------
    ValueError
        For any other width.

    Examples
    --------
    >>> QFormat(2).levels, QFormat(2).qmax, QFormat(3).storage_bits
    (4, 3, 4)
    """

    bits: int

    def __post_init__(self):
        if isinstance(self.bits, bool) or self.bits not in SUPPORTED_BITS:
            raise ValueError(
                f"bits must be one of {', '.join(map(str, SUPPORTED_BITS))} (32 leaves a component in "
                f"float32), got {self.bits!r}."
            )

    @property
    def is_float(self) -> bool:
        """Whether it stands for "not quantised"."""
        return self.bits == FLOAT_BITS

    @property
    def levels(self) -> int:
        """Number of codes, 2^bits."""
        return 2**self.bits

    @property
    def qmax(self) -> int:
        """Largest code."""
        return self.levels - 1

    @property
    def storage_bits(self) -> int:
        """Bits a code takes in a packed row: 3-bit codes are stored in 4."""
        return 4 if self.bits == 3 else self.bits


class QParams(NamedTuple):
    """What maps values to codes and back; each a float32 tensor that broadcasts against the values.

    ``codes = clamp(round(x / scale + offset), 0, qmax)`` and ``x ≈ scale · (codes − zero_point)``.
    ``offset`` equals ``zero_point`` except under skewness-aware truncation, which codes on a shifted grid.

    Attributes
    ----------
    scale, zero_point, offset : torch.Tensor
        () for one of the tensor, else of a shape that broadcasts against the values.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor
    offset: torch.Tensor
