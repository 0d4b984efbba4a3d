"""Products of sparse features and dense matrices in compiled passes: several times as fast as torch's.

Every sum is made in the order of rows, however many threads there are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from . import passes
from .threads import shared

# Products of numbers from which a compiled pass is faster than torch's operations.
_LEAST = 1 << 16


def are_compiled(values: torch.Tensor, dense: torch.Tensor, rows: int) -> bool:
    """Whether these passes serve non-zeros ``values``, (nnz,), and ``dense``; not unless that is (``rows``, columns).

    What does not fit is left to torch, which says so: the passes have no bounds.
    """
    if dense.dim() != 2 or len(dense) != rows:
        return False
    if len(values) * dense.shape[1] < _LEAST or passes.is_traced() or torch.is_inference(values):
        return False
    return all(map(passes.is_plain, (values, dense))) and passes.kernels() is not None


def product(pattern: Any, values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """X · ``weight``, (N, D), of X with ``values`` where ``pattern`` has its non-zeros."""
    starts, columns = _places(pattern)
    rows, numbers = passes.in_lanes(weight), values.detach().numpy()
    out = np.empty((pattern.shape[0], rows.shape[1]), np.float32)
    passes.in_parts(out, 1, lambda a, b: passes.kernels().multiply_sparse(starts, columns, numbers, a, b, rows, out))
    return _without_lanes(out, weight.shape[1])


def gradient_of_weight(pattern: Any, values: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """Xᵀ · ``grad``, (M, D)."""
    starts, columns = _places(pattern)
    upstream, numbers, lanes = passes.in_lanes(grad), values.detach().numpy(), passes.kernels().LANES
    out = np.zeros((pattern.shape[1], upstream.shape[1]), np.float32)
    blocks = out.shape[1] // lanes
    parts = max(min(torch.get_num_threads(), blocks), 1)
    ends = [lanes * (blocks * part // parts) for part in range(parts + 1)]
    shared(parts, lambda n: passes.kernels().weight_gradients_of_sparse(
        starts, columns, numbers, upstream, ends[n], ends[n + 1], out
    ))  # fmt: skip
    return _without_lanes(out, grad.shape[1])


def gradient_of_values(pattern: Any, grad: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(``grad`` · weightᵀ) where X has its non-zeros, (nnz,)."""
    starts, columns = _places(pattern)
    upstream, rows, out = passes.in_lanes(grad), passes.in_lanes(weight), torch.empty(len(columns))
    numbers = out.numpy()
    passes.in_parts(upstream, 1, lambda a, b: passes.kernels().gradients_of_sparse(
        starts, columns, upstream, rows, a, b, numbers
    ))  # fmt: skip
    return out


def _places(pattern):
    return [part.numpy() for part in pattern.by_row]


def _without_lanes(out, columns):
    return torch.from_numpy(np.ascontiguousarray(out[:, :columns]))
