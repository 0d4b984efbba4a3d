"""What layers sum over neighbours in a forward, for who learns from it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch


class Sum(NamedTuple):
    """A sum over neighbours: the graph or block it went over, and the values sent, (sources, columns), detached."""

    graph: Any
    sent: torch.Tensor


class _Thread(threading.local):
    sums: list[Sum] | None = None


_thread = _Thread()


@contextmanager
def watching_sums() -> Iterator[list[Sum]]:
    """The sums that low-bit layers take within, in their order; a list that is filled meanwhile."""
    before, _thread.sums = _thread.sums, []
    try:
        yield _thread.sums
    finally:
        _thread.sums = before


def summed(graph, codes) -> None:
    """Say that a layer is about to sum ``codes`` over the edges of ``graph``."""
    if _thread.sums is not None:
        centered = codes.centered  # made here, where gradients are recorded
        _thread.sums.append(Sum(graph, centered.detach() * codes.scale.detach()))
