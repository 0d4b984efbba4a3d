"""Low-bit graph convolution with initial residual and identity mapping."""

from __future__ import annotations

import dgl.nn

from .arguments import Role, roles
from .base import LowBitLayer, register_layer
from .checks import check_edge_weight, check_features, check_graph, check_homogeneous
from .operands import Operand
from .propagation import Channel, channel_operands


@register_layer
class GCN2Conv(LowBitLayer, dgl.nn.GCN2Conv):
    r"""``dgl.nn.GCN2Conv`` (GCNII, arXiv:2007.02133) with quantised messages, aggregates, inputs and weights.

    .. math::
        h' = \sigma\left((1 - \beta) z + \beta z W + b\right), \qquad
        z = (1 - \alpha) D^{-1/2} A D^{-1/2} h + \alpha h^0

    ``messages`` are what neighbours send; ``aggregates`` meet ``weights``, and, where the initial features have a
    weight of their own, they are the ``inputs`` that meet ``weights_initial``.

    Parameters
    ----------
    in_feats, layer, alpha, lambda_, project_initial_features, allow_zero_in_degree, bias, activation
        As in ``dgl.nn.GCN2Conv``.
    config : QuantConfig, optional
        Default: None, exactly ``dgl.nn.GCN2Conv``.

    Examples
    --------
    >>> import dgl, torch
    >>> from dgl_lowbit import QuantConfig
    >>> g = dgl.add_self_loop(dgl.graph(([0, 1, 2], [1, 2, 3])))
    >>> GCN2Conv(10, layer=1, config=QuantConfig(4))(g, torch.ones(4, 10), torch.ones(4, 10)).shape
    torch.Size([4, 10])
    """

    float_class = dgl.nn.GCN2Conv
    arguments = roles(graph=Role.GRAPH, feat=Role.FEATURES, feat_0=Role.FEATURES, edge_weight=Role.EDGE_WEIGHT)
    messages = "direct"
    degree_side = "in"

    def operands(self):
        width = self._in_feats
        operands = {
            **channel_operands(self.config, width, 1),
            "aggregates": Operand("aggregates", width),
            "weights": Operand("weights", width, axis=1),
            "outputs": Operand("outputs", width),
        }
        if not self._project_initial_features:
            operands["inputs"] = Operand("inputs", width)
            operands["weights_initial"] = Operand("weights", width, axis=1)
        return operands

    def extra_repr(self):
        """The parent's reads an attribute that it does not set."""
        return f"in={self._in_feats}, alpha={self.alpha}, beta={self.beta}"

    def validate(self, graph, feat, feat_0, edge_weight=None):
        check_homogeneous(self, graph)
        check_graph(self, graph, self._allow_zero_in_degree)
        check_edge_weight(self, graph, edge_weight)
        check_features(self, feat, self._in_feats, graph.num_nodes())
        check_features(self, feat_0, self._in_feats, graph.num_nodes(), what="feat_0")

    def compute(self, ops, graph, feat, feat_0, edge_weight=None):
        """As ``dgl.nn.GCN2Conv.forward``; shapes: feat and feat_0 (N, in_feats), output the same.

        Raises
        ------
        DGLError
            As the parent, and when low-bit on a block or bipartite graph, for features whose width, row count or dtype
            does not fit, and for NaN or infinity in features or edge weights.
        """
        q, channel = self.quantizers, Channel(ops, graph, self, edge_weight)
        _, received = channel(channel.start(feat), 0)
        smoothed = ops.combine((1 - self.alpha, received), (self.alpha, feat_0))
        if self._project_initial_features:
            projected = [ops.product(ops.quantize(q["aggregates"], smoothed), q["weights"], self.weight1)]
            parts = [(self.beta, projected[0])]
        else:
            received = ops.quantize(q["aggregates"], received)
            initial = ops.quantize(q["inputs"], feat_0)
            parts = [
                (self.beta * (1 - self.alpha), ops.product(received, q["weights"], self.weight1)),
                (self.beta * self.alpha, ops.product(initial, q["weights_initial"], self.weight2)),
            ]
        h = ops.combine((1 - self.beta, smoothed), *parts)
        h = ops.bias(h, self.bias)
        return ops.requantize(q["outputs"], ops.activate(h, self._activation))
