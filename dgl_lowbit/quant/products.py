"""Products of codes, block of rows by block of rows: codes as floats, and their gradients, never leave the cache."""

from __future__ import annotations

import torch

from . import fused
from .format import QParams
from .quantized import Quantized
from .scaled import made_of, scaled
from .ste import centered_codes, differentiable, encode, range_ends

# Bytes of a block of codes as floats, and values from which blocks pay.
_BLOCK_BYTES, _LEAST = 1 << 21, 1 << 17
# Share of non-zeros up to which gradients at zeros are left out, and rows that it is judged by.
_FEW, _JUDGED = 0.1, 64


def product(codes: Quantized, weight: Quantized) -> torch.Tensor:
    """Product of ``codes``, (…, in), with a quantised ``weight``, (in, out): of centred codes, then times both scales.

    Differentiable. What is kept for the gradients is the values that are coded, neither their codes nor the product.
    """
    if not _is_served(codes, weight):
        return scaled(torch.matmul(codes.centered, weight.centered), codes.scale, weight.scale)
    x, params, *rest = codes.source
    return _Product.apply(*made_of(x), *params, weight.centered, weight.scale, *rest)


def _is_served(codes, weight):
    if codes.source is None or "centered" in vars(codes):  # what others have read need not be made again
        return False
    x, columns = codes.source[0], weight.centered.shape[-1]
    if x.dim() != 2 or x.numel() < _LEAST or not x.is_contiguous() or weight.scale.numel() not in (1, columns):
        return False
    layout = fused.layout_of(x, codes.scale)
    return layout is not None and layout.kind != "column"


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, times, scale, zero_point, offset, weight, weight_scale, qmax, margin, clip_gradient):
        ctx.qmax, ctx.clip_gradient, out = qmax, clip_gradient, x.new_empty(len(x), weight.shape[1])
        blocks = _Blocks(x, times, QParams(scale, zero_point, offset), qmax)
        for rows in blocks:
            torch.mm(blocks.centered(rows, blocks.values(rows)), weight, out=out[rows])
            fused.scale_in_place(out[rows], _of(scale, rows), weight_scale)
        ctx.save_for_backward(x, times, scale, zero_point, offset, weight, weight_scale, margin)
        return out

    @staticmethod
    def backward(ctx, grad):
        *inputs, margin = ctx.saved_tensors
        if torch.is_grad_enabled():

            def multiplied(x, times, scale, zero_point, offset, weight, weight_scale):
                params = QParams(scale, zero_point, offset)
                centered = centered_codes(x * times, params, ctx.qmax, margin, ctx.clip_gradient)
                return torch.matmul(centered, weight) * scale * weight_scale

            return *differentiable(ctx, multiplied, inputs, grad), None, None, None
        return *_gradients(ctx, grad, inputs, margin), None, None, None


def _gradients(ctx, grad, inputs, margin):
    """Gradients of ``inputs``.

    With the gradient g of the product o = (c · w) scale weight_scale, of centred codes, and h = g scale weight_scale,
    Σ g · o is Σ c · (h · wᵀ) over a row and Σ w · (cᵀ · h) over a column: of what gradients are made of anyway.
    """
    x, times, *params, weight, weight_scale = inputs
    needs_x, _, needs_scale, _, _, needs_weight, needs_weight_scale = ctx.needs_input_grad[:7]
    (scale, zero_point, offset), inverse, ends = params, params[0].reciprocal(), range_ends(ctx.qmax, margin)
    blocks = _Blocks(x, times, QParams(*params), ctx.qmax)
    grad_x = torch.empty_like(x) if needs_x else None
    grad_weight = torch.zeros_like(weight) if needs_weight or needs_weight_scale else None
    by_scale, nothing = (
        torch.zeros_like(scale, dtype=torch.float64),
        encode(torch.zeros_like(offset), QParams(*params), ctx.qmax) - zero_point,
    )
    upstream, of_codes = blocks.empty(weight.shape[1]), blocks.empty(x.shape[1])
    skips_zeros = not needs_x and needs_scale and _is_mostly_zero(x)
    for rows in blocks:
        of_sums, of_scale = upstream[: rows.stop - rows.start], _of(scale, rows)
        torch.mul(grad[rows], weight_scale.reshape(-1), out=of_sums).mul_(of_scale)
        values = blocks.values(rows)
        centered = blocks.centered(rows, values)
        if grad_weight is not None:
            grad_weight.addmm_(centered.t(), of_sums)
        of_x = values, *(_of(part, rows) for part in (inverse, offset))
        if skips_zeros:
            within, by_row = fused.gradients_of_few(
                of_sums, weight, of_x[0], centered, *of_x[1:], _of(nothing, rows), *ends
            )
        elif needs_x or needs_scale:
            passed = None if grad_x is None else grad_x[rows]
            of_centered = torch.mm(of_sums, weight.t(), out=of_codes[: len(of_sums)])
            within = fused.gradients(of_centered, *of_x, *ends, blocks.layout, passed, ctx.clip_gradient)
            by_row = fused.products_of_rows(of_centered, centered)
            if passed is not None and times.dim():
                passed.mul_(times[rows])
        if needs_scale:
            by_row = by_row.view(-1, 1) if scale.numel() > 1 else by_row.sum()
            _of(by_scale, rows).add_(by_row / of_scale - within * _of(inverse, rows).square())
    by_weight_scale = None
    if needs_weight_scale:
        by_column = (weight * grad_weight).sum(0, dtype=torch.float64)
        by_weight_scale = (by_column if weight_scale.numel() > 1 else by_column.sum()).view_as(weight_scale)
        by_weight_scale = (by_weight_scale / weight_scale).float()
    return grad_x, None, by_scale.float(), None, None, grad_weight if needs_weight else None, by_weight_scale


class _Blocks:
    """Slices of rows of ``x · times``, which, as their codes, find room where those of the slice before stood."""

    def __init__(self, x, times, params, qmax):
        self.x, self.times, self.params, self.qmax = x, times, params, qmax
        self.layout = fused.layout_of(x, params.scale)
        self.size = min(max(_BLOCK_BYTES // (4 * x.shape[1]), 1), len(x))
        self._codes, self._values = self.empty(x.shape[1]), self.empty(x.shape[1] if times.dim() else 0)

    def __iter__(self):
        return (slice(start, min(start + self.size, len(self.x))) for start in range(0, len(self.x), self.size))

    def empty(self, columns):
        return self.x.new_empty(self.size, columns)

    def values(self, rows):
        if not self.times.dim():
            return self.x[rows]
        return torch.mul(self.x[rows], self.times[rows], out=self._values[: rows.stop - rows.start])

    def centered(self, rows, values):
        scale, zero_point, offset = (_of(part, rows) for part in self.params)
        out = self._codes[: len(values)]
        return fused.centered(values, scale, zero_point, offset, self.qmax, self.layout, out)


def _is_mostly_zero(x):
    """Whether few of the values are not 0, as in bags of words; judged by some rows."""
    some = x[:: max(len(x) // _JUDGED, 1)]
    return int(some.count_nonzero()) <= _FEW * some.numel()


def _of(numbers, rows):
    """Those of some rows, of one for all or one a row."""
    return numbers[rows] if numbers.dim() > 1 and len(numbers) > 1 else numbers
