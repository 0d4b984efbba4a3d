"""Bits of groups of nodes, under a budget of bytes of hidden states (arXiv:2302.00193)."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import nn

from numba_kernels.layout import dense_bytes, storage_bits

from ..calibration import calibrate
from ..nn import LowBitLayer
from ..nn.message_passing.last_call import with_own_frames
from ..nn.stored import decoded
from ..nn.wrappers import check_model
from ..quant import GroupQuantizer, Quantizer
from ..quant.evaluation import evaluating, observing
from ..quant.learned import WIDTHS
from ..quant.observer import sample
from ..quant.sparse import SparseFeatures

_HIDDEN = ("inputs", "aggregates")


class _Option(NamedTuple):
    """Rows of a group at other bits than they have: what these save of the error, and cost in bytes."""

    quantizer: GroupQuantizer
    group: int
    width: int
    saved: float
    cost: int

    @property
    def worth(self) -> float:
        return self.saved / self.cost if self.cost else math.inf


def allocate_groups(model: nn.Module, *args, budget: float, **kwargs) -> nn.Module:
    """Bits for each group of nodes, with which hidden states take no more than some bytes; without labels.

    All groups begin with 1 bit. Of 1, 2, 3, 4 and 8 bits more is given to that group whose local error E, that of
    :class:`dgl_lowbit.quant.GroupQuantizer`, a byte lowers most, as long as the budget is kept. Errors are those of the
    states that the model has with the bits it had before; E of several quantisers is summed. arXiv:2302.00193 descends
    the gradient of the same error, a number of bits a node; widths and groups are few, so that they can be compared.

    Parameters
    ----------
    model : torch.nn.Module
        Low-bit, of a config with ``node_groups``; its bits of groups and all its ranges are overwritten.
    *args, **kwargs
        What the model is called with: ``graph, feat``.
    budget : float
        The most bytes there may be, as :func:`hidden_bytes` counts them.

    Returns
    -------
    torch.nn.Module
        ``model``, calibrated.

    Raises
    ------
    ValueError
        For a model without groups of nodes, and for a budget that is no positive number or cannot be kept (the error
        says the least possible).

    Examples
    --------
    >>> import dgl, dgl.nn
    >>> from dgl_lowbit import QuantConfig, quantize
    >>> call = dgl.add_self_loop(dgl.rand_graph(50, 200)), torch.rand(50, 64)
    >>> model = quantize(dgl.nn.GraphConv(64, 64), QuantConfig(2, node_groups=4))
    >>> hidden_bytes(allocate_groups(model, *call, budget=600), *call) <= 600
    True
    """
    check_model(model, "allocate_groups")
    if not any(isinstance(quantizer, GroupQuantizer) for quantizer in _states(model)):
        raise ValueError("the model has no groups of nodes; quantize it with QuantConfig(node_groups=8).")
    if not isinstance(budget, Real) or isinstance(budget, bool) or not 0 < float(budget) < math.inf:
        raise ValueError(f"the budget of hidden states is a positive number of bytes, got {budget!r}.")
    args, kwargs = decoded((args, kwargs))
    calibrate(model, *args, **kwargs)
    known = {quantizer: _Known.of(quantizer, rows) for quantizer, rows in _grouped(model, args, kwargs).items()}
    if not known:
        raise ValueError(
            "no hidden state has groups of nodes: the layer that a model defines first gets none, as it is to read the "
            "features; define layers in the order in which they are called."
        )
    for quantizer in known:
        quantizer.bits.fill_(1)
    calibrate(model, *args, **kwargs)
    left = float(budget) - hidden_bytes(model, *args, **kwargs)
    if left < 0:
        raise ValueError(f"the budget cannot be kept; the least possible, at 1 bit, is {budget - left:,.10g} bytes.")
    while True:
        _give(known, left)
        calibrate(model, *args, **kwargs)
        beyond = hidden_bytes(model, *args, **kwargs) - budget
        if beyond <= 0:
            return model
        left -= beyond  # with other bits before them, rows are of other groups


def _give(known, left):
    """Set the bits of groups from 1 on, with ``left`` bytes to give."""
    for quantizer in known:
        quantizer.bits.fill_(1)
    while True:
        options = [option for quantizer, part in known.items() for option in part.options(quantizer)]
        options = [option for option in options if option.cost <= left and option.saved > 0]
        if not options:
            return
        best = max(options, key=lambda option: option.worth)
        best.quantizer.bits[best.group], left = best.width, left - best.cost


class _Known(NamedTuple):
    """What is known of a quantiser's groups: errors at each of WIDTHS, (5, groups), rows of each, and their columns."""

    errors: torch.Tensor
    rows: torch.Tensor
    columns: int

    @classmethod
    def of(cls, quantizer: GroupQuantizer, x: torch.Tensor) -> _Known:
        rows = torch.bincount(quantizer.qparams(x).group, minlength=quantizer.groups)
        return cls(quantizer.errors(sample(x)), rows.cpu(), x.shape[-1])

    def options(self, quantizer: GroupQuantizer) -> list[_Option]:
        """Each group at each width above its own."""
        found = []
        for group, own in enumerate(quantizer.bits.tolist()):
            errors, rows = self.errors[:, group].tolist(), int(self.rows[group])
            for width, error in zip(WIDTHS, errors):
                if width > own:
                    cost = rows * (row_bytes(self.columns, width) - row_bytes(self.columns, own))
                    found.append(_Option(quantizer, group, width, errors[WIDTHS.index(own)] - error, cost))
        return found


