"""Products of codes in compiled passes: of integers, or of those few values that are not 0; exact, in any order."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .format import QParams
from .passes import as_sums, in_parts, kernels, numbers_of


def whole_weight(weight: torch.Tensor, params: QParams, qmax: int) -> Any:
    """``weight``, (in, columns), for :func:`multiply_whole` of codes up to ``qmax``; None where it is not served."""
    reach = qmax + float(params.zero_point.detach().abs().max())
    return kernels().whole_weight(weight.detach().numpy(), qmax.bit_length(), reach)


def multiply_whole(weight: Any, x, params: QParams, qmax: int, out: torch.Tensor) -> bool:
    """out ← centred codes · ``weight``, of :func:`whole_weight`; by integers, and rounded once.

    ``x``, (rows, in), has one scale or one a row. Returns whether it could be done: not where a value is not a number,
    or a zero point no multiple of ½.
    """
    values, results, scale = x.detach().numpy(), out.numpy(), params.scale
    inverse, offset, zero = (numbers_of(part, scale) for part in (scale.reciprocal(), params.offset, params.zero_point))
    twice = np.rint(2 * zero)
    if not np.array_equal(twice, 2 * zero):
        return False
    numbers = inverse, offset, twice.astype(np.int32), int(scale.numel() > 1), np.float32(qmax)
    return not any(in_parts(values, 1, lambda a, b: kernels().multiply_codes(weight, values, a, b, *numbers, results)))


def multiply_few(x, params: QParams, nothing, qmax: int, weight, out: torch.Tensor) -> None:
    """out ← out + (centred codes − ``nothing``) · weight, (in, columns), read only where ``x``, (rows, in), is not 0.

    The scales are one for all or one a row; ``nothing``, for each, is the centred code of 0.
    """
    values, numbers = _of_few(x, params, nothing, qmax)
    matrix, sums = weight.detach().numpy(), out.numpy()
    in_parts(values[0], 1, lambda a, b: kernels().multiply_few(*values, a, b, *numbers, matrix, sums))


def gradients_of_few(
    x, params: QParams, nothing, qmax: int, grad, weight, low: float, high: float, grad_weight: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """What :func:`gradients` gives for grad · weightᵀ, and Σ (grad · weightᵀ) · (codes − ``nothing``) a row, float64.

    Only where ``x`` is not 0, as :func:`multiply_few`. ``grad_weight``, where it is asked for, becomes its sum with
    (centred codes − ``nothing``)ᵀ · grad.
    """
    (values, numbers), upstream = _of_few(x, params, nothing, qmax), grad.numpy()
    sums, products, matrix = np.empty(len(x)), np.empty(len(x)), weight.detach().numpy()
    in_parts(values[0], 1, lambda a, b: kernels().gradients_of_few(
        *values, a, b, *numbers, upstream, matrix, np.float32(low), np.float32(high), sums, products
    ))  # fmt: skip
    if grad_weight is not None:
        kernels().weight_gradients_of_few(*values, *numbers, upstream, grad_weight.numpy())
    return as_sums(sums, params.scale), torch.from_numpy(products)


def _of_few(x, params, nothing, qmax):
    scale, zero_point, offset = params
    numbers = [numbers_of(part, scale) for part in (scale.reciprocal(), offset, zero_point, nothing)]
    values = x.detach().numpy()
    return (values, values.view(np.uint32)), (*numbers, int(scale.numel() > 1), np.float32(qmax))
