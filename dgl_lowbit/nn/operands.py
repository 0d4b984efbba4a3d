"""What a layer's integer operations take, and the quantisers of it."""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from ..config import ALL_GRIDS, COMPONENTS

if TYPE_CHECKING:
    from ..quant import Quantizer


class Operand(NamedTuple):
    """An operand of a layer's integer operations.

    Attributes
    ----------
    component : str
        One of those of :class:`dgl_lowbit.QuantConfig`, such as "weights".
    channels : int or None
        Number of channels; None where it is not known.
    axis : int
        Channel axis. Default: the last.
    grid : str, optional
        The grid it needs. Default: the config's.
    """

    component: str
    channels: int | None
    axis: int = -1
    grid: str | None = None


def check_operands(layer: nn.Module, operands: object) -> None:
    """Raise TypeError unless ``operands``, what a layer states, are Operands by name that there are quantisers of."""
    where = f"{type(layer).__name__}.operands"
    if not isinstance(operands, dict):
        raise TypeError(f"{where} must return a dict of Operands by name, got {type(operands).__name__}.")
    for name, operand in operands.items():
        if not isinstance(operand, Operand):
            raise TypeError(f"{where}: {name!r} must be an Operand, got {type(operand).__name__}.")
        channels, known = operand.channels, ", ".join(COMPONENTS)
        if operand.component not in COMPONENTS:
            raise TypeError(f"{where}: the component of {name!r} must be one of {known}, got {operand.component!r}.")
        is_count = isinstance(channels, numbers.Integral) and not isinstance(channels, bool) and channels >= 0
        if channels is not None and not is_count:
            raise TypeError(f"{where}: the channels of {name!r} must be a whole number or None, got {channels!r}.")
        if operand.grid not in (None, *ALL_GRIDS):
            raise TypeError(f"{where}: the grid of {name!r} is one of {', '.join(ALL_GRIDS)}, got {operand.grid!r}.")


class Quantizers(nn.ModuleDict):
    """The quantisers of a layer by the names of its operands."""

    def __getitem__(self, name: str) -> Quantizer:
        if name not in self._modules:
            raise KeyError(f"operands() names no {name!r}, only {', '.join(self._modules)}.")
        return super().__getitem__(name)  # type: ignore[return-value]
