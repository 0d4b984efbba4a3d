"""Tensors that are made again for gradients, some rows at a time, where keeping them would cost memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from .beside import Beside

_origins = Beside()


class Origin(NamedTuple):
    """How the rows of a tensor, (rows, columns), are made again.

    Parameters
    ----------
    stand_in : torch.Tensor
        Of the tensor's shape, without its memory; gradients of it are those of the tensor.
    kept : tuple of torch.Tensor
        What is kept in the tensor's place.
    rows : callable
        ``rows(kept, start, out)`` writes the rows from ``start`` on, as many as ``out`` has.
    """

    stand_in: torch.Tensor
    kept: tuple[torch.Tensor, ...]
    rows: Callable[[tuple[torch.Tensor, ...], int, torch.Tensor], None]

    def remember(self, x: torch.Tensor) -> torch.Tensor:
        """``x``, the tensor itself, from now on with this origin."""
        _origins.note(x, self)
        return x


def origin_of(x: torch.Tensor) -> Origin | None:
    """How ``x`` is made again; None where it is to be kept."""
    return _origins.of(x)


class _Remade(torch.autograd.Function):
    @staticmethod
    def forward(ctx, stand_in, kept, rows):
        out = torch.empty(stand_in.shape)
        rows(kept, 0, out)
        return out

    @staticmethod
    def backward(ctx, grad):
        return grad, None, None


def remade(stand_in: torch.Tensor, kept: tuple[torch.Tensor, ...], rows: Callable) -> torch.Tensor:
    """The whole tensor, made again; its gradients go to ``stand_in``."""
    return _Remade.apply(stand_in, kept, rows)
