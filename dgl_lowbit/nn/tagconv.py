"""Low-bit topology adaptive convolution."""

from __future__ import annotations

import dgl.nn

from .arguments import Role, roles
from .base import LowBitLayer, register_layer
from .checks import check_edge_weight, check_features, check_homogeneous
from .operands import Operand
from .propagation import Channel, channel_operands


@register_layer
class TAGConv(LowBitLayer, dgl.nn.TAGConv):
    r"""``dgl.nn.TAGConv`` (arXiv:1710.10370) with quantised messages, inputs and weights.

    .. math:: H' = \sum_{k=0}^K (D^{-1/2} A D^{-1/2})^k X \Theta_k

    ``messages`` of every step have a quantiser of their own; the input and what the steps give, side by side, are the
    ``inputs`` that meet ``weights``.

    Parameters
    ----------
    in_feats, out_feats, k, bias, activation
        As in ``dgl.nn.TAGConv``.
    config : QuantConfig, optional
        Default: None, exactly ``dgl.nn.TAGConv``.

    Examples
    --------
    >>> import dgl, torch
    >>> from dgl_lowbit import QuantConfig
    >>> g = dgl.graph(([0, 1, 2], [1, 2, 3]))
    >>> TAGConv(10, 2, k=2, config=QuantConfig(4))(g, torch.ones(4, 10)).shape
    torch.Size([4, 2])
    """

    float_class = dgl.nn.TAGConv
    arguments = roles(graph=Role.GRAPH, feat=Role.FEATURES, edge_weight=Role.EDGE_WEIGHT)
    messages = "direct"
    degree_side = "in"

    def operands(self):
        return {
            **channel_operands(self.config, self._in_feats, self._k),
            "inputs": Operand("inputs", self.lin.in_features),
            "weights": Operand("weights", self._out_feats, axis=1),
            "outputs": Operand("outputs", self._out_feats),
        }

    def validate(self, graph, feat, edge_weight=None):
        check_homogeneous(self, graph)
        check_edge_weight(self, graph, edge_weight)
        check_features(self, feat, self._in_feats, graph.num_nodes())

    def compute(self, ops, graph, feat, edge_weight=None):
        """As ``dgl.nn.TAGConv.forward``; shapes: feat (N, in_feats), output (N, out_feats).

        Raises
        ------
        DGLError
            When low-bit, on a block or bipartite graph, for features whose width, row count or dtype does not fit, and
            for NaN or infinity in features or edge weights.
        """
        q, channel = self.quantizers, Channel(ops, graph, self, edge_weight)
        powers = [channel.start(feat)]
        for step in range(self._k):
            powers.append(channel(powers[-1], step)[1])
        inputs = ops.quantize(q["inputs"], ops.concatenate(powers))
        h = ops.bias(ops.product(inputs, q["weights"], self.lin.weight.t()), self.lin.bias)
        return ops.requantize(q["outputs"], ops.activate(h, self._activation))
