"""Low-bit personalised propagation."""

from __future__ import annotations

import dgl.nn

from .arguments import Role, roles
from .base import LowBitLayer, register_layer
from .checks import check_edge_weight, check_features, check_homogeneous
from .operands import Operand
from .propagation import Channel, channel_operands


@register_layer
class APPNPConv(LowBitLayer, dgl.nn.APPNPConv):
    r"""``dgl.nn.APPNPConv`` (arXiv:1810.05997) with quantised messages.

    .. math:: H^{l+1} = (1 - \alpha)\, \tilde D^{-1/2} \tilde A \tilde D^{-1/2} H^l + \alpha H^0

    Messages are delta-coded (see :class:`~dgl_lowbit.nn.SMPConv`) unless edges are dropped; set ``layer.messages =
    "direct"`` to send the values themselves.

    Parameters
    ----------
    k, alpha, edge_drop
        As in ``dgl.nn.APPNPConv``.
    config : QuantConfig, optional
        Components used: messages, states, outputs. Default: None, exactly ``dgl.nn.APPNPConv``.

    Examples
    --------
    >>> import dgl, torch
    >>> from dgl_lowbit import QuantConfig
    >>> g = dgl.graph(([0, 1, 2], [1, 2, 3]))
    >>> APPNPConv(k=3, alpha=0.5, config=QuantConfig(4))(g, torch.ones(4, 10)).shape
    torch.Size([4, 10])
    """

    float_class = dgl.nn.APPNPConv
    arguments = roles(graph=Role.GRAPH, feat=Role.FEATURES, edge_weight=Role.EDGE_WEIGHT)
    messages = "delta"

    def operands(self):
        return {**channel_operands(self.config, None, self._k), "outputs": Operand("outputs", None)}

    def validate(self, graph, feat, edge_weight=None):
        check_homogeneous(self, graph)
        check_edge_weight(self, graph, edge_weight)
        check_features(self, feat, None, graph.num_nodes())

    def compute(self, ops, graph, feat, edge_weight=None):
        """As ``dgl.nn.APPNPConv.forward``; shapes: feat (N, …), output the same.

        Raises
        ------
        DGLError
            When low-bit, on a block or bipartite graph, and for features that are not a finite float tensor of a row
            a node.
        """
        channel = Channel(ops, graph, self, edge_weight)
        # Edges that come and go leave nothing for changes to add up on.
        channel.is_delta &= self.edge_drop.p == 0
        h = feat = channel.start(feat)
        for step in range(self._k):
            channel.drop_edges(self.edge_drop)
            h, received = channel(h, step)
            h = ops.combine((1 - self._alpha, received), (self._alpha, feat))
        return ops.requantize(self.quantizers["outputs"], h)
