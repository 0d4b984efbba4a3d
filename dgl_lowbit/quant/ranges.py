"""Ranges of rows: the pass that tells whether values are finite finds them, and who codes these next knows them."""

from __future__ import annotations

import torch

from . import fused
from .beside import Beside
from .sparse import SparseFeatures

_found = Beside()


def is_finite(x: torch.Tensor | SparseFeatures) -> bool:
    """Whether no value of ``x`` is infinite or NaN."""
    values = (x.values if isinstance(x, SparseFeatures) else x).detach()
    if isinstance(x, torch.Tensor) and fused.can_take_ranges(values):
        ranges = fused.ranges_of_rows(values)
        _found.note(x, ranges)
        return all(bool(torch.isfinite(ends).all()) for ends in ranges)
    # A sum is finite unless a term is not, or (rarely) the sum overflows.
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


def ranges_of_rows(x: torch.Tensor | SparseFeatures) -> tuple[torch.Tensor, torch.Tensor]:
    """Smallest and largest of each row of ``x``, (…, columns), both (…, 1), without gradient."""
    if isinstance(x, SparseFeatures):
        x = x.detach()
        return x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    known, values = _found.taken(x), x.detach()
    if known is not None:
        return known
    if fused.can_take_ranges(values):
        return fused.ranges_of_rows(values)
    return values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
