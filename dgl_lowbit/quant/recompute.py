"""Forwards that activation checkpointing computes again in the backward pass."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch

from . import fused
from .sparse import SparseFeatures

# Forwards between a first one and its recomputation, of one quantiser or bound.
MOST_REMEMBERED = 64


def is_recomputing() -> bool:
    """Whether this forward runs inside a backward pass, as ``torch.utils.checkpoint`` runs it, reentrant or not."""
    return torch._C._current_graph_task_id() != -1


class Remembered:
    """What the latest forwards used, by the tensor they met, so that recomputed they use the same.

    Copies and pickles of it are empty.

    Parameters
    ----------
    most : int
        As many forwards.

    Examples
    --------
    >>> remembered, x = Remembered(), torch.ones(2, 3)
    >>> remembered.add(x, "range of the first forward")
    >>> remembered.of(x.clone()), remembered.of(2 * x)
    ('range of the first forward', None)
    """

    def __init__(self, most: int = MOST_REMEMBERED):
        self._latest: deque = deque(maxlen=most)

    def add(self, x: torch.Tensor | SparseFeatures, used: Any) -> None:
        self._latest.append((_key(x), used))

    def of(self, x: torch.Tensor | SparseFeatures) -> Any:
        """What the latest forward on a tensor equal to ``x`` used; None where none is remembered."""
        if not self._latest:
            return None
        shape, sums = _key(x)
        return next((used for (s, t), used in reversed(self._latest) if s == shape and torch.equal(t, sums)), None)

    def as_first(self, x: torch.Tensor | SparseFeatures, used: Any) -> Any:
        """``used``, which is remembered unless None; recomputed, what the first forward on ``x`` used."""
        if is_recomputing():
            return self.of(x)
        if used is not None:
            self.add(x, used)
        return used

    def clear(self) -> None:
        self._latest.clear()

    def __reduce__(self):
        return Remembered, (self._latest.maxlen,)


@torch.no_grad()
def _key(x):
    """The shape, and what tells tensors of it apart; it stays on their device."""
    values = x.values if isinstance(x, SparseFeatures) else x
    return x.shape, fused.total_and_magnitude(values)
