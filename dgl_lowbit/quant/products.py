"""Products of codes, block of rows by block of rows: codes as floats, and their gradients, never leave the cache.

Blocks that follow each other make a lane. Lanes are shared among threads; what is summed over rows is summed by lane,
and then over the lanes, so that it does not depend on the number of threads.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch

from . import few, fused, fused_products, passes
from .format import QParams
from .quantized import Quantized
from .remade import Origin, origin_of, remade
from .scaled import scale_rows, scaled
from .ste import centered_codes, differentiable, range_ends
from .threads import shared

# Bytes of a block of codes as floats, values from which blocks pay, and multiplications from which integers do.
_BLOCK_BYTES, _LEAST, _LEAST_WHOLE = 1 << 21, 1 << 17, 1 << 26
# Lanes at most: sums over rows take as many times their memory.
_LANES = 8


def product(
    codes: Quantized,
    weight: Quantized,
    after: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    onto: torch.Tensor | None = None,
) -> torch.Tensor:
    """Product of ``codes``, (…, in), with a quantised ``weight``, (in, out): of centred codes, then times both scales.

    Differentiable. What is kept for the gradients is the values that are coded, or what these are made of, neither
    their codes nor the product.

    Parameters
    ----------
    codes, weight : Quantized
    after : torch.Tensor, optional
        Constants, (rows,), that rows of the product are multiplied by.
    bias : torch.Tensor, optional
        Added after that, (out,).
    onto : torch.Tensor, optional
        What the result is added to, of its shape, that nothing else reads: it may become the result.
    """
    if not _is_served(codes, weight):
        out = scaled(torch.matmul(codes.centered, weight.centered), codes.scale, weight.scale)
        return finished(out, after, bias, onto)
    return _multiplied(codes, weight.centered, weight.scale, bias, onto, after)[0]


def products(codes: Quantized, weights: Sequence[Quantized]) -> tuple[torch.Tensor, ...]:
    """:func:`product` of the same codes and each of several weights, made at once, forward and backward."""
    if not all(_is_served(codes, weight) for weight in weights):
        return tuple(product(codes, weight) for weight in weights)
    columns = [weight.centered.shape[1] for weight in weights]
    scales = [weight.scale.reshape(1, -1).expand(1, count) for weight, count in zip(weights, columns)]
    centered = torch.cat([weight.centered for weight in weights], 1)
    return _multiplied(codes, centered, torch.cat(scales, 1), columns=columns)


def _multiplied(codes, weight, weight_scale, bias=None, onto=None, after=None, columns=None):
    x, params, *rest = codes.source
    origin, after = origin_of(x), torch.ones(()) if after is None else after
    how = _How(x.detach(), origin, columns or [weight.shape[1]], *rest)
    x = x if origin is None else origin.stand_in
    return _Product.apply(x, *params, weight, weight_scale, bias, onto, after, how)


def finished(x, after=None, bias=None, onto=None) -> torch.Tensor:
    """``x · after + bias + onto``, of those that are given; numbers a row, a column, and of its shape."""
    x = x if after is None else scale_rows(x, after)
    x = x if bias is None else x + bias
    return x if onto is None else x + onto


def _is_served(codes, weight):
    if codes.source is None or "centered" in vars(codes):  # what others have read need not be made again
        return False
    x, columns = codes.source[0], weight.centered.shape[-1]
    if x.dim() != 2 or x.numel() < _LEAST or not x.is_contiguous() or weight.scale.numel() not in (1, columns):
        return False
    layout = passes.layout_of(x, codes.scale)
    return layout is not None and layout.kind != "column"


class _How(NamedTuple):
    """What a product needs of its values, beside what is differentiated."""

    x: torch.Tensor | None
    origin: Origin | None
    columns: list[int]  # of the results
    qmax: int
    margin: torch.Tensor
    clip_gradient: bool


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale, zero_point, offset, weight, weight_scale, bias, onto, after, how):
        params = QParams(scale, zero_point, offset)
        ctx.is_few = how.origin is None and not ctx.needs_input_grad[0] and few.is_mostly_zero(how.x)
        kept, ctx.rows = ((), None) if how.origin is None else how.origin[1:]
        ctx.how = how._replace(x=None, origin=None)
        ctx.save_for_backward(x, scale, zero_point, offset, weight, weight_scale, after, *kept)
        weight_scales = _by_result(weight_scale, how.columns)
        is_over = type(getattr(onto, "grad_fn", None)) is _Product._backward_cls  # which does not keep it
        if is_over:
            ctx.mark_dirty(onto)
        if ctx.is_few:
            made = few.multiplied(how.x, params, how.qmax, weight).split(how.columns, 1)
            made = [part.contiguous() for part in made]
            outs = [onto] if is_over else made
            for part, scales, out in zip(made, weight_scales, outs):
                _finish(part, params, scales, bias, onto, after, slice(None), out)
            return tuple(outs)
        outs = [onto] if is_over else [torch.empty(len(x), count) for count in how.columns]
        weights = weight.split(how.columns, 1)
        pays = len(weights) == 1 and len(how.x) * weight.numel() >= _LEAST_WHOLE
        whole = fused_products.whole_weight(weight, params, how.qmax) if pays else None

        def multiply(lane):
            rooms = [lane.empty(count) for count in how.columns]
            for rows in lane:
                for part, scales, out in zip(lane.products(rows, weights, whole, rooms), weight_scales, outs):
                    _finish(part, params, scales, bias, onto, after, rows, out)

        _in_lanes(how.x, params, how.qmax, multiply)
        return tuple(outs)

    @staticmethod
    def backward(ctx, *grads):
        x, scale, zero_point, offset, weight, weight_scale, after, *kept = ctx.saved_tensors
        params, how = QParams(scale, zero_point, offset), ctx.how
        others = grads[0].sum(0) if ctx.needs_input_grad[6] else None, grads[0] if ctx.needs_input_grad[7] else None
        if torch.is_grad_enabled():

            def multiplied(x, *rest):
                *params, weight, weight_scale = rest
                values = x if ctx.rows is None else remade(x, kept, ctx.rows)
                centered = centered_codes(values, QParams(*params), how.qmax, how.margin, how.clip_gradient)
                out = finished(torch.matmul(centered, weight) * params[0] * weight_scale, after)
                return out.split(how.columns, 1)

            inputs = x, *params, weight, weight_scale
            return *differentiable(ctx, multiplied, inputs, grads), *others, None, None
        gradients, grads = _gradients_of_few if ctx.is_few else _gradients, [grad.contiguous() for grad in grads]
        return *gradients(ctx, grads, x, kept, params, weight, weight_scale, after), *others, None, None


def _by_result(weight_scale, columns):
    """Scales of the columns of each result, or one for all."""
    return weight_scale.split(columns, -1) if weight_scale.numel() > 1 else [weight_scale] * len(columns)


def _finish(products, params, weight_scale, bias, onto, after, rows, out):
    """out[rows] ← products · scales · after + bias + onto."""
    target = out[rows] if onto is None else products
    fused.scale_rows(products, _of(params.scale, rows), weight_scale, _of(after, rows), target)
    if bias is not None:
        target += bias
    if onto is not None:
        torch.add(target, onto[rows], out=out[rows])


def _of_sums(grads, params, weight_scale, after, rows, rooms):
    """What sums of centred codes have of the gradients of the results."""
    scales = _by_result(weight_scale, [grad.shape[1] for grad in grads])
    parts = [room[: rows.stop - rows.start] for room in rooms]
    for grad, of_columns, part in zip(grads, scales, parts):
        fused.scale_rows(grad[rows], _of(after, rows), of_columns, _of(params.scale, rows), part)
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


# With the gradient g of the product o = (c · w) scale weight_scale after, of centred codes, and h = g after
# weight_scale scale, Σ g · o is Σ w · (cᵀ · h) over a column: made of what gradients are made of anyway.


def _gradients(ctx, grads, x, kept, params, weight, weight_scale, after):
    needs_x, needs_scale, _, _, needs_weight, needs_weight_scale = ctx.needs_input_grad[:6]
    how, ends = ctx.how, range_ends(ctx.how.qmax, ctx.how.margin)
    grad_x = torch.empty(x.shape) if needs_x else None
    by_row = torch.zeros(params.scale.shape, dtype=torch.float64) if params.scale.numel() > 1 else None

    def differentiate(lane):
        rooms, of_codes = [lane.empty(grad.shape[1]) for grad in grads], lane.empty(x.shape[1])
        values = None if ctx.rows is None else lane.empty(x.shape[1])
        of_weight = torch.zeros_like(weight) if needs_weight or needs_weight_scale else None
        of_scale = torch.zeros((), dtype=torch.float64)
        for rows in lane:
            of_sums = _of_sums(grads, params, weight_scale, after, rows, rooms)
            if values is None:
                of_block = x[rows]
            else:
                of_block = values[: len(of_sums)]
                ctx.rows(kept, rows.start, of_block)
            if needs_x or needs_scale:
                of_centered = torch.mm(of_sums, weight.t(), out=of_codes[: len(of_sums)])
                passed = None if grad_x is None else grad_x[rows]
                centered, of_scales = lane.differentiated(rows, of_block, of_centered, ends, passed, how.clip_gradient)
                if by_row is None:
                    of_scale += of_scales.view(())
                else:
                    by_row[rows] = of_scales.double()
            else:
                centered = lane.centered(rows, of_block)
            if of_weight is not None:
                of_weight.addmm_(centered.t(), of_sums)
        return of_weight, of_scale

    of_weights, of_scales = zip(*_in_lanes(x, params, how.qmax, differentiate))
    grad_weight = None if of_weights[0] is None else functools.reduce(torch.add, of_weights)
    by_weight_scale = _of_weight_scale(grad_weight, weight, weight_scale) if needs_weight_scale else None
    by_scale = sum(of_scales).view_as(params.scale) if by_row is None else by_row
    by_scale = (by_scale / params.scale).float()
    return grad_x, by_scale, None, None, grad_weight if needs_weight else None, by_weight_scale


def _gradients_of_few(ctx, grads, x, _, params, weight, weight_scale, after):
    needs_weight, needs_weight_scale = ctx.needs_input_grad[4:6]
    how, scale, rows = ctx.how, params.scale, slice(0, len(x))
    of_sums = _of_sums(grads, params, weight_scale, after, rows, [torch.empty(grad.shape) for grad in grads])
    grad_weight = torch.zeros(weight.shape) if needs_weight or needs_weight_scale else None
    ends = range_ends(how.qmax, how.margin)
    within, by_row = few.gradients(x, params, how.qmax, of_sums, weight, ends, grad_weight)
    by_row = by_row.view(-1, 1) if scale.numel() > 1 else by_row.sum()
    by_scale = (by_row / scale - within * scale.reciprocal().square()).float()
    by_weight_scale = _of_weight_scale(grad_weight, weight, weight_scale) if needs_weight_scale else None
    return None, by_scale, None, None, grad_weight if needs_weight else None, by_weight_scale


def _of_weight_scale(grad_weight, weight, weight_scale):
    by_column = (weight * grad_weight).sum(0, dtype=torch.float64)
    by_scale = (by_column if weight_scale.numel() > 1 else by_column.sum()).view_as(weight_scale)
    return (by_scale / weight_scale).float()


def _in_lanes(x, params, qmax, work) -> list:
    """``work(lane)`` of all lanes of the rows of ``x``, on torch's threads."""
    size = min(max(_BLOCK_BYTES // (4 * x.shape[1]), 1), len(x))
    blocks = [slice(start, min(start + size, len(x))) for start in range(0, len(x), size)]
    lanes = min(_LANES, len(blocks))
    bounds = [len(blocks) * n // lanes for n in range(lanes + 1)]
    return shared(lanes, lambda n: work(_Lane(x, params, qmax, size, blocks[bounds[n] : bounds[n + 1]])))


class _Lane:
    """Slices of the rows of ``x``, whose codes find room where those of the slice before stood."""

    def __init__(self, x, params, qmax, size, blocks):
        self.x, self.params, self.qmax, self.size, self.blocks = x, params, qmax, size, blocks
        self.layout = passes.layout_of(x, params.scale)
        self._codes = self.empty(x.shape[1])

    def __iter__(self):
        return iter(self.blocks)

    def empty(self, columns):
        return torch.empty(self.size, columns)

    def centered(self, rows, values):
        out = self._codes[: len(values)]
        return fused.centered(values, *self._numbers(rows), self.qmax, self.layout, out)

    def products(self, rows, weights, whole, rooms):
        """Centred codes times each of the weights, in ``rooms``; by integers with a single one that is ``whole``."""
        values, outs = self.x[rows], [room[: rows.stop - rows.start] for room in rooms]
        if whole is None or not fused_products.multiply_whole(whole, values, self._numbers(rows), self.qmax, *outs):
            centered = self.centered(rows, values)
            for weight, out in zip(weights, outs):
                torch.mm(centered, weight, out=out)
        return outs

    def differentiated(self, rows, values, grad, ends, grad_x, clips):
        """Centred codes, and for their gradient that of each scale's logarithm; ``grad_x`` ← that of the values."""
        params, out = self._numbers(rows), self._codes[: len(values)]
        return out, fused.codes_and_gradients(
            grad, values, params, self.qmax, *ends, self.layout, out, grad_x, clips
        )  # fmt: skip

    def _numbers(self, rows):
        return QParams(*(_of(part, rows) for part in self.params))


def _of(numbers, rows):
    """Those of some rows, of one for all or one a row."""
    return numbers[rows] if numbers.dim() and len(numbers) > 1 else numbers
