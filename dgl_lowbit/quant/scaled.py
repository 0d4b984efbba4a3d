"""Sums and products of centred codes, times the scales of their operands; rows, times a number each."""

from __future__ import annotations

import torch

from . import fused
from .beside import Beside

_factors = Beside()


class _Scaled(torch.autograd.Function):
    """x · first · second, written over x; of what scales multiply, only the result is kept for their gradients."""

    @staticmethod
    def forward(ctx, x, first, second):
        ctx.mark_dirty(x)
        ctx.is_fused = fused.can_scale(x, first, second)
        if ctx.is_fused:
            fused.scale_in_place(x, first, second)
        else:
            x.mul_(first).mul_(second)
        ctx.save_for_backward(x, first, second)
        return x

    @staticmethod
    def backward(ctx, grad):
        out, first, second = ctx.saved_tensors
        if ctx.is_fused and not torch.is_grad_enabled():
            grad_x = torch.empty_like(out)
            by_first, by_second = fused.gradients_of_scaled(grad, out, first, second, grad_x)
        else:
            grad_x, product = grad * second * first, grad * out
            by_first, by_second = (product.sum_to_size(scale.shape) for scale in (first, second))
        return grad_x, by_first / first, by_second / second


def scaled(x: torch.Tensor, first: torch.Tensor, second: torch.Tensor | None = None) -> torch.Tensor:
    """``x · first · second``, from left to right, differentiable in all of them; ``x`` becomes the result.

    Parameters
    ----------
    x : torch.Tensor
        Sums of centred codes, float32, that nothing else reads: they are written over.
    first, second : torch.Tensor
        Positive scales, which broadcast to the shape of ``x``. Default: ``second`` is 1.
    """
    if second is None:
        one = torch.ones((), device=x.device)
        is_by_column = first.dim() > 0 and first.shape[-1] > 1
        first, second = (one, first) if is_by_column else (first, one)
    return _Scaled.apply(x, first, second)


def scale_rows(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """``x · factor``, (N, …) times constants (N,); the result knows what it is made of, see :func:`made_of`."""
    out = x * factor.view(-1, *[1] * (x.dim() - 1))
    is_plain = type(x) is torch.Tensor and x.dim() == 2 and x.is_contiguous() and x.dtype == out.dtype
    if is_plain and not x.is_inference():
        _factors.note(out, (x, factor.view(-1, 1), x._version))
    return out


def made_of(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A tensor and what its rows are multiplied by, () or (N, 1), that make ``x``.

    Who needs ``x`` for its gradients keeps these, and the product is not kept beside them.
    """
    base, factor, version = _factors.of(x) or (x, None, None)
    if factor is None or base._version != version:
        return x, torch.ones((), device=x.device)
    return base, factor
