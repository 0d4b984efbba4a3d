"""Products of codes where few values are not 0, as in bags of words: the zeros are not multiplied one by one."""

from __future__ import annotations

import torch

from . import fused_products
from .format import QParams
from .ste import encode

# Share of values that are not 0 up to which they are few, and rows that it is judged by.
_FEW, _JUDGED = 0.1, 64


def is_mostly_zero(x: torch.Tensor) -> bool:
    """Whether few of the values of ``x``, (rows, columns), are not 0; judged by some rows."""
    some = x[:: max(len(x) // _JUDGED, 1)]
    return int(some.count_nonzero()) <= _FEW * some.numel()


def multiplied(x: torch.Tensor, params: QParams, qmax: int, weight: torch.Tensor) -> torch.Tensor:
    """Centred codes of ``x``, (rows, in), times ``weight``, (in, columns); one scale for all or one a row.

    Sums of whole and half numbers, exact in any order.
    """
    nothing = _code_of_zero(params, qmax)
    out = (nothing.view(-1, 1) * weight.sum(0)).expand(len(x), -1).contiguous()
    fused_products.multiply_few(x, params, nothing, qmax, weight.contiguous(), out)
    return out


def gradients(
    x, params: QParams, qmax: int, grad: torch.Tensor, weight: torch.Tensor, ends: tuple[float, float], grad_weight
) -> tuple[torch.Tensor, torch.Tensor]:
    """With the gradient h = ``grad`` · weightᵀ of the codes: Σ h · x within the range, by scale; Σ h · codes a row.

    The latter float64, (rows,). ``grad_weight``, zeros, becomes codesᵀ · grad, where it is asked for.
    """
    nothing = _code_of_zero(params, qmax)
    if grad_weight is not None:
        grad_weight += (nothing.view(-1, 1) * grad).sum(0)
    numbers = x, params, nothing, qmax, grad, weight.contiguous()
    within, by_row = fused_products.gradients_of_few(*numbers, *ends, grad_weight)
    of_zeros = grad.double() @ weight.sum(0, dtype=torch.float64)
    return within, by_row + nothing.view(-1) * of_zeros


def _code_of_zero(params, qmax):
    return encode(torch.zeros_like(params.offset), params, qmax) - params.zero_point
