"""How a range is taken from values, of one process or of several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from numba_kernels.errors import LowBitError

from .sparse import SparseFeatures

# Values looked at when a range is searched; larger tensors are sampled in even strides.
_SAMPLE = 1 << 20
UNCALIBRATED = (
    "a quantiser has no range yet; run dgl_lowbit.calibrate(model, graph, feat) "
    "or train for a step before evaluating or freezing."
)
DRIFTING = (
    "a quantiser without a range would take another one in each of {} processes, and they would drift apart; run "
    "dgl_lowbit.calibrate(model, graph, feat, process_group=torch.distributed.group.WORLD) in all of them before the "
    "first step, and wrap the model in DistributedDataParallel after it."
)


class NotCalibratedError(LowBitError, RuntimeError):
    """A quantiser was used before it saw any data to take its range from."""


@dataclass(frozen=True)
class Observer:
    """How a range is taken from values.

    Parameters
    ----------
    kind : {"error", "minmax", "percentile"}
        What minimises the error of representation; the extremes; or a percentile of the magnitudes.
    percentile : float
        From 0 to 100.
    process_group : torch.distributed.ProcessGroup, optional
        Processes that take a range together, each from the values of all. Default: each from its own.

    Raises
    ------
    ValueError
        For another kind or percentile.
    """

    kind: str = "error"
    percentile: float = 99.9
    process_group: Any = None

    def __post_init__(self):
        if self.kind not in ("error", "minmax", "percentile"):
            raise ValueError(f"observer must be 'error', 'minmax' or 'percentile', got {self.kind!r}.")
        if not 0 < self.percentile <= 100:
            raise ValueError(f"percentile must be above 0 and at most 100, got {self.percentile!r}.")

    def seen(self, x: torch.Tensor | SparseFeatures, along: int, whole: bool) -> torch.Tensor | SparseFeatures:
        """The values that a range is taken from: of ``x``, or of those that all processes have, side by side ``along``.

        All of them where ``whole``, else a sample of rows.
        """
        x = x if whole else sample(x)
        if self.process_group is None:
            return x
        return gathered(x.to_dense() if isinstance(x, SparseFeatures) else x, along, self.process_group)


def sample(x: torch.Tensor | SparseFeatures) -> torch.Tensor:
    """Rows of ``x`` in even strides, (rows, width): not many more values than a range needs."""
    if isinstance(x, SparseFeatures):
        return x[:: max(-(-x.numel() // _SAMPLE), 1)].to_dense()
    if x.numel() == 0:
        return x
    rows = x.reshape(-1, x.shape[-1]) if x.dim() else x.reshape(1, 1)
    return rows[:: -(-rows.numel() // _SAMPLE)]


def gathered(x: torch.Tensor, dim: int, group) -> torch.Tensor:
    """The tensors of all processes of ``group`` side by side along ``dim``, in the order of ranks.

    Every process of the group calls this, with tensors that differ in that dimension only.
    """
    x = x.movedim(dim, 0).contiguous()
    count = torch.tensor([len(x)], device=x.device)
    counts = [torch.empty_like(count) for _ in range(dist.get_world_size(group))]
    dist.all_gather(counts, count, group=group)
    most = max(int(other) for other in counts)
    padded = torch.cat([x, x.new_zeros(most - len(x), *x.shape[1:])])
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded, group=group)
    return torch.cat([part[: int(other)] for part, other in zip(parts, counts)]).movedim(0, dim)


def number_of_processes() -> int:
    """Size of the world of ``torch.distributed``; 1 where it is not in use."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
