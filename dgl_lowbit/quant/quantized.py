"""A quantised tensor, as layers pass it on."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch

from .format import QParams
from .sparse import SparseFeatures
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
    # The codes that these are made of and the power of two, (rows, 1), that each row of them is multiplied by.
    shifted: tuple[Quantized, torch.Tensor] | None = None

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

    def whole(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None] | None:
        """Codes, whole numbers in float32, the zero point, and the power of two of each row, (rows, 1), or None.

        None where it is not known what the codes were made of. ``centered`` is (codes − zero point) · power.
        """
        codes, powers = self.shifted or (self, None)
        if codes.source is None:
            return None
        zero_point = codes.source[1].zero_point.detach()
        return (codes.centered.detach() + zero_point).round(), zero_point, powers

    def passing(self, x: torch.Tensor | SparseFeatures, rows: torch.Tensor) -> Quantized:
        """The codes of ``x`` with the values of ``rows``, (rows,) bool, over the scale in the place of theirs.

        Their products with the scale are the values, and so are their gradients; the scale has none of them.
        """
        centered, scale = self.centered, self.scale
        if isinstance(x, SparseFeatures) and isinstance(centered, SparseFeatures):
            passed = x.values / (x.per_value(scale) if scale.dim() > 1 else scale)
            values = torch.where(x.per_value(rows), passed, centered.values)
            return Quantized(centered.with_values(values), scale)
        dense: torch.Tensor = x.to_dense() if isinstance(x, SparseFeatures) else x
        return Quantized(torch.where(rows.view(-1, *[1] * (dense.dim() - 1)), dense / scale, centered), scale)

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
