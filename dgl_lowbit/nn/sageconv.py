"""Low-bit GraphSAGE layer."""

from __future__ import annotations

import dgl.nn
import torch.nn.functional as F

from .arguments import Role, roles
from .base import LowBitLayer, Operand, register_layer
from .checks import check_edge_weight, check_sources


@register_layer
class SAGEConv(LowBitLayer, dgl.nn.SAGEConv):
    r"""``dgl.nn.SAGEConv`` (arXiv:1706.02216) with quantised inputs, weights, messages and aggregates.

    .. math:: h_i' = \sigma(W_\text{self} h_i + W_\text{neigh}\,\mathrm{aggregate}_{j \in N(i)} h_j)

    ``inputs`` meet ``fc_self``, and ``fc_neigh`` where the product comes first; ``messages`` are what neighbours
    send; ``aggregates`` meet ``fc_neigh`` where the aggregation comes first.

    Parameters
    ----------
    in_feats, out_feats, aggregator_type, feat_drop, bias, norm, activation
        As in ``dgl.nn.SAGEConv``; aggregators mean, gcn, pool and lstm. The recurrence inside ``lstm`` stays in
        float32, on quantised messages.
    config : QuantConfig, optional
        Default: None, exactly ``dgl.nn.SAGEConv``.

    Examples
    --------
    >>> import dgl, torch
    >>> from dgl_lowbit import QuantConfig
    >>> g = dgl.graph(([0, 1, 2], [1, 2, 3]))
    >>> SAGEConv(10, 2, "mean", config=QuantConfig(4))(g, torch.ones(4, 10)).shape
    torch.Size([4, 2])
    """

    float_class = dgl.nn.SAGEConv
    arguments = roles(graph=Role.GRAPH, feat=Role.FEATURES, edge_weight=Role.EDGE_WEIGHT)

    @property
    def multiplies_first(self) -> bool:
        """Whether the product with ``fc_neigh`` comes before the aggregation."""
        return self._aggre_type in ("mean", "gcn") and self._in_src_feats > self._out_feats

    def operands(self):
        aggregator, first = self._aggre_type, self.multiplies_first
        operands = {
            "messages": Operand("messages", self._out_feats if first else self._in_src_feats),
            "weights": Operand("weights", self._out_feats, axis=1),
            "outputs": Operand("outputs", self._out_feats),
        }
        if first or aggregator == "pool":
            operands["inputs"] = Operand("inputs", self._in_src_feats)
        if not first:
            operands["aggregates"] = Operand("aggregates", self._in_src_feats)
        if aggregator == "pool":
            operands["weights_pool"] = Operand("weights", self._in_src_feats, axis=1)
        if aggregator != "gcn":
            operands["weights_self"] = Operand("weights", self._out_feats, axis=1)
            if not self._shares_inputs(operands):
                operands["inputs_self"] = Operand("inputs", self._in_dst_feats)
        return operands

    def _shares_inputs(self, names):
        """Whether one quantiser serves the inputs of both products."""
        return "inputs" in names and self._in_src_feats == self._in_dst_feats

    def validate(self, graph, feat, edge_weight=None):
        check_edge_weight(self, graph, edge_weight)
        width = self._in_src_feats if self._aggre_type == "gcn" else self._in_dst_feats
        check_sources(self, graph, feat, self._in_src_feats, width)

    def compute(self, ops, graph, feat, edge_weight=None):
        """As ``dgl.nn.SAGEConv.forward``; shapes: feat (N, in_feats) or a pair, output (N_dst, out_feats).

        Raises
        ------
        DGLError
            When low-bit, for features whose width, row count or dtype does not fit, and for NaN or infinity in
            features or edge weights.
        """
        q = self.quantizers
        feat = ops.dropout(feat, self.feat_drop)
        inputs = ops.quantize(q["inputs"], feat) if self._shares_inputs(q) else None
        h = self._neighbours(ops, graph, feat, inputs, edge_weight)
        if self._aggre_type == "gcn":
            h = ops.bias(h, self.bias)
        else:
            if inputs is None:
                inputs = ops.quantize(q["inputs_self"], ops.destination(feat, graph))
            else:
                inputs = ops.destination(inputs, graph)
            h = ops.product(inputs, q["weights_self"], self.fc_self.weight.t(), bias=self.fc_self.bias, onto=h)
        h = ops.activate(ops.activate(h, self.activation), self.norm)
        return ops.requantize(q["outputs"], h)

    def _neighbours(self, ops, graph, feat, inputs, edge_weight):
        """What each node receives, through ``fc_neigh``; ``inputs`` are the codes of ``feat`` where shared."""
        q, weight, aggregator = self.quantizers, self.fc_neigh.weight.t(), self._aggre_type
        if aggregator != "gcn":  # only gcn sends the destination's own features along
            feat, inputs = ops.source(feat), ops.source(inputs)
        if self.multiplies_first or aggregator == "pool":
            inputs = ops.quantize(q["inputs"], feat) if inputs is None else inputs
        if self.multiplies_first:
            feat = ops.product(inputs, q["weights"], weight)
        elif aggregator == "pool":
            pooled = ops.product(inputs, q["weights_pool"], self.fc_pool.weight.t())
            feat = ops.activate(ops.bias(pooled, self.fc_pool.bias), F.relu)
        messages = ops.quantize(q["messages"], feat)
        if aggregator == "pool":
            h = ops.largest(graph, messages, edge_weight)
        elif aggregator == "lstm":
            h = ops.reduce(graph, messages, edge_weight, self._lstm_reducer)
        else:
            own = ops.destination(messages, graph) if aggregator == "gcn" else None
            norm = graph, "in", -1, 0 if own is None else 1
            h = ops.aggregate(graph, ops.source(messages), edge_weight, own, norm=norm)
        if not self.multiplies_first:
            h = ops.product(ops.quantize(q["aggregates"], h), q["weights"], weight)
        return h
