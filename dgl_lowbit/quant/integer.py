"""Integer arithmetic between accumulators and codes in training: values of packed models, gradients straight through.

What is computed, and why float32 tensors hold it, stands in :mod:`numba_kernels.fixed_point` (arXiv:2007.06919). Each
function here is one of that module's in torch, in whole numbers of 64 bits; tests hold both against each other.
"""

from __future__ import annotations

import numpy as np
import torch

from numba_kernels.fixed_point import (
    CODE_SHIFT,
    CODED_BITS,
    Coding,
    Multiplier,
    are_halves,
    degree_norm,
    unit_of_product,
    unit_of_sum,
)

from .quantized import Quantized

_EXACT = 1 << 24  # whole numbers that float32 holds


class _Instead(torch.autograd.Function):
    """One tensor's values with another's gradient."""

    @staticmethod
    def forward(ctx, floats, values):
        return values.view_as(values)

    @staticmethod
    def backward(ctx, grad):
        return grad, None


def instead(floats: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """``values``, differentiable as ``floats``, which they are nearly equal to."""
    return _Instead.apply(floats, values.detach())


class IntegerCodes(Quantized):
    """Centred codes that integer arithmetic made; ``most`` bounds their magnitude, in steps."""

    def __init__(self, centered, scale: torch.Tensor, most: float):
        super().__init__(centered, scale)
        self.most = most

    def rows(self, chosen):
        return IntegerCodes(self.centered[chosen], self.scale, self.most)


def integer_codes(quantizer, x, norm: torch.Tensor | None = None) -> IntegerCodes:
    """Codes of ``x`` on the grid of ``quantizer``, times degree norms, (rows,), if they are given.

    Raises
    ------
    ValueError
        Where zero points are not multiples of ½.
    """
    codes = quantizer.quantized(x if norm is None else x * norm.view(-1, *[1] * (x.dim() - 1)))
    params = quantizer.qparams(x) if codes.source is None else codes.source[1]
    scale, zero, offset = map(_numpy, params)
    if not are_halves(zero, offset):
        raise ValueError("integer arithmetic needs zero points that are multiples of a half; use quantizer='qlr'.")
    coding, top, centered = Coding.of(scale, offset), quantizer.format.qmax, codes.centered
    if hasattr(centered, "with_values"):  # sparse features, whose zeros are code 0
        whole = instead(centered.values, _codes(coding, x.values, top) - params.zero_point)
        centered = centered.with_values(whole)
    else:
        x = x if isinstance(x, torch.Tensor) else x.to_dense()
        centered = instead(centered, _codes(coding, x, top, norm) - params.zero_point)
    return IntegerCodes(centered, codes.scale, most_steps(params, top))


@torch.no_grad()
def _codes(coding, x, top, norm=None):
    times = 2.0**coding.unit
    if norm is not None:
        times = norm.double().view(-1, *[1] * (x.dim() - 1)) * times
    w = (x.double() * times).round_().clamp_(-(1 << CODED_BITS), 1 << CODED_BITS).long()
    moved = (w * _like(coding.numbers, x) + coding.added) >> CODE_SHIFT
    return (moved + _like(coding.zero, x)).clamp_(0, top).float()


def most_steps(params, top: int) -> float:
    """The largest magnitude of a code, in steps from 0."""
    return float(torch.maximum(params.zero_point.abs(), (top - params.zero_point).abs()).max())


@torch.no_grad()
def fixed(accumulators: torch.Tensor, multiplier: Multiplier) -> torch.Tensor:
    """Fixed-point numbers of accumulators, float32 or float64 that hold whole numbers."""
    a = accumulators.clamp(-multiplier.most, multiplier.most).long()
    v = (a * _like(multiplier.numbers, a) + (1 << (multiplier.shift - 1))) >> multiplier.shift
    return v.float() * 2.0**-multiplier.unit


@torch.no_grad()
def normed(x: torch.Tensor, norm: torch.Tensor, unit: int) -> torch.Tensor:
    """Rows of fixed-point numbers of ``unit`` times their degree norms, as such numbers."""
    times = norm.double().view(-1, *[1] * (x.dim() - 1)) * 2.0**unit
    return (x.double() * times).round_().float() * 2.0**-unit


def on_unit(numbers: torch.Tensor, unit: int) -> torch.Tensor:
    """Numbers, such as biases, as fixed-point numbers of ``unit``."""
    most = (1 << 23) - 1
    values = (numbers.detach().double() * 2.0**unit).round_().clamp_(-most, most).float() * 2.0**-unit
    return instead(numbers, values)


def fixed_product(codes: IntegerCodes, weight: Quantized) -> tuple[torch.Tensor, int]:
    """The product of codes with a quantised weight, (in, out), as fixed-point numbers, and their unit."""
    _, params, qmax, *_ = weight.source
    inputs, most = weight.shape[0], codes.most * most_steps(params, qmax)
    first, second = codes.centered, weight.centered.detach()
    if 4 * inputs * most >= _EXACT:
        dense = first if isinstance(first, torch.Tensor) else first.to_dense()
        first, second = dense.double(), second.double()
    scale = _numpy(codes.scale).astype(np.float64) * _numpy(weight.scale)
    unit = unit_of_product(scale, inputs, most)
    with torch.no_grad():
        return fixed(4 * torch.matmul(first, second), Multiplier.of(scale, 4, unit)), unit


def fixed_sum(total: torch.Tensor, codes: IntegerCodes) -> tuple[torch.Tensor, int]:
    """Sums of centred codes over neighbours as fixed-point numbers, and their unit."""
    scale = _numpy(codes.scale)
    unit = unit_of_sum(scale, codes.most)
    return fixed(2 * total.detach(), Multiplier.of(scale, 2, unit)), unit


def norm_of_degrees(graph, side: str, power: float, plus: int = 0) -> torch.Tensor:
    """(degree + plus)^power of each node, with 15 bits, float32; degrees of 0 count as 1."""
    degrees = graph.out_degrees() if side == "out" else graph.in_degrees()
    return torch.from_numpy(degree_norm(degrees.cpu().numpy(), power, plus)).to(degrees.device)


def _numpy(numbers):
    return numbers.detach().cpu().numpy().reshape(-1)


def _like(numbers, x):
    return torch.from_numpy(numbers).to(x.device)
