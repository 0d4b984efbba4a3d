"""Codes and their straight-through gradients in one pass each, by compiled functions on the CPU.

They give what the plain functions of :mod:`~dgl_lowbit.quant.ste` give: the same codes and the same gradient of the
values to the bit, and gradients of scales that are summed in float64, in an order that depends on the shape alone. What
they do not serve (other devices and dtypes, other layouts of scales, few values) is left to those.
"""

from __future__ import annotations

import numpy as np
import torch

from .format import QParams
from .passes import NOTHING, ONE, Layout, as_sums, by_column, by_row, in_parts, kernels, kind_of, layout_of, numbers_of

# Columns from which the ranges of rows are taken in compiled passes.
_LEAST_OF_ROW = 16


def centered(x, scale, zero_point, offset, qmax: int, layout: Layout, out: torch.Tensor | None = None) -> torch.Tensor:
    """clamp(round(x / scale + offset), 0, qmax) − zero_point, in ``out``, which in memory stands as ``x`` does."""
    out = layout.empty(x.shape) if out is None else out
    values, codes = layout.matrix(x), layout.matrix(out)
    numbers = [numbers_of(part, scale) for part in (scale.reciprocal(), offset, zero_point)]
    if layout.kind == "column":
        in_parts(values, 1, lambda a, b: kernels().code_columns(values, a, b, *numbers, np.float32(qmax), codes))
    else:
        step = int(layout.kind == "row")
        in_parts(values, 1, lambda a, b: kernels().code_rows(values, a, b, *numbers, step, np.float32(qmax), codes))
    return out


def gradients(
    grad, x, inverse, offset, low: float, high: float, layout: Layout, grad_x: torch.Tensor | None, clips: bool
) -> torch.Tensor:
    """Σ grad · x over the values between places ``low`` and ``high``, for each scale with a reciprocal in ``inverse``.

    ``grad_x``, where it is asked for, :meth:`Layout.empty`, becomes the gradient of the values.
    """
    upstream, values = layout.matrix(grad), layout.matrix(x)
    kind, passed = kind_of(grad_x, clips), NOTHING if grad_x is None else layout.matrix(grad_x)
    numbers, ends = [numbers_of(part, inverse) for part in (inverse, offset)], (np.float32(low), np.float32(high))
    if layout.kind == "column":
        block = kernels().BLOCK_ROWS
        sums = np.zeros((-(-len(values) // block), values.shape[1]))
        in_parts(values, block, lambda a, b: kernels().gradients_of_columns(
            upstream, values, a, b, *numbers, *ends, kind, passed, sums
        ))  # fmt: skip
        sums = sums.sum(0)
    else:
        step, sums = int(layout.kind == "row"), np.empty(len(values))
        in_parts(values, 1, lambda a, b: kernels().gradients_of_rows(
            upstream, values, a, b, *numbers, step, *ends, kind, passed, sums
        ))  # fmt: skip
    return as_sums(sums, inverse)


def codes_and_gradients(
    grad, x, params: QParams, qmax: int, low: float, high: float, layout: Layout, out, grad_x, clips: bool
) -> torch.Tensor:
    """``out`` ← :func:`centered`; for the gradient ``grad`` of these, that of the logarithm of each scale.

    ``x``, (rows, columns), has one scale or one a row. ``grad_x``, where it is asked for, becomes the gradient of the
    values.
    """
    upstream, values, codes = (layout.matrix(part) for part in (grad, x, out))
    kind, passed = kind_of(grad_x, clips), NOTHING if grad_x is None else layout.matrix(grad_x)
    scale, zero_point, offset = params
    numbers = [numbers_of(part, scale) for part in (scale.reciprocal(), offset, zero_point)]
    top, ends, sums = np.float32(qmax), (np.float32(low), np.float32(high)), np.empty(len(values))
    in_parts(values, 1, lambda a, b: kernels().codes_and_gradients(
        upstream, values, a, b, *numbers, int(layout.kind == "row"), top, *ends, kind, codes, passed, sums
    ))  # fmt: skip
    return as_sums(sums, scale)


def can_take_ranges(x: torch.Tensor) -> bool:
    """Whether :func:`ranges_of_rows` serves, and pays: rows are not short."""
    return x.dim() > 0 and x.shape[-1] >= _LEAST_OF_ROW and x.is_contiguous() and layout_of(x, ONE) is not None


def ranges_of_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Smallest and largest of each row of ``x``, (…, columns), both (…, 1); NaN where one of its values is."""
    low, high = x.new_empty(*x.shape[:-1], 1), x.new_empty(*x.shape[:-1], 1)
    values, *extremes = x.detach().view(-1, x.shape[-1]).numpy(), low.view(-1).numpy(), high.view(-1).numpy()
    in_parts(values, 1, lambda a, b: kernels().ranges_of_rows(values, a, b, *extremes))
    return low, high


def total_and_magnitude(x: torch.Tensor) -> torch.Tensor:
    """Σ x and Σ |x|, (2,) float64."""
    if layout_of(x, ONE) is None or not x.is_contiguous():
        return torch.stack([x.sum(dtype=torch.float64), x.abs().sum(dtype=torch.float64)])
    sums = torch.empty(2, dtype=torch.float64)
    kernels().total_and_magnitude(x.detach().view(-1).numpy(), sums.numpy())
    return sums


def can_scale(x: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether :func:`scale_in_place` serves: ``first`` is one scale or one a row, ``second`` one or one a column."""
    if not x.is_contiguous():
        return False
    kinds = [layout and layout.kind for layout in (layout_of(x, first), layout_of(x, second))]
    return kinds[0] in ("tensor", "row") and kinds[1] in ("tensor", "column")


def scale_rows(x: torch.Tensor, before, columns, after, out: torch.Tensor) -> None:
    """out ← x · before · columns · after, of (rows, columns): numbers, or one a row, one a column and one a row."""
    values, results, of_columns = x.detach().numpy(), out.detach().numpy(), by_column(columns, x.shape[-1])
    first, last = by_row(before), by_row(after)
    in_parts(values, 1, lambda a, b: kernels().scale_rows(values, a, b, *first, of_columns, *last, results))


def scale_in_place(x: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> None:
    """x ← x · first · second."""
    values = x.detach().view(-1, x.shape[-1])
    scale_rows(values, first, second, ONE, values)


def gradients_of_scaled(grad, out, first, second, grad_x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Σ grad · out for each of ``first`` and for each of ``second``; ``grad_x`` becomes grad · second · first."""
    values = out.detach().view(-1, out.shape[-1]).numpy()
    numbers = *by_row(first), by_column(second, out.shape[-1])
    upstream, block = grad.contiguous().view(values.shape).numpy(), kernels().BLOCK_ROWS
    rows, columns = np.empty(len(values)), np.zeros((-(-len(values) // block), values.shape[1]))
    passed = grad_x.view(values.shape).numpy()
    in_parts(values, block, lambda a, b: kernels().gradients_of_scaled(
        upstream, values, a, b, *numbers, passed, rows, columns
    ))  # fmt: skip
    return as_sums(rows, first), as_sums(columns.sum(0), second)
