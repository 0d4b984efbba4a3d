"""Low-bit GraphSAGE layer."""

from __future__ import annotations

import dgl.nn
import torch.nn.functional as F

from .arguments import Role, roles
from .base import LowBitLayer, register_layer
from .checks import check_edge_weight, check_sources
from .operands import Operand


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
    def has_integers(self) -> bool:
        """Those that sum: pooling and recurrence compute in floats."""
        return self._aggre_type in ("mean", "gcn")

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
        if self._aggre_type == "gcn":
            h = ops.bias(self._neighbours(ops, graph, feat, inputs, edge_weight), self.bias)
        else:
            h = self._with_own(ops, graph, feat, inputs, edge_weight)
        h = ops.activate(ops.activate(h, self.activation), self.norm)
        return ops.requantize(q["outputs"], h)

    def _with_own(self, ops, graph, feat, inputs, edge_weight):
        """What each node receives, and its own features through ``fc_self``."""
        q, weight, bias = self.quantizers, self.fc_self.weight.t(), self.fc_self.bias
        if inputs is None:
            own = ops.quantize(q["inputs_self"], ops.destination(feat, graph))
        else:
            own, inputs = ops.destination(inputs, graph), ops.source(inputs)
            if self.multiplies_first:
                others = inputs, q["weights"], self.fc_neigh.weight.t()
                h, sent = ops.products((own, q["weights_self"], weight), others)
                return ops.combine((1, ops.bias(h, bias)), (1, self._received(ops, graph, sent, edge_weight)))
        h = self._neighbours(ops, graph, ops.source(feat), inputs, edge_weight)
        return ops.product(own, q["weights_self"], weight, bias=bias, onto=h)

    def _neighbours(self, ops, graph, feat, inputs, edge_weight):
        """What each node receives, through ``fc_neigh``; ``inputs`` are the codes of ``feat`` where shared."""
        q, weight = self.quantizers, self.fc_neigh.weight.t()
        if (self.multiplies_first or self._aggre_type == "pool") and inputs is None:
            inputs = ops.quantize(q["inputs"], feat)
        if self.multiplies_first:
            return self._received(ops, graph, ops.product(inputs, q["weights"], weight), edge_weight)
        if self._aggre_type == "pool":
            pooled = ops.product(inputs, q["weights_pool"], self.fc_pool.weight.t())
            feat = ops.activate(ops.bias(pooled, self.fc_pool.bias), F.relu)
        h = self._received(ops, graph, feat, edge_weight)
        return ops.product(ops.quantize(q["aggregates"], h), q["weights"], weight)

    def _received(self, ops, graph, sent, edge_weight):
        """What the aggregator makes of what is sent."""
        messages = ops.quantize(self.quantizers["messages"], sent)
        if self._aggre_type == "pool":
            return ops.largest(graph, messages, edge_weight)
        if self._aggre_type == "lstm":
            return ops.reduce(graph, messages, edge_weight, self._lstm_reducer)
        own = ops.destination(messages, graph) if self._aggre_type == "gcn" else None  # which sends its own along
        norm = graph, "in", -1, 0 if own is None else 1
        return ops.aggregate(graph, ops.source(messages), edge_weight, own, norm=norm)
