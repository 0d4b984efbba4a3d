"""Bitwise truncation (BT) and its skewness-aware form (BT*), arXiv:2308.14949."""

from __future__ import annotations

import torch

from .format import QParams
from .qlr import QLRQuantizer

_FINE_QMAX = 255


def skewness(x: torch.Tensor) -> torch.Tensor:
    """Sample skewness, the third standardised moment.

    Parameters
    ----------
    x : torch.Tensor
        Of any shape.

    Returns
    -------
    torch.Tensor
        A scalar, float32; 0 for a constant tensor.

    Examples
    --------
    >>> round(skewness(torch.tensor([0.0, 0.0, 0.0, 4.0])).item(), 3)
    1.155
    """
    deviation = x - x.mean()
    variance = deviation.square().mean()
    skew = deviation.pow(3).mean() / variance.pow(1.5)
    return torch.where(variance > 0, skew, torch.zeros_like(skew))


class TruncationQuantizer(QLRQuantizer):
    """Keeps the top bits of an 8-bit code (BT, arXiv:2308.14949).

    ``code8 → round(code8 / d)`` with d = 255 / (2^b − 1): at 2 bits d = 85, and the levels 0, 85, 170, 255
    of the 8-bit affine grid stay. Since d is odd, rounding twice equals rounding once, so the truncated code
    is a b-bit code of scale d·scale8 and zero point zero8 / d, whatever its remainder.

    Parameters
    ----------
    bits : {1, 2, 4, 8, 32}
        Bits kept; 8 keeps all.
    skew_aware : bool
        BT*: add the tensor's rounded sample skewness to code8 before truncating. The skewness is measured where the
        range is observed: measured under dropout, that of sparse features would move zeros to another level.
    grid : {"affine", "auto"}
        Both are the affine grid.
    **options
        As of :class:`QLRQuantizer`.

    Raises
    ------
    ValueError
        At 3 bits (255 is no multiple of 7), or for the grid without zero.
    """

    def __init__(self, bits, *, skew_aware=False, grid="affine", **options):
        if bits == 3:
            raise ValueError("bitwise truncation keeps 1, 2, 4 or 8 bits, got 3; use quantizer='qlr'.")
        if grid not in ("affine", "auto"):
            raise ValueError(f"bitwise truncation works on the affine grid, got grid={grid!r}.")
        super().__init__(bits, grid="affine", **options)
        self.skew_aware = skew_aware
        self.register_buffer("skew", torch.zeros(()))

    @property
    def _range_qmax(self):
        return _FINE_QMAX

    def number_format(self):
        return {**super().number_format(), "skew_aware": self.skew_aware}

    def _grid_params(self, low, high):
        fine = super()._grid_params(low, high)
        divisor = _FINE_QMAX / self.format.qmax
        return QParams(fine.scale * divisor, fine.zero_point / divisor, (fine.zero_point + self.skew) / divisor)

    @torch.no_grad()
    def _search(self, x):
        if self.skew_aware:
            self.skew.copy_(skewness(x).round())
        super()._search(x)

    def _truncation(self):
        return _FINE_QMAX / self.format.qmax, float(self.skew)

    def extra_repr(self):
        return f"{super().extra_repr()}, skew_aware={self.skew_aware}"
