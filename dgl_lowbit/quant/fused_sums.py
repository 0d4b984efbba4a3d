"""Sums of codes over neighbours in compiled passes, and their gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .format import QParams
from .passes import NOTHING, as_sums, by_column, by_row, in_lanes, in_parts, kernels, kind_of, padded
from .stochastic import grid_of


def packed(x: torch.Tensor, params: QParams, qmax: int) -> torch.Tensor | None:
    """Packed codes of ``x``, (rows, columns), which has one scale, or one a column; None where x has a NaN."""
    values = x.detach().numpy()
    inverse, offset = (by_column(part, x.shape[1]) for part in (params.scale.reciprocal(), params.offset))
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
    zero, scale = (by_column(part, out.shape[1]) for part in (params.zero_point, params.scale))
    factors, step = by_row(times)
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
    of_scale, *numbers = (by_column(part, x.shape[1]) for part in (scale, scale.reciprocal(), offset, zero_point))
    kind, passed = kind_of(grad_x, clips), NOTHING if grad_x is None else grad_x.numpy()
    top, ends = np.float32(qmax), (np.float32(low), np.float32(high))
    sums = np.zeros((-(-len(values) // block), values.shape[1]))
    upstream: tuple
    if seed is None:
        upstream = in_lanes(grad), *by_row(after), padded(of_scale)
    else:
        packed, zeros, step = packed_gradients(grad.contiguous(), after, seed)
        upstream = packed, zeros, step * of_scale
    in_parts(values, block, lambda a, b: kernels().gradients_of_sums(
        graph, a, b, upstream, values, *by_row(times), *numbers, top, *ends, kind, passed, sums
    ))  # fmt: skip
    return as_sums(sums.sum(0), scale) / scale


def packed_gradients(grad, after: torch.Tensor, seed: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``grad``, (rows, columns), times ``after``, rounded: bytes, and the zero and the step of each column."""
    values, factors, block = grad.numpy(), by_row(after), kernels().BLOCK_ROWS
    low = np.full((max(-(-len(values) // block), 1), values.shape[1]), np.inf, np.float32)
    high, out = -low, np.zeros((len(values), kernels().row_bytes(values.shape[1], 8)), np.uint8)
    in_parts(values, block, lambda a, b: kernels().ranges_of_gradients(values, a, b, *factors, low, high))
    inverse, step, zero = (x.numpy() for x in grid_of(*(torch.from_numpy(x) for x in (low.min(0), high.max(0)))))
    bits = np.uint32(int(seed))
    in_parts(values, 1, lambda a, b: kernels().pack_gradients(values, a, b, *factors, inverse, zero, bits, out))
    return out, zero, step
