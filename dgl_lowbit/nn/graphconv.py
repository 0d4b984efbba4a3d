"""Low-bit graph convolution."""

from __future__ import annotations

import dgl.nn
from dgl import DGLError

from .arguments import Role, roles
from .base import LowBitLayer, register_layer
from .checks import check_edge_weight, check_features, check_graph, pair_rows
from .operands import Operand


@register_layer
class GraphConv(LowBitLayer, dgl.nn.GraphConv):
    r"""``dgl.nn.GraphConv`` (arXiv:1609.02907) with quantised inputs, weights, messages and aggregates.

    .. math:: h_i' = \sigma\left(b + \sum_{j \in N(i)} \frac{e_{ji}}{c_{ji}} h_j W\right)

    As in DGL the product comes first where it narrows the features, else the sum. With the product first,
    ``inputs`` meet ``weights``, and rows scaled by their degree norm become ``messages``; with the sum
    first, normed inputs become ``messages`` and their sums ``aggregates``, which meet ``weights``.

    Parameters
    ----------
    in_feats, out_feats, norm, weight, bias, activation, allow_zero_in_degree
        As in ``dgl.nn.GraphConv``.
    config : QuantConfig, optional
        Default: None, exactly ``dgl.nn.GraphConv``.

    Examples
    --------
    >>> import dgl, torch
    >>> from dgl_lowbit import QuantConfig
    >>> g = dgl.add_self_loop(dgl.graph(([0, 1, 2], [1, 2, 3])))
    >>> GraphConv(10, 2, config=QuantConfig(2))(g, torch.ones(4, 10)).shape
    torch.Size([4, 2])
    """

    float_class = dgl.nn.GraphConv
    arguments = roles(graph=Role.GRAPH, feat=Role.FEATURES, weight=Role.CHOICE, edge_weight=Role.EDGE_WEIGHT)

    @property
    def has_integers(self) -> bool:
        return True

    @property
    def multiplies_first(self) -> bool:
        """Whether the product with the weights comes before the sum over neighbours."""
        return self._in_feats > self._out_feats

    def operands(self):
        operands = {
            "inputs": Operand("inputs", self._in_feats),
            "weights": Operand("weights", self._out_feats, axis=1),
            "messages": Operand("messages", self._out_feats if self.multiplies_first else self._in_feats),
            "aggregates": Operand("aggregates", self._in_feats),
            "outputs": Operand("outputs", self._out_feats),
        }
        del operands["aggregates" if self.multiplies_first else "inputs"]
        return operands

    @property
    def counts_neighbours(self) -> bool:
        """Where degrees of both ends are in what is sent, so that what is left of a sum on a block says little."""
        return self._norm == "both"

    def validate(self, graph, feat, weight=None, edge_weight=None):
        if weight is not None and self.weight is not None:
            raise DGLError(
                "External weight is provided while at the same time the module has defined its own weight "
                "parameter. Please create the module with flag weight=False."
            )
        check_graph(self, graph, self._allow_zero_in_degree)
        check_edge_weight(self, graph, edge_weight)
        (source, rows), _ = pair_rows(graph, feat)
        check_features(self, source, self._in_feats, rows)

    def compute(self, ops, graph, feat, weight=None, edge_weight=None):
        """As ``dgl.nn.GraphConv.forward``; shapes: feat (N, …, in_feats) or a pair, output (N_dst, …, out_feats).

        Raises
        ------
        DGLError
            As the parent, and when low-bit for features whose width, row count or dtype does not fit, and for NaN
            or infinity in features or edge weights.
        """
        q, weight = self.quantizers, self.weight if weight is None else weight
        power = -0.5 if self._norm == "both" else -1
        of_sources = (graph, "out", power) if self._norm in ("left", "both") else None
        of_targets = (graph, "in", power) if self._norm in ("right", "both") else None
        multiplies_last, h = weight is not None and not self.multiplies_first, ops.source(feat)
        if weight is not None and self.multiplies_first:
            h = ops.product(ops.quantize(q["inputs"], h), q["weights"], weight, norm=of_sources)
            of_sources = None
        messages = ops.quantize(q["messages"], h, of_sources)
        h = ops.aggregate(graph, messages, edge_weight, norm=None if multiplies_last else of_targets)
        if multiplies_last:
            h = ops.product(ops.quantize(q["aggregates"], h), q["weights"], weight, norm=of_targets, bias=self.bias)
        else:
            h = ops.bias(h, self.bias)
        return ops.requantize(q["outputs"], ops.activate(h, self._activation))
