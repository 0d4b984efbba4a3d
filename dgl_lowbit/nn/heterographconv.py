"""A convolution for each edge type, low-bit each."""

from __future__ import annotations

import dgl.nn

from .base import LowBitLayer


class HeteroGraphConv(dgl.nn.HeteroGraphConv):
    """``dgl.nn.HeteroGraphConv`` whose layers are low-bit; it holds no quantiser of its own.

    ``dgl_lowbit.quantize`` converts the layers of DGL's own class in place and needs no class of ours.

    Parameters
    ----------
    mods, aggregate
        As in ``dgl.nn.HeteroGraphConv``.
    config : QuantConfig, optional
        For those of ``mods`` that can be low-bit and are not yet. Default: None, exactly ``dgl.nn.HeteroGraphConv``.

    Examples
    --------
    >>> import dgl_lowbit as lowbit
    >>> conv = HeteroGraphConv({"follows": lowbit.nn.GraphConv(8, 4)}, config=lowbit.QuantConfig(2))
    >>> conv.mods["follows"].is_low_bit
    True
    """

    def __init__(self, mods, aggregate="sum", *, config=None):
        super().__init__(mods, aggregate)
        for layer in self.mods.values() if config is not None else ():
            if isinstance(layer, LowBitLayer) and not layer.is_low_bit:
                layer.configure(config)
