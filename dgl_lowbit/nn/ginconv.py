"""Low-bit graph isomorphism layer."""

from __future__ import annotations

import dgl.nn

from .arguments import Role, roles
from .base import LowBitLayer, register_layer
from .checks import check_edge_weight, check_sources, first_width
from .operands import Operand


@register_layer
class GINConv(LowBitLayer, dgl.nn.GINConv):
    r"""``dgl.nn.GINConv`` (arXiv:1810.00826) with quantised messages.

    .. math:: h_i' = f\left((1 + \epsilon) h_i + \mathrm{aggregate}_{j \in N(i)} h_j\right)

    ``f``, the ``apply_func``, is a module of its own: ``dgl_lowbit.quantize`` converts its linear layers too.

    Parameters
    ----------
    apply_func, aggregator_type, init_eps, learn_eps, activation
        As in ``dgl.nn.GINConv``; aggregators sum, mean and max.
    config : QuantConfig, optional
        Default: None, exactly ``dgl.nn.GINConv``.

    Examples
    --------
    >>> import dgl, torch
    >>> from dgl_lowbit import QuantConfig
    >>> g = dgl.graph(([0, 1, 2], [1, 2, 3]))
    >>> GINConv(torch.nn.Linear(10, 2), config=QuantConfig(4))(g, torch.ones(4, 10)).shape
    torch.Size([4, 2])
    """

    float_class = dgl.nn.GINConv
    arguments = roles(graph=Role.GRAPH, feat=Role.FEATURES, edge_weight=Role.EDGE_WEIGHT)
    inner = ("apply_func",)

    @property
    def has_integers(self) -> bool:
        """Those that sum."""
        return self._aggregator_type in ("sum", "mean")

    def operands(self):
        return {
            "messages": Operand("messages", first_width(self.apply_func)),
            "outputs": Operand("outputs", None),
        }

    def validate(self, graph, feat, edge_weight=None):
        check_edge_weight(self, graph, edge_weight)
        check_sources(self, graph, feat, first_width(self.apply_func))

    def compute(self, ops, graph, feat, edge_weight=None):
        """As ``dgl.nn.GINConv.forward``; shapes: feat (N, in_feats) or a pair, output (N_dst, out_feats).

        Raises
        ------
        DGLError
            When low-bit, for features whose width, row count or dtype does not fit, and for NaN or infinity in
            features or edge weights.
        """
        messages = ops.quantize(self.quantizers["messages"], ops.source(feat))
        if self._aggregator_type == "max":
            total = ops.largest(graph, messages, edge_weight)
        else:
            norm = (graph, "in", -1) if self._aggregator_type == "mean" else None
            total = ops.aggregate(graph, messages, edge_weight, norm=norm)
        h = ops.combine((1 + self.eps, ops.destination(feat, graph)), (1, total))
        h = h if self.apply_func is None else ops.call(self.apply_func, h)
        return ops.requantize(self.quantizers["outputs"], ops.activate(h, self.activation))
