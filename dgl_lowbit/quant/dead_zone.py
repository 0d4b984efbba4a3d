"""Delta-coded messages that stay unsent: changes too small to be worth a message."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch

from .base import Quantizer
from .quantized import Quantized

PARTS = ("rows", "entries")
_TOLD: ContextVar[tuple] = ContextVar("told of silent rows", default=())


@dataclass(frozen=True)
class DeadZone:
    """Which changes are too small to send: a threshold a column, a part of the step that another quantiser has.

    A row is *silent* where all its entries are below their thresholds in size: it sends nothing, and its neighbours
    keep what they have of it, which is then off by less than a threshold. As the threshold goes with the step of a
    trained grid, it is trained with it.

    Parameters
    ----------
    quantizer : Quantizer
        Of the first message, which sends the values themselves; with a scale for the tensor or for each channel.
    size : float
        Threshold over the quantiser's step, above 0.
    of_entries : bool
        Whether the entries below their thresholds are 0 in the rows that are sent, too (arXiv:2403.13268).
    """

    quantizer: Quantizer
    size: float
    of_entries: bool = False

    @staticmethod
    @contextmanager
    def telling(tell: Callable[[torch.Tensor], None]) -> Iterator[None]:
        """Within, ``tell`` is called with which rows are silent, (rows,) bool, whenever changes are coded."""
        token = _TOLD.set((*_TOLD.get(), tell))
        try:
            yield
        finally:
            _TOLD.reset(token)

    @property
    def part(self) -> str:
        """What it is of, one of :data:`PARTS`."""
        return PARTS[self.of_entries]

    @torch.no_grad()
    def thresholds(self) -> torch.Tensor:
        """The threshold of all columns, (1,), or of each, (columns,), float32."""
        like = torch.zeros(1, self.quantizer.channels or 1, device=self.quantizer.width.device)
        return self.quantizer.qparams(like).scale.reshape(-1) * self.size

    def quantized(self, quantizer: Quantizer, change: torch.Tensor, protected=None) -> Quantized:
        """Codes of ``change``, (rows, columns), under ``quantizer``, of silent rows 0.

        Gradients go straight through what is not sent, and ranges are taken from the rows that are.
        """
        below = change.detach().abs() < self.thresholds()
        silent = below.reshape(len(below), -1).all(1)
        if protected is not None:
            silent = silent & ~protected
        for tell in _TOLD.get():
            tell(silent)
        nothing = change - change.detach()
        if self.of_entries:
            change = torch.where(below, nothing, change)
        sent = change.detach()[~silent]
        codes = quantizer.quantized(change, (lambda: sent) if len(sent) else None, protected)
        return codes.passing(nothing, silent)


def check_dead_zone(size, of: str) -> None:
    """Raise ValueError unless these are a threshold and what it is of."""
    is_number = isinstance(size, numbers.Real) and not isinstance(size, bool)
    if not is_number or not 0 < size < float("inf"):
        raise ValueError(
            f"dead_zone must be a number above 0, in steps of the first message, or None for none, got {size!r}."
        )
    if of not in PARTS:
        raise ValueError(f"dead_zone_of must be one of {', '.join(PARTS)}, got {of!r}.")
