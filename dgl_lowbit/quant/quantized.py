"""A quantised tensor, as layers pass it on."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch

from .format import QParams
from .ste import centered_codes


class Quantized:
    """``centered`` codes (codes − zero_point) and the ``scale`` they are multiplied by.

    Parameters
    ----------
    centered : torch.Tensor or SparseFeatures
    scale : torch.Tensor
        Broadcasts against ``centered``.
    """

    # What is coded, the arguments of :func:`~dgl_lowbit.quant.ste.centered_codes`, where it is known.
    source: Any = None

    def __init__(self, centered, scale: torch.Tensor):
        self.centered, self.scale = centered, scale

    @classmethod
    def of(cls, x, params: QParams, qmax: int, margin: torch.Tensor, clip_gradient: bool) -> Quantized:
        """The codes of ``x``, made when they are asked for: sums over neighbours may pack them instead."""
        quantized = cls.__new__(cls)
        quantized.source, quantized.scale = (x, params, qmax, margin, clip_gradient), params.scale
        return quantized

    @cached_property
    def centered(self):
        return centered_codes(*self.source)

    @property
    def shape(self) -> torch.Size:
        return (self.centered if self.source is None else self.source[0]).shape

    def block(self, rows: slice) -> Quantized:
        """Some of the rows, without codes of the others being made."""
        if self.source is None or "centered" in vars(self):
            return self.rows(rows)
        x, params, *others = self.source
        params = QParams(*(part[rows] if part.dim() > 1 and len(part) > 1 else part for part in params))
        return Quantized.of(x[rows], params, *others)

    def rows(self, chosen: slice | torch.Tensor) -> Quantized:
        """Some of the rows, with their scales where there is one a row."""
        scale = self.scale
        return Quantized(self.centered[chosen], scale[chosen] if scale.dim() > 1 and len(scale) > 1 else scale)
