"""A tensor at several widths at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..quant import Quantizer
from ..quant.quantized import Quantized
from ..quant.sparse import SparseFeatures


class Mixture(Quantizer):
    """Quantisers of several widths in the place of one: what each makes of a tensor, in shares.

    Parameters
    ----------
    parts : sequence of Quantizer
    shares : torch.Tensor
        Of each part, (parts,), of sum 1.
    """

    def __init__(self, parts: Sequence[Quantizer], shares: torch.Tensor):
        like = parts[-1]
        super().__init__(like.format.bits, granularity=like.granularity, axis=like.axis, channels=like.channels)
        self.parts, self.shares = nn.ModuleList(parts), shares

    def quantized(self, x, observed=None, protected=None):
        mixed = [part.fake_quantize(x) for part in self.parts]
        one = torch.ones((), device=self.shares.device)
        if all(isinstance(part, SparseFeatures) for part in mixed):
            return Quantized(mixed[0].with_values(self._sum([part.values for part in mixed])), one)
        return Quantized(self._sum([x.to_dense() if isinstance(x, SparseFeatures) else x for x in mixed]), one)

    def _sum(self, parts):
        total = self.shares[0] * parts[0]
        for share, part in zip(self.shares[1:], parts[1:]):
            total = total + share * part
        return total
