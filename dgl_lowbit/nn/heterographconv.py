"""A convolution for each edge type, low-bit each."""

from __future__ import annotations

import dgl.nn

from .base import LowBitLayer
from .message_passing.last_call import Remembered


class HeteroGraphConv(Remembered, dgl.nn.HeteroGraphConv):
    """``dgl.nn.HeteroGraphConv`` whose layers are low-bit; it holds no quantiser of its own.

    ``dgl_lowbit.quantize`` converts the layers of DGL's own class in place and needs no class of ours.

    Parameters
    ----------
    mods, aggregate
        As in ``dgl.nn.HeteroGraphConv``.
    config : QuantConfig, optional
        For the layers of ``dgl_lowbit.nn`` in ``mods`` that have none yet. Default: None, exactly
        ``dgl.nn.HeteroGraphConv``.

    Raises
    ------
    ValueError
        When ``config`` is given and one of ``mods`` holds no such layer.

    Examples
    --------
    >>> import dgl_lowbit as lowbit
    >>> conv = HeteroGraphConv({"follows": lowbit.nn.GraphConv(8, 4)}, config=lowbit.QuantConfig(2))
    >>> conv.mods["follows"].is_low_bit
    True
    """

    def __init__(self, mods, aggregate="sum", *, config=None):
        super().__init__(mods, aggregate)
        for name, module in self.mods.items() if config is not None else ():
            layers = [layer for layer in module.modules() if isinstance(layer, LowBitLayer)]
            if not layers:
                raise ValueError(
                    f"mods[{name!r}] is a {type(module).__name__} without a layer of dgl_lowbit.nn; build it of those, "
                    "or leave config out and call dgl_lowbit.quantize."
                )
            for layer in layers:
                if not layer.is_low_bit:
                    layer.configure(config)
