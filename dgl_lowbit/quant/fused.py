"""Codes and their straight-through gradients in one pass each, by compiled functions on the CPU.

They give what the plain functions of :mod:`~dgl_lowbit.quant.ste` give: the same codes and the same gradient of the
values to the bit, and gradients of scales that are summed in float64, in an order that depends on the shape alone. What
they do not serve (other devices and dtypes, other layouts of scales, few values) is left to those.

Parts of a pass run on torch's threads (:mod:`~dgl_lowbit.quant.threads`): the functions hold no lock and start no
threads of their own, so that workers can be forked, and torch's and Numba's numbers of threads stay as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from .format import QParams
from .stochastic import grid_of
from .threads import shared

# Values from which a compiled pass is faster than torch's operations, and values that are worth a thread.
_LEAST, _LEAST_A_THREAD = 1 << 14, 1 << 17
# Columns from which the ranges of rows are taken in compiled passes.
_LEAST_OF_ROW = 16
# Columns from which values with one scale for all are worked on row by row, which threads can share.
_WIDE = 64
_NOTHING, _ONE = np.empty((0, 0), np.float32), torch.ones(())


class Layout(NamedTuple):
    """How the scales of values stand: one for all, one a row or one a column, of memory."""

    kind: str  # "tensor", "row" or "column"
    is_transposed: bool  # whether a row of memory is a column of the tensor

    def matrix(self, x: torch.Tensor) -> np.ndarray:
        """``x`` as (rows, columns) in the order of memory, copied only where it has another."""
        x = x.detach()
        x = (x.t() if self.is_transposed else x).contiguous()
        whole = self.kind == "tensor" and x.shape[-1] < _WIDE
        return (x.view(1, -1) if whole else x.view(-1, x.shape[-1])).numpy()

    def empty(self, shape: torch.Size) -> torch.Tensor:
        """A tensor that :meth:`matrix` shows without a copy."""
        return torch.empty(shape[::-1]).t() if self.is_transposed else torch.empty(shape)


def layout_of(x: torch.Tensor, scale: torch.Tensor) -> Layout | None:
    """The layout of ``x``, (…, columns), and ``scale``, which broadcasts against it; None where torch is to do it."""
    if x.numel() < _LEAST or not (is_plain(x) and is_plain(scale)) or is_traced() or kernels() is None:
        return None
    is_transposed = x.dim() == 2 and not x.is_contiguous() and x.t().is_contiguous()
    if scale.dim() > x.dim():
        return None
    if scale.numel() == 1:
        return Layout("tensor", is_transposed)
    if scale.shape == (*x.shape[:-1], 1):
        return Layout("column" if is_transposed else "row", is_transposed)
    if scale.shape[-1] == scale.numel() == x.shape[-1]:
        return Layout("row" if is_transposed else "column", is_transposed)
    return None


def is_plain(x):
    return type(x) in (torch.Tensor, torch.nn.Parameter) and x.dtype == torch.float32 and x.device.type == "cpu"


def is_traced():
    """Whether torch.compile reads what is run; it cannot read compiled functions."""
    compiler = getattr(torch, "compiler", None)
    return hasattr(compiler, "is_compiling") and compiler.is_compiling()


@functools.cache
def kernels() -> Any:
    """:mod:`numba_kernels.training`, loaded when first needed; None where Numba does not compile."""
    import numba

    import numba_kernels.training

    return None if numba.config.DISABLE_JIT else numba_kernels.training


def centered(x, scale, zero_point, offset, qmax: int, layout: Layout, out: torch.Tensor | None = None) -> torch.Tensor:
    """clamp(round(x / scale + offset), 0, qmax) − zero_point, in ``out``, which in memory stands as ``x`` does."""
    out = layout.empty(x.shape) if out is None else out
    values, codes = layout.matrix(x), layout.matrix(out)
    numbers = [_numbers(part, scale) for part in (scale.reciprocal(), offset, zero_point)]
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
    kind, passed = _kind_of(grad_x, clips), _NOTHING if grad_x is None else layout.matrix(grad_x)
    numbers, ends = [_numbers(part, inverse) for part in (inverse, offset)], (np.float32(low), np.float32(high))
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
    return _sums(sums, inverse)


def codes_and_gradients(
    grad, x, params: QParams, qmax: int, low: float, high: float, layout: Layout, out, grad_x, clips: bool
) -> torch.Tensor:
    """``out`` ← :func:`centered`; for the gradient ``grad`` of these, that of the logarithm of each scale.

    ``x``, (rows, columns), has one scale or one a row. ``grad_x``, where it is asked for, becomes the gradient of the
    values.
    """
    upstream, values, codes = (layout.matrix(part) for part in (grad, x, out))
    kind, passed = _kind_of(grad_x, clips), _NOTHING if grad_x is None else layout.matrix(grad_x)
    scale, zero_point, offset = params
    numbers = [_numbers(part, scale) for part in (scale.reciprocal(), offset, zero_point)]
    top, ends, sums = np.float32(qmax), (np.float32(low), np.float32(high)), np.empty(len(values))
    in_parts(values, 1, lambda a, b: kernels().codes_and_gradients(
        upstream, values, a, b, *numbers, int(layout.kind == "row"), top, *ends, kind, codes, passed, sums
    ))  # fmt: skip
    return _sums(sums, scale)


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
    inverse, offset, zero = (_numbers(part, scale) for part in (scale.reciprocal(), params.offset, params.zero_point))
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
    return _sums(sums, params.scale), torch.from_numpy(products)


def _of_few(x, params, nothing, qmax):
    scale, zero_point, offset = params
    numbers = [_numbers(part, scale) for part in (scale.reciprocal(), offset, zero_point, nothing)]
    values = x.detach().numpy()
    return (values, values.view(np.uint32)), (*numbers, int(scale.numel() > 1), np.float32(qmax))


def can_take_ranges(x: torch.Tensor) -> bool:
    """Whether :func:`ranges_of_rows` serves, and pays: rows are not short."""
    return x.dim() > 0 and x.shape[-1] >= _LEAST_OF_ROW and x.is_contiguous() and layout_of(x, _ONE) is not None


def ranges_of_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Smallest and largest of each row of ``x``, (…, columns), both (…, 1); NaN where one of its values is."""
    low, high = x.new_empty(*x.shape[:-1], 1), x.new_empty(*x.shape[:-1], 1)
    values, *extremes = x.detach().view(-1, x.shape[-1]).numpy(), low.view(-1).numpy(), high.view(-1).numpy()
    in_parts(values, 1, lambda a, b: kernels().ranges_of_rows(values, a, b, *extremes))
    return low, high


