"""Gradients rounded to 8 bits by chance, up or down, so that their mean is what was rounded.

A column has a step of its own, which factors out of sums over neighbours as channels' scales do: sums of codes are
sums of integers. Of the 255 steps between bytes 253 span a column's numbers: one is left for rounding the largest up,
one for 0 to have a code, as most nodes of a semi-supervised loss have no gradient at all.

A number's chance is a hash of the seed and its place among the numbers, so that it is the same on every device, in
every pass and thread, and is not kept. Stochastic rounding: arXiv:1502.02551; in training graph neural networks:
arXiv:2308.00890. The hash is MurmurHash3's finaliser (A. Appleby).
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from .format import FLOAT_BITS

GRADIENT_BITS = (8, FLOAT_BITS)
_STEPS = 253


class Grid(NamedTuple):
    """Code = value / step + zero, rounded; a number a column, (columns,) float32."""

    inverse: torch.Tensor  # of the step; 0 where no number is far enough from 0
    step: torch.Tensor  # NaN where one of the column's numbers is not finite
    zero: torch.Tensor  # whole numbers


def grid_of(low: torch.Tensor, high: torch.Tensor) -> Grid:
    """The grid of columns whose smallest and largest numbers are ``low`` and ``high``, NaN where one is."""
    low, high = low.clamp(max=0), high.clamp(min=0)
    step = high / _STEPS - low / _STEPS
    step = step.where(step.isfinite(), torch.nan)
    inverse = step.reciprocal().where(step >= torch.finfo(step.dtype).tiny, 0.0)
    return Grid(inverse, step, (-low * inverse).ceil())


def new_seed() -> torch.Tensor:
    """32 bits of torch's generator, () int64."""
    return torch.randint(1 << 32, ())


def chances(shape: torch.Size, seed: torch.Tensor, device=None) -> torch.Tensor:
    """Numbers from 0 to below 1, of 24 bits, float32."""
    bits = torch.arange(shape.numel(), device=device) % (1 << 32) ^ seed
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = (bits ^ (bits >> shift)) * factor & 0xFFFFFFFF
    bits = bits ^ (bits >> 16)
    return ((bits >> 8) * 2.0**-24).float().view(shape)


def rounded(x: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
    """``x``, (rows, …), on the grid of each of its columns; columns that are not finite become NaN."""
    if not x.numel():
        return x
    rows = x.flatten(1) if x.dim() > 1 else x.unsqueeze(1)
    grid = grid_of(rows.amin(0), rows.amax(0))
    place = rows * grid.inverse
    below = place.floor()
    return ((below + (chances(rows.shape, seed, x.device) < place - below)) * grid.step).view(x.shape)


def with_gradient_in(x: torch.Tensor, bits: int) -> torch.Tensor:
    """``x`` itself, (rows, …), not a leaf, whose gradient from now on is rounded to ``bits``: 8, or 32 for float32.

    A gradient that is to be differentiated again stays in float32.
    """
    if bits == 8 and x.requires_grad and torch.is_grad_enabled():
        x.register_hook(lambda grad: None if torch.is_grad_enabled() else rounded(grad, new_seed()))
    return x
