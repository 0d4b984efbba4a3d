"""Products of codes, block of rows by block of rows: codes as floats, and their gradients, never leave the cache."""

from __future__ import annotations

import torch

from . import few, fused
from .format import QParams
from .quantized import Quantized
from .scaled import made_of, scaled
from .ste import centered_codes, differentiable, range_ends

# Bytes of a block of codes as floats, and values from which blocks pay.
_BLOCK_BYTES, _LEAST = 1 << 21, 1 << 17


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
        ctx.qmax, ctx.clip_gradient, params = qmax, clip_gradient, QParams(scale, zero_point, offset)
        ctx.is_few = not ctx.needs_input_grad[0] and not times.dim() and few.is_mostly_zero(x)
        ctx.save_for_backward(x, times, scale, zero_point, offset, weight, weight_scale, margin)
        if ctx.is_few:
            out = few.multiplied(x, params, qmax, weight)
            fused.scale_in_place(out, scale, weight_scale)
            return out
        blocks, out = _Blocks(x, times, params, qmax), x.new_empty(len(x), weight.shape[1])
        for rows in blocks:
            torch.mm(blocks.centered(rows, blocks.values(rows)), weight, out=out[rows])
            fused.scale_in_place(out[rows], _of(scale, rows), weight_scale)
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
        gradients = _gradients_of_few if ctx.is_few else _gradients
        return *gradients(ctx, grad, range_ends(ctx.qmax, margin), *inputs), None, None, None


# With the gradient g of the product o = (c · w) scale weight_scale, of centred codes, and h = g scale weight_scale,
# Σ g · o is Σ c · (h · wᵀ) over a row and Σ w · (cᵀ · h) over a column: made of what gradients are made of anyway.


def _gradients(ctx, grad, ends, x, times, scale, zero_point, offset, weight, weight_scale):
    needs_x, _, needs_scale, _, _, needs_weight, needs_weight_scale = ctx.needs_input_grad[:7]
    blocks, inverse = _Blocks(x, times, QParams(scale, zero_point, offset), ctx.qmax), scale.reciprocal()
    grad_x = torch.empty_like(x) if needs_x else None
    grad_weight = torch.zeros_like(weight) if needs_weight or needs_weight_scale else None
    by_scale = torch.zeros_like(scale, dtype=torch.float64)
    upstream, of_codes = blocks.empty(weight.shape[1]), blocks.empty(x.shape[1])
    for rows in blocks:
        of_sums = upstream[: rows.stop - rows.start]
        torch.mul(grad[rows], weight_scale.reshape(-1), out=of_sums).mul_(_of(scale, rows))
        values = blocks.values(rows)
        centered = blocks.centered(rows, values)
        if grad_weight is not None:
            grad_weight.addmm_(centered.t(), of_sums)
        if not (needs_x or needs_scale):
            continue
        passed = None if grad_x is None else grad_x[rows]
        of_centered = torch.mm(of_sums, weight.t(), out=of_codes[: len(of_sums)])
        within = fused.gradients(
            of_centered, values, _of(inverse, rows), _of(offset, rows), *ends, blocks.layout, passed, ctx.clip_gradient
        )
        if passed is not None and times.dim():
            passed.mul_(times[rows])
        by_row = fused.products_of_rows(of_centered, centered)
        _of(by_scale, rows).add_(_of_scale(by_row, within, _of(scale, rows)))
    by_weight_scale = _of_weight_scale(grad_weight, weight, weight_scale) if needs_weight_scale else None
    return grad_x, None, by_scale.float(), None, None, grad_weight if needs_weight else None, by_weight_scale


def _gradients_of_few(ctx, grad, ends, x, times, scale, zero_point, offset, weight, weight_scale):
    needs_weight, needs_weight_scale = ctx.needs_input_grad[5:7]
    of_sums = (grad * weight_scale.reshape(-1)).mul_(scale)
    grad_weight = torch.zeros(weight.shape) if needs_weight or needs_weight_scale else None
    within, by_row = few.gradients(x, QParams(scale, zero_point, offset), ctx.qmax, of_sums, weight, ends, grad_weight)
    by_scale = _of_scale(by_row, within, scale).float()
    by_weight_scale = _of_weight_scale(grad_weight, weight, weight_scale) if needs_weight_scale else None
    return None, None, by_scale, None, None, grad_weight if needs_weight else None, by_weight_scale


def _of_scale(by_row, within, scale):
    """Gradients of scales, float64, of Σ g · o over rows, and of Σ gradient · x of codes within the range."""
    by_row = by_row.view(-1, 1) if scale.numel() > 1 else by_row.sum()
    return by_row / scale - within * scale.reciprocal().square()


def _of_weight_scale(grad_weight, weight, weight_scale):
    by_column = (weight * grad_weight).sum(0, dtype=torch.float64)
    by_scale = (by_column if weight_scale.numel() > 1 else by_column.sum()).view_as(weight_scale)
    return (by_scale / weight_scale).float()


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


def _of(numbers, rows):
    """Those of some rows, of one for all or one a row."""
    return numbers[rows] if numbers.dim() > 1 and len(numbers) > 1 else numbers