def total_and_magnitude(x: torch.Tensor) -> torch.Tensor:
    """Σ x and Σ |x|, (2,) float64."""
    if layout_of(x, _ONE) is None or not x.is_contiguous():
        return torch.stack([x.sum(dtype=torch.float64), x.abs().sum(dtype=torch.float64)])
    sums = torch.empty(2, dtype=torch.float64)
    kernels().total_and_magnitude(x.detach().view(-1).numpy(), sums.numpy())
    return sums


def packed(x: torch.Tensor, params: QParams, qmax: int) -> torch.Tensor | None:
    """Packed codes of ``x``, (rows, columns), which has one scale, or one a column; None where x has a NaN."""
    values = x.detach().numpy()
    inverse, offset = (_by_column(part, x.shape[1]) for part in (params.scale.reciprocal(), params.offset))
    bits, top = kernels().storage_bits(qmax.bit_length()), np.float32(qmax)
    out = torch.zeros(len(x), kernels().row_bytes(x.shape[1], bits), dtype=torch.uint8)
    rows = out.numpy()
    faults = in_parts(values, 1, lambda a, b: kernels().pack_columns(values, a, b, inverse, offset, top, bits, rows))
    return None if any(faults) else out


def sum_of_codes(graph: Any, codes: torch.Tensor, params: QParams, qmax: int, times, out, start: int = 0) -> None:
    """out ← Σ (code − zero_point) · scale · times over in-neighbours in ``graph``, as ``kernels().prepare`` makes it.

    Of the nodes from ``start`` on, as many as ``out``, (rows, columns), has rows; ``codes`` are :func:`packed`,
    ``times`` a number or one a node.
    """
    rows, sums, bits = codes.numpy(), out.numpy(), kernels().storage_bits(qmax.bit_length())
    zero, scale = (_by_column(part, out.shape[1]) for part in (params.zero_point, params.scale))
    factors, step = _by_row(times)
    in_parts(sums, 1, lambda a, b: kernels().sum_codes(
        graph, start + a, start + b, rows, bits, zero, scale, factors, step, sums[a:b]
    ))  # fmt: skip


