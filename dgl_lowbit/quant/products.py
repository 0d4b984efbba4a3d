"""Products of codes, block of rows by block of rows: codes as floats, and their gradients, never leave the cache."""

from __future__ import annotations

import torch

from . import fused
from .format import QParams
from .quantized import Quantized
from .scaled import scaled
from .ste import centered_codes, differentiable, range_ends

# Bytes of a block of codes as floats, and values from which blocks pay.
_BLOCK_BYTES, _LEAST = 1 << 21, 1 << 17
# Share of non-zeros up to which gradients at zeros are left out, and rows that it is judged by.
_FEW, _JUDGED = 0.1, 64


def product(codes: Quantized, weight: Quantized) -> torch.Tensor:
    """Product of ``codes``, (…, in), with a quantised ``weight``, (in, out): of centred codes, then times both scales.

    Differentiable. What is kept for the gradients is the values that are coded, and the product, but not the codes.
    """
    if not _is_served(codes, weight):
        return scaled(torch.matmul(codes.centered, weight.centered), codes.scale, weight.scale)
    x, params, *rest = codes.source
    return _Product.apply(x, *params, weight.centered, weight.scale, *rest)


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
    def forward(ctx, x, scale, zero_point, offset, weight, weight_scale, qmax, margin, clip_gradient):
        ctx.qmax, ctx.clip_gradient, out = qmax, clip_gradient, x.new_empty(len(x), weight.shape[1])
        blocks = _Blocks(x, QParams(scale, zero_point, offset), qmax)
        for rows in blocks:
            torch.mm(blocks.centered(rows), weight, out=out[rows])
            fused.scale_in_place(out[rows], _of(scale, rows), weight_scale)
        ctx.save_for_backward(x, scale, zero_point, offset, weight, weight_scale, margin, out)
        return out

    @staticmethod
    def backward(ctx, grad):
        *inputs, margin, out = ctx.saved_tensors
        if torch.is_grad_enabled():

            def multiplied(x, scale, zero_point, offset, weight, weight_scale):
                params = QParams(scale, zero_point, offset)
                centered = centered_codes(x, params, ctx.qmax, margin, ctx.clip_gradient)
                return torch.matmul(centered, weight) * scale * weight_scale

            return *differentiable(ctx, multiplied, inputs, grad), None, None, None
        return *_gradients(ctx, grad, inputs, margin, out), None, None, None


def _gradients(ctx, grad, inputs, margin, out):
    x, *params, weight, weight_scale = inputs
    needs_x, needs_scale, _, _, needs_weight, _ = ctx.needs_input_grad[:6]
    (scale, _, offset), inverse, ends = params, params[0].reciprocal(), range_ends(ctx.qmax, margin)
    blocks = _Blocks(x, QParams(*params), ctx.qmax)
    grad_x = torch.empty_like(x) if needs_x else None
    grad_weight = torch.zeros_like(weight) if needs_weight else None
    by_scale, by_weight_scale = torch.zeros_like(scale, dtype=torch.float64), torch.zeros_like(weight_scale)
    upstream, skips_zeros = blocks.empty(weight.shape[1]), not needs_x and needs_scale and _is_mostly_zero(x)
    for rows in blocks:
        of_sums = upstream[: rows.stop - rows.start]
        by_row, by_column = fused.gradients_of_scaled(grad[rows], out[rows], _of(scale, rows), weight_scale, of_sums)
        by_weight_scale += by_column
        if needs_weight:
            grad_weight.addmm_(blocks.centered(rows).t(), of_sums)
        if skips_zeros:
            within = fused.gradients_of_few(of_sums, weight, x[rows], _of(inverse, rows), _of(offset, rows), *ends)
        elif needs_x or needs_scale:
            of_codes, passed = blocks.room(rows), None if grad_x is None else grad_x[rows]
            torch.mm(of_sums, weight.t(), out=of_codes)
            within = fused.gradients(
                of_codes, x[rows], _of(inverse, rows), _of(offset, rows), *ends, blocks.layout, passed,
                ctx.clip_gradient,
            )  # fmt: skip
        if needs_scale:
            _of(by_scale, rows).add_(by_row / _of(scale, rows) - within * _of(inverse, rows).square())
    return grad_x, by_scale.float(), None, None, grad_weight, by_weight_scale / weight_scale


class _Blocks:
    """Slices of rows of ``x``, and room for the codes of one of them, which is used again and again."""

    def __init__(self, x, params, qmax):
        self.x, self.params, self.qmax, self.layout = x, params, qmax, fused.layout_of(x, params.scale)
        self.size = min(max(_BLOCK_BYTES // (4 * x.shape[1]), 1), len(x))
        self._room = self.empty(x.shape[1])

    def __iter__(self):
        return (slice(start, min(start + self.size, len(self.x))) for start in range(0, len(self.x), self.size))

    def empty(self, columns):
        return self.x.new_empty(self.size, columns)

    def room(self, rows):
        return self._room[: rows.stop - rows.start]

    def centered(self, rows):
        scale, zero_point, offset = (_of(part, rows) for part in self.params)
        return fused.centered(self.x[rows], scale, zero_point, offset, self.qmax, self.layout, self.room(rows))


def _is_mostly_zero(x):
    """Whether few of the values are not 0, as in bags of words; judged by some rows."""
    some = x[:: max(len(x) // _JUDGED, 1)]
    return int(some.count_nonzero()) <= _FEW * some.numel()


def _of(numbers, rows):
    """Those of some rows, of one for all or one a row."""
    return numbers[rows] if numbers.dim() > 1 and len(numbers) > 1 else numbers