def row_bytes(columns: int, bits: int) -> int:
    """Bytes of a row of codes that are stored side by side.

    >>> row_bytes(10, 2), row_bytes(10, 3)
    (3, 5)
    """
    return dense_bytes(columns, storage_bits(bits))


def hidden_bytes(model: nn.Module, *args, **kwargs) -> int:
    """Bytes of the codes of hidden states, as a file or a store of states would hold them.

    These are all aggregates, and inputs of low-bit layers but of the first that is called and others that read the
    model's features as well. Rows have the bits of their groups, and stand side by side without padding; 3-bit codes
    take 4 bits. Where there are groups, a byte says each row's. Not counted are scales and zero points of rows, which
    there are with groups and without. A running packed model takes more: it pads rows, and keeps all in the most bits
    that a group has.

    Parameters
    ----------
    model : torch.nn.Module
        Low-bit and calibrated.
    *args, **kwargs
        What the model is called with: ``graph, feat``.

    Returns
    -------
    int
    """
    total = 0
    for quantizer, x in _met(model, *decoded((args, kwargs))):
        if isinstance(quantizer, GroupQuantizer):
            widths, counts = quantizer.bits[quantizer.qparams(x).group].unique(return_counts=True)
            sizes = [row_bytes(x.shape[-1], width) + 1 for width in widths.tolist()]
            total += sum(count * size for count, size in zip(counts.tolist(), sizes))
        else:
            total += len(x) * row_bytes(x.shape[-1], quantizer.format.bits)
    return total


def place_groups(model: nn.Module, args: tuple, kwargs: dict) -> None:
    """Set limits between groups so that these are of one size again, after training; bits and ranges stay."""
    for _ in _grouped(model, args, kwargs):  # what later ones meet hangs on the limits of those before
        for quantizer, rows in _grouped(model, args, kwargs).items():
            quantizer.place(rows)


def _grouped(model, args, kwargs) -> dict[GroupQuantizer, torch.Tensor]:
    """The rows that each quantiser with groups meets in a run."""
    found: dict[GroupQuantizer, list[torch.Tensor]] = {}
    for quantizer, rows in _met(model, args, kwargs):
        if isinstance(quantizer, GroupQuantizer):
            found.setdefault(quantizer, []).append(rows)
    return {quantizer: torch.cat(calls) for quantizer, calls in found.items()}


def _states(model) -> dict[Quantizer, str]:
    """Quantisers of the states of a low-bit model, each with its component."""
    found: dict[Quantizer, str] = {}
    for layer in _layers(model):
        quantizers: Any = layer.quantizers
        for name, operand in layer.all_operands().items():
            if operand.component in _HIDDEN and not quantizers[name].format.is_float:
                found[quantizers[name]] = operand.component
    return found


def _layers(model):
    return [layer for layer in model.modules() if isinstance(layer, LowBitLayer) and layer.is_low_bit]


@torch.no_grad()
def _met(model, args, kwargs) -> list[tuple[Quantizer, torch.Tensor]]:
    """The hidden states that quantisers meet in a run, (rows, columns), in its order.

    Of several layers the inputs of the first that is called are none, nor are others that are what the model is given.
    """
    states, found = _states(model), []

    def watch(quantizer, x, params):
        dense = x.to_dense() if isinstance(x, SparseFeatures) else x
        found.append((quantizer, dense.reshape(-1, dense.shape[-1])))

    own_args, own_kwargs = with_own_frames((args, kwargs))
    with evaluating(model), observing(states, watch=watch):
        model(*own_args, **own_kwargs)
    given = [x for quantizer, x in found if states[quantizer] == "inputs"][:1] if len(_layers(model)) > 1 else []
    given += [part for part in (*args, *kwargs.values()) if isinstance(part, torch.Tensor)] if given else []
    return [
        (quantizer, x)
        for quantizer, x in found
        if states[quantizer] != "inputs" or not any(x.shape == part.shape and torch.equal(x, part) for part in given)
    ]
