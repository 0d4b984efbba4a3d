"""Gates before what layers read: 1 where a column is alive, 0 where it is dead."""

from __future__ import annotations

import inspect

import torch
from torch import nn

from ..quant.sparse import SparseFeatures

_CHILD = "gate"


class Gate(nn.Module):
    """Multiplies the columns that a layer reads by ``mask``: its child ``gate``, and its hook.

    While ``watched`` is a list, what it passes is put there: what came, without gradient; what went, whose gradient is
    to be taken; and, of sparse features, the column of each value.
    """

    mask: torch.Tensor

    def __init__(self, argument: str, columns: int):
        super().__init__()
        self.argument, self.watched = argument, None
        self.register_buffer("mask", torch.ones(columns))

    def attach(self, layer: nn.Module) -> None:
        parameter = next(iter(layer.parameters()), self.mask)
        attach(layer, _CHILD, self.to(parameter.device))

    def forward(self, layer, args, kwargs):
        if self.watched is None and bool(self.mask.all()):
            return None
        names = list(inspect.signature(layer.forward).parameters)
        place = names.index(self.argument)
        if len(args) > place:
            return tuple(self._passed(part) if n == place else part for n, part in enumerate(args)), kwargs
        return args, {**kwargs, self.argument: self._passed(kwargs[self.argument])}

    def _passed(self, x):
        if isinstance(x, tuple):
            return tuple(map(self._passed, x))
        if isinstance(x, SparseFeatures):
            kept = x.pattern.per_column(self.mask)
            return x.with_values(self._gated(x.values, kept, x.pattern.columns))
        return self._gated(x, self.mask, None)

    def _gated(self, x, mask, columns):
        out = x * mask
        if self.watched is not None:
            out = out if out.requires_grad else out.detach().requires_grad_()
            self.watched.append((x.detach(), out, columns))
        return out

    def shares(self, x, gradient, columns) -> torch.Tensor:
        """For each column the sum over rows of (x · gradient)², (columns,)."""
        squares = (x * gradient) ** 2
        if columns is None:
            return squares.reshape(-1, squares.shape[-1]).sum(0)
        return torch.zeros_like(self.mask).index_add(0, columns, squares)


def attach(module: nn.Module, child: str, gate: nn.Module) -> None:
    """Make ``gate`` a child of a module, and its hook.

    Raises
    ------
    ValueError
        When the module has something else of that name.
    """
    if hasattr(module, child):
        raise ValueError(f"{type(module).__name__} has {child!r} already, as pruning calls its gate there; rename it.")
    setattr(module, child, gate)
    module.register_forward_pre_hook(gate, with_kwargs=True)


def detach(module: nn.Module, child: str) -> None:
    """Remove a child that :func:`attach` made, and the hook, from a module that has it."""
    gate = module._modules.get(child)
    for number in [number for number, hook in module._forward_pre_hooks.items() if hook is gate]:
        del module._forward_pre_hooks[number]
        module._forward_pre_hooks_with_kwargs.pop(number, None)
        module._modules.pop(child, None)
