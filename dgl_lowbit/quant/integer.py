"""Integer arithmetic between accumulators and codes in training: values of packed models, gradients straight through.

What is computed, and why float32 tensors hold it, stands in :mod:`numba_kernels.fixed_point` (arXiv:2007.06919). Each
function here is one of that module's in torch, in whole numbers of 64 bits; tests hold both against each other.
"""

from __future__ import annotations

import numpy as np
import torch

from numba_kernels.fixed_point import (
    CODED_BITS,
    NORM_BITS,
    NORM_FRACTION,
    NUMBER_BITS,
    Coding,
    Multiplier,
    are_halves,
    degree_norm,
    most_steps,
    unit_of_product,
    unit_of_sum,
)

from .quantized import Quantized
from .sparse import SparseFeatures

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
    top, centered = quantizer.format.qmax, codes.centered
    coding = Coding.of(scale, offset, top)
    if isinstance(centered, SparseFeatures):  # whose zeros are zeros
        whole = instead(centered.values, _codes(coding, x.values, top) - params.zero_point)
        centered = centered.with_values(whole)
    else:
        x = x if isinstance(x, torch.Tensor) else x.to_dense()
        centered = instead(centered, _codes(coding, x, top, norm) - params.zero_point)
    return IntegerCodes(centered, codes.scale, most_steps(zero, top))


@torch.no_grad()
def _codes(coding, x, top, norm=None):
    most, x = (1 << CODED_BITS) - 1, x * _like(coding.power, x)
    if norm is not None:
        norm = norm.view(-1, *[1] * (x.dim() - 1))
        mantissa, _ = torch.frexp(norm)
        x = x * (norm / mantissa)  # powers of two
    w = x.clamp(-most, most).round_().long()
    if norm is not None:
        w = _shifted(w * (mantissa * (1 << NORM_BITS)).long(), NORM_BITS)
    moved = (w * _like(coding.numbers, x) + coding.added) >> coding.shift
    return (moved + _like(coding.whole, x)).clamp_(0, top).float()


def _shifted(a, shift):
    return (a + ((1 << shift) >> 1 if isinstance(shift, int) else (torch.ones_like(shift) << shift) >> 1)) >> shift


@torch.no_grad()
def fixed(accumulators: torch.Tensor, multiplier: Multiplier, count) -> torch.Tensor:
    """Fixed-point numbers of accumulators of ``count`` terms, a number or (rows, 1), floats that hold whole numbers."""
    most, dropped = (1 << multiplier.bits) - 1, _like(np.int64(multiplier.dropped(count)), accumulators)
    a = _shifted(accumulators.long(), dropped).clamp_(-most, most)
    v = _shifted(a * _like(multiplier.numbers, a), multiplier.shift - dropped)
    return v.float() * 2.0**-multiplier.unit


@torch.no_grad()
def normed(x: torch.Tensor, norm: torch.Tensor, unit: int) -> torch.Tensor:
    """Rows of fixed-point numbers times their degree norms, as such numbers of ``unit``."""
    most, times = (1 << NUMBER_BITS) - 1, (norm * 2.0**unit).view(-1, *[1] * (x.dim() - 1))
    return (x * times).clamp_(-most, most).round_() * 2.0**-unit


def on_unit(numbers: torch.Tensor, unit: int) -> torch.Tensor:
    """Numbers, such as biases, as fixed-point numbers of ``unit``."""
    most = (1 << 23) - 1
    values = (numbers.detach().double() * 2.0**unit).round_().clamp_(-most, most).float() * 2.0**-unit
    return instead(numbers, values)


def fixed_product(codes: IntegerCodes, weight: Quantized, bits: int) -> tuple[torch.Tensor, int]:
    """The product of codes with a weight, (in, out), of ``bits`` as stored, as fixed-point numbers, and their unit."""
    _, params, *_ = weight.source
    inputs, most = weight.shape[0], codes.most * most_steps(_numpy(params.zero_point), (1 << bits) - 1)
    first, second = codes.centered, weight.centered.detach()
    if 4 * inputs * most >= _EXACT:
        dense = first if isinstance(first, torch.Tensor) else first.to_dense()
        first, second = dense.double(), second.double()
    scale = _numpy(codes.scale).astype(np.float64) * _numpy(weight.scale)
    unit = unit_of_product(scale, inputs, most)
    with torch.no_grad():
        return fixed(4 * torch.matmul(first, second), Multiplier.of_products(scale, inputs, most, unit), inputs), unit


def fixed_sum(total: torch.Tensor, codes: IntegerCodes, count: torch.Tensor, norm=None) -> tuple[torch.Tensor, int]:
    """Sums of ``count`` centred codes, (rows,), as fixed-point numbers, times degree norms if given; and their unit."""
    scale, counts = _numpy(codes.scale), count.cpu().numpy().reshape(-1, *[1] * (total.dim() - 1))
    unit = unit_of_sum(scale, codes.most)
    values = fixed((2 * total.detach()).round(), Multiplier.of_sums(scale, codes.most, unit), counts)
    return (values, unit) if norm is None else (normed(values, norm, unit + NORM_FRACTION), unit + NORM_FRACTION)


def norm_of_degrees(degrees: torch.Tensor, power: float, plus: int = 0) -> torch.Tensor:
    """(degree + plus)^power of each node, with 15 bits, float32; degrees of 0 count as 1."""
    return torch.from_numpy(degree_norm(degrees.cpu().numpy(), power, plus)).to(degrees.device)


def _numpy(numbers):
    return numbers.detach().cpu().numpy().reshape(-1)


def _like(numbers, x):
    return torch.as_tensor(numbers).to(x.device)