def gradients_of_sum(
    graph: Any, grad, after, x, times, params: QParams, qmax: int, low: float, high: float, grad_x, clips: bool,
    seed: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Gradient of the scale, for ``grad`` of what :func:`sum_of_codes` gives of ``x · times``, times ``after``.

    ``times`` and ``after`` are a number or one a row. ``graph`` has the out-neighbours. ``grad_x``, where it is asked
    for, becomes the gradient of ``x``. With a ``seed`` the gradients that are summed are
    :func:`~dgl_lowbit.quant.stochastic.rounded`, and read as bytes.
    """
    values, block = x.detach().numpy(), kernels().BLOCK_ROWS
    scale, zero_point, offset = params
    of_scale, *numbers = (_by_column(part, x.shape[1]) for part in (scale, scale.reciprocal(), offset, zero_point))
    kind, passed = _kind_of(grad_x, clips), _NOTHING if grad_x is None else grad_x.numpy()
    top, ends = np.float32(qmax), (np.float32(low), np.float32(high))
    sums = np.zeros((-(-len(values) // block), values.shape[1]))
    upstream: tuple = in_lanes(grad), *_by_row(after), _padded(of_scale)
    if seed is not None:
        packed, zeros, step = packed_gradients(grad.contiguous(), after, seed)
        upstream = packed, zeros, step * of_scale
    in_parts(values, block, lambda a, b: kernels().gradients_of_sums(
        graph, a, b, upstream, values, *_by_row(times), *numbers, top, *ends, kind, passed, sums
    ))  # fmt: skip
    return _sums(sums.sum(0), scale) / scale


def packed_gradients(grad, after: torch.Tensor, seed: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``grad``, (rows, columns), times ``after``, rounded: bytes, and the zero and the step of each column."""
    values, factors, block = grad.numpy(), _by_row(after), kernels().BLOCK_ROWS
    low = np.full((max(-(-len(values) // block), 1), values.shape[1]), np.inf, np.float32)
    high, out = -low, np.zeros((len(values), kernels().row_bytes(values.shape[1], 8)), np.uint8)
    in_parts(values, block, lambda a, b: kernels().ranges_of_gradients(values, a, b, *factors, low, high))
    inverse, step, zero = (x.numpy() for x in grid_of(*(torch.from_numpy(x) for x in (low.min(0), high.max(0)))))
    bits = np.uint32(int(seed))
    in_parts(values, 1, lambda a, b: kernels().pack_gradients(values, a, b, *factors, inverse, zero, bits, out))
    return out, zero, step


def can_scale(x: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether :func:`scale_in_place` serves: ``first`` is one scale or one a row, ``second`` one or one a column."""
    if not x.is_contiguous():
        return False
    kinds = [layout and layout.kind for layout in (layout_of(x, first), layout_of(x, second))]
    return kinds[0] in ("tensor", "row") and kinds[1] in ("tensor", "column")


def scale_rows(x: torch.Tensor, before, columns, after, out: torch.Tensor) -> None:
    """out ← x · before · columns · after, of (rows, columns): numbers, or one a row, one a column and one a row."""
    values, results, of_columns = x.detach().numpy(), out.detach().numpy(), _by_column(columns, x.shape[-1])
    first, last = _by_row(before), _by_row(after)
    in_parts(values, 1, lambda a, b: kernels().scale_rows(values, a, b, *first, of_columns, *last, results))


def scale_in_place(x: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> None:
    """x ← x · first · second."""
    values = x.detach().view(-1, x.shape[-1])
    scale_rows(values, first, second, _ONE, values)


def gradients_of_scaled(grad, out, first, second, grad_x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Σ grad · out for each of ``first`` and for each of ``second``; ``grad_x`` becomes grad · second · first."""
    values = out.detach().view(-1, out.shape[-1]).numpy()
    numbers = *_by_row(first), _by_column(second, out.shape[-1])
    upstream, block = grad.contiguous().view(values.shape).numpy(), kernels().BLOCK_ROWS
    rows, columns = np.empty(len(values)), np.zeros((-(-len(values) // block), values.shape[1]))
    passed = grad_x.view(values.shape).numpy()
    in_parts(values, block, lambda a, b: kernels().gradients_of_scaled(
        upstream, values, a, b, *numbers, passed, rows, columns
    ))  # fmt: skip
    return _sums(rows, first), _sums(columns.sum(0), second)


def _sums(sums, scale):
    """Sums, float64, as float32 of the shape of ``scale``: one for all of them where it is one."""
    return torch.from_numpy(np.asarray(sums if scale.numel() > 1 else sums.sum(), np.float32)).view(scale.shape)


def _kind_of(grad_x, clips):
    return kernels().NO_GRADIENT if grad_x is None else kernels().CLIPPED if clips else kernels().UNCLIPPED


def _numbers(part: torch.Tensor, scale: torch.Tensor) -> np.ndarray:
    """One number for each of the scales."""
    return part.detach().expand(scale.shape).reshape(-1).numpy()


def _by_column(part: torch.Tensor, columns: int) -> np.ndarray:
    """One number for each column, of one for all or one for each."""
    return np.ascontiguousarray(np.broadcast_to(part.detach().numpy().reshape(-1), (columns,)))


def _by_row(part: torch.Tensor) -> tuple[np.ndarray, int]:
    """One number for all rows, or one for each, and the step from one row's to the next."""
    numbers = part.detach().reshape(-1).numpy()
    return numbers, int(len(numbers) > 1)


def in_lanes(x: torch.Tensor) -> np.ndarray:
    """``x``, (rows, columns), as rows of memory, with zeros after each up to a multiple of ``LANES``."""
    return _padded(x.detach().contiguous().numpy())


def _padded(values):
    missing = -values.shape[-1] % kernels().LANES
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, missing)]) if missing else values


def in_parts(values: np.ndarray, block: int, function: Callable[[int, int], Any]) -> list:
    """Call ``function(first, last)`` on all rows of ``values``, in whole blocks, on as many threads as torch has."""
    rows = len(values)
    parts = min(torch.get_num_threads(), -(-rows // block), values.size // _LEAST_A_THREAD)
    share = -(-rows // (block * max(parts, 1))) * block
    bounds = [*range(0, rows, max(share, 1)), rows] if rows else [0, 0]
    return shared(len(bounds) - 1, lambda n: function(bounds[n], bounds[n + 1]))
