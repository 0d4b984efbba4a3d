"""Low-bit graph isomorphism layer with edge features."""

from __future__ import annotations

import dgl.nn

from .arguments import Role, roles
from .base import LowBitLayer, register_layer
from .checks import check_features, check_sources, first_width
from .operands import Operand


@register_layer
class GINEConv(LowBitLayer, dgl.nn.GINEConv):
    r"""``dgl.nn.GINEConv`` (arXiv:1905.12265) with quantised messages.

    .. math:: h_i' = f\left((1 + \epsilon) h_i + \sum_{j \in N(i)} \mathrm{ReLU}(h_j + e_{ji})\right)

    Node and edge features share the quantiser of ``messages``, so that their sums are sums of integers.

    Parameters
    ----------
    apply_func, init_eps, learn_eps
        As in ``dgl.nn.GINEConv``.
    config : QuantConfig, optional
        Default: None, exactly ``dgl.nn.GINEConv``.

    Examples
    --------
    >>> import dgl, torch
    >>> from dgl_lowbit import QuantConfig
    >>> g = dgl.graph(([0, 1, 2], [1, 2, 3]))
    >>> GINEConv(torch.nn.Linear(10, 2), config=QuantConfig(4))(g, torch.ones(4, 10), torch.ones(3, 10)).shape
    torch.Size([4, 2])
    """

    float_class = dgl.nn.GINEConv
    arguments = roles(graph=Role.GRAPH, node_feat=Role.FEATURES, edge_feat=Role.FEATURES)
    inner = ("apply_func",)

    def operands(self):
        return {"messages": Operand("messages", first_width(self.apply_func)), "outputs": Operand("outputs", None)}

    def validate(self, graph, node_feat, edge_feat):
        check_sources(self, graph, node_feat, first_width(self.apply_func))
        width = (node_feat[0] if isinstance(node_feat, tuple) else node_feat).shape[-1]
        check_features(self, edge_feat, width, graph.num_edges(), what="edge_feat", of="edges")

    def compute(self, ops, graph, node_feat, edge_feat):
        """As ``dgl.nn.GINEConv.forward``; shapes: (N, in_feats) or a pair, (E, in_feats), output (N_dst, out_feats).

        Raises
        ------
        DGLError
            When low-bit, for features whose width, row count or dtype does not fit, and for NaN or infinity in them.
        """
        nodes, edges = ops.quantize(self.quantizers["messages"], (ops.source(node_feat), edge_feat))
        total = ops.aggregate_edges(graph, nodes, edges)
        h = ops.combine((1 + self.eps, ops.destination(node_feat, graph)), (1, total))
        h = h if self.apply_func is None else ops.call(self.apply_func, h)
        return ops.requantize(self.quantizers["outputs"], h)
