"""How compiled passes of training are called: on which tensors, as which arrays, on which threads.

Parts of a pass run on torch's threads (:mod:`~dgl_lowbit.quant.threads`): the functions hold no lock and start no
threads of their own, so that workers can be forked, and torch's and Numba's numbers of threads stay as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from .threads import shared

# Values from which a compiled pass is faster than torch's operations, and values that are worth a thread.
_LEAST, _LEAST_A_THREAD = 1 << 14, 1 << 17
# Columns from which values with one scale for all are worked on row by row, which threads can share.
_WIDE = 64
NOTHING, ONE = np.empty((0, 0), np.float32), torch.ones(())


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
    """Whether ``x`` is a float32 tensor of the CPU, and no subclass."""
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


def in_parts(values: np.ndarray, block: int, function: Callable[[int, int], Any]) -> list:
    """Call ``function(first, last)`` on all rows of ``values``, in whole blocks, on as many threads as torch has."""
    rows = len(values)
    parts = min(torch.get_num_threads(), -(-rows // block), values.size // _LEAST_A_THREAD)
    share = -(-rows // (block * max(parts, 1))) * block
    bounds = [*range(0, rows, max(share, 1)), rows] if rows else [0, 0]
    return shared(len(bounds) - 1, lambda n: function(bounds[n], bounds[n + 1]))


def in_lanes(x: torch.Tensor) -> np.ndarray:
    """``x``, (rows, columns), as rows of memory, with zeros after each up to a multiple of ``LANES``."""
    return padded(x.detach().contiguous().numpy())


def padded(values):
    """An array whose rows have zeros after them up to a multiple of ``LANES``."""
    missing = -values.shape[-1] % kernels().LANES
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, missing)]) if missing else values


def kind_of(grad_x, clips):
    """What becomes of the gradient of the values, as kernels are told."""
    return kernels().NO_GRADIENT if grad_x is None else kernels().CLIPPED if clips else kernels().UNCLIPPED


def numbers_of(part: torch.Tensor, scale: torch.Tensor) -> np.ndarray:
    """One number for each of the scales."""
    return part.detach().expand(scale.shape).reshape(-1).numpy()


def by_column(part: torch.Tensor, columns: int) -> np.ndarray:
    """One number for each column, of one for all or one for each."""
    return np.ascontiguousarray(np.broadcast_to(part.detach().numpy().reshape(-1), (columns,)))


def by_row(part: torch.Tensor) -> tuple[np.ndarray, int]:
    """One number for all rows, or one for each, and the step from one row's to the next."""
    numbers = part.detach().reshape(-1).numpy()
    return numbers, int(len(numbers) > 1)


def as_sums(sums, scale):
    """Sums, float64, as float32 of the shape of ``scale``: one for all of them where it is one."""
    return torch.from_numpy(np.asarray(sums if scale.numel() > 1 else sums.sum(), np.float32)).view(scale.shape)
