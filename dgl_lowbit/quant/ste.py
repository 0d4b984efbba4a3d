"""Rounding to codes with a straight-through gradient."""

from __future__ import annotations

import torch

from . import fused, passes
from .format import QParams

# A value on the edge of the range counts as inside, however its division rounds.
_EDGE = 1e-4


def encode(x: torch.Tensor, params: QParams, qmax: int) -> torch.Tensor:
    """Codes of ``x`` as float32 whole numbers: clamp(round(x · (1/scale) + offset), 0, qmax).

    The reciprocal is taken first and the product second, as the packed kernels do, so that both agree
    to the last bit.
    """
    return torch.round(x * params.scale.reciprocal() + params.offset).clamp_(0, qmax)


class CenteredCodes(torch.autograd.Function):
    """:func:`centered_codes`; compiled where :mod:`.fused` serves it, else in torch's operations."""

    @staticmethod
    def forward(ctx, x, scale, zero_point, offset, qmax, margin, clip_gradient):
        ctx.save_for_backward(x, scale, offset, margin)
        ctx.qmax, ctx.clip_gradient = qmax, clip_gradient
        layout = passes.layout_of(x, scale)
        if layout is not None:
            return fused.centered(x, scale, zero_point, offset, qmax, layout)
        return encode(x, QParams(scale, zero_point, offset), qmax) - zero_point

    @staticmethod
    def backward(ctx, grad):
        return *straight_through(ctx, grad, *ctx.saved_tensors), None, None, None, None, None


def range_ends(qmax: int, margin: torch.Tensor) -> tuple[float, float]:
    """The places, x / scale + offset, between which values are in range."""
    return float(-margin - _EDGE), float(qmax + margin + _EDGE)


def differentiable(ctx, function, inputs, grad) -> tuple:
    """Gradients of ``function(*inputs)``, the first inputs of ``ctx``, that can be differentiated again."""
    needed = ctx.needs_input_grad[: len(inputs)]
    asked = [part for part, is_needed in zip(inputs, needed) if is_needed]
    found = iter(torch.autograd.grad(function(*inputs), asked, grad, create_graph=True))
    return tuple(next(found) if is_needed else None for is_needed in needed)


def straight_through(ctx, grad, x, scale, offset, margin) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Gradients of the values and the scale, the first inputs of ``ctx``, for ``grad`` of the centred codes.

    Where gradients are to be differentiated again, torch's operations, which say what both compute, do it.
    """
    needs_x, needs_scale = ctx.needs_input_grad[:2]
    inverse = scale.reciprocal()
    low, high = range_ends(ctx.qmax, margin)
    layout = None if torch.is_grad_enabled() else passes.layout_of(x, scale)
    if layout is not None:
        grad_x = layout.empty(x.shape) if needs_x else None
        sums = fused.gradients(grad, x, inverse, offset, low, high, layout, grad_x, ctx.clip_gradient)
        return grad_x, -sums * inverse * inverse if needs_scale else None
    grad_x = grad_scale = None
    if ctx.clip_gradient or needs_scale:
        place = x * inverse + offset
        inside = (place >= low) & (place <= high)
    if needs_x:
        grad_x = grad * inverse
        if ctx.clip_gradient:
            grad_x = grad_x * inside
    if needs_scale:
        grad_scale = -(grad * inside).mul_(x).sum_to_size(scale.shape) * inverse * inverse
    return grad_x, grad_scale


def centered_codes(
    x: torch.Tensor, params: QParams, qmax: int, margin: torch.Tensor, clip_gradient: bool = True
) -> torch.Tensor:
    """``codes − zero_point``, differentiable straight through the rounding.

    Multiplied by ``params.scale`` this is the fake-quantised tensor. Kept apart, products and neighbour
    sums of centred codes are exact in float32 (whole or half numbers), as they are in packed integers.

    Parameters
    ----------
    x : torch.Tensor
        Values, float32, any shape.
    params : QParams
        Scale (may require grad), zero_point and offset, broadcastable against ``x``.
    qmax : int
        Largest code.
    margin : torch.Tensor
        How far, in steps, the representable range reaches beyond the outermost codes: 0 for a grid whose
        range ends on them, ½ for the grid without zero.
    clip_gradient : bool
        Whether values outside the range receive no gradient. Weights keep theirs.

    Notes
    -----
    With x̂ = scale · centred and upstream gradient g of x̂: ∂x = g inside the range and 0 outside;
    ∂scale = Σ g · (centred − inside · x / scale), the rounding residual inside and the range's end outside
    (arXiv:2308.14949; learned steps, arXiv:1902.08153).
    """
    return CenteredCodes.apply(x, params.scale, params.zero_point, params.offset, qmax, margin, clip_gradient)
