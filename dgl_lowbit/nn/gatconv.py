"""Low-bit graph attention layer."""

from __future__ import annotations

import dgl.nn
from torch import nn

from .arguments import Role, roles
from .attention import Attention
from .base import register_layer
from .checks import check_edge_weight
from .operands import Operand


@register_layer
class GATConv(Attention, dgl.nn.GATConv):
    r"""``dgl.nn.GATConv`` (arXiv:1710.10903) with quantised inputs, weights, messages, scores and attention.

    .. math::
        h_i' = \sum_{j \in N(i)} \alpha_{ij} W h_j, \qquad
        \alpha_{ij} = \mathrm{softmax}_j\, \mathrm{LeakyReLU}(a_l^T W h_j + a_r^T W h_i)

    ``inputs`` meet ``weights``; the products become ``messages``, and their parts of the attention logits, a number
    a head, ``scores``. The softmax is taken in float32 over the values of score codes; its weights are coded as
    ``attention``, unsigned, so that the weighted sums are sums of integers.

    Parameters
    ----------
    in_feats, out_feats, num_heads, feat_drop, attn_drop, negative_slope, residual, activation, allow_zero_in_degree, bias
        As in ``dgl.nn.GATConv``.
    config : QuantConfig, optional
        Default: None, exactly ``dgl.nn.GATConv``.

    Examples
    --------
    >>> import dgl, torch
    >>> from dgl_lowbit import QuantConfig
    >>> g = dgl.add_self_loop(dgl.graph(([0, 1, 2], [1, 2, 3])))
    >>> GATConv(10, 2, num_heads=3, config=QuantConfig(4))(g, torch.ones(4, 10)).shape
    torch.Size([4, 3, 2])
    """  # noqa: E501

    float_class = dgl.nn.GATConv
    arguments = roles(graph=Role.GRAPH, feat=Role.FEATURES, edge_weight=Role.EDGE_WEIGHT, get_attention=Role.CHOICE)

    def operands(self):
        width = self._num_heads * self._out_feats
        operands = {
            "inputs": Operand("inputs", self._in_src_feats),
            "weights": Operand("weights", width, axis=1),
            "messages": Operand("messages", width),
            "scores_src": Operand("scores", self._num_heads),
            "scores_dst": Operand("scores", self._num_heads),
            "attention": Operand("attention", None),
            "outputs": Operand("outputs", width),
        }
        if hasattr(self, "fc_src"):
            operands["inputs_dst"] = Operand("inputs", self._in_dst_feats)
            operands["weights_dst"] = Operand("weights", width, axis=1)
        if isinstance(self.res_fc, nn.Linear):
            operands["weights_res"] = Operand("weights", width, axis=1)
        return operands

    def validate(self, graph, feat, edge_weight=None, get_attention=False):
        super().validate(graph, feat)
        check_edge_weight(self, graph, edge_weight)

    def compute(self, ops, graph, feat, edge_weight=None, get_attention=False):
        """As ``dgl.nn.GATConv.forward``; shapes: feat (N, …, in_feats) or a pair, output
        (N_dst, …, num_heads, out_feats).

        Raises
        ------
        DGLError
            As the parent, and when low-bit for features whose width, row count or dtype does not fit, and for NaN
            or infinity in features or edge weights.
        """
        q, heads = self.quantizers, self._num_heads
        feat = ops.dropout(feat, self.feat_drop)
        if hasattr(self, "fc_src"):
            inputs = ops.quantize(q["inputs"], ops.source(feat))
            own_inputs = ops.quantize(q["inputs_dst"], ops.destination(feat, graph))
            source = ops.product(inputs, q["weights"], self.fc_src.weight.t())
            destination = ops.product(own_inputs, q["weights_dst"], self.fc_dst.weight.t())
        else:
            own_inputs = ops.quantize(q["inputs"], feat)
            projected = ops.product(own_inputs, q["weights"], self.fc.weight.t())
            source, destination = ops.source(projected), ops.destination(projected, graph)
        left = ops.quantize(q["scores_src"], ops.head_sums(source, self.attn_l, heads))
        right = ops.quantize(q["scores_dst"], ops.head_sums(destination, self.attn_r, heads))
        ones = self.attn_l.new_ones(1, heads, 1)
        attention = ops.attention(
            graph, left, right, ones, self.leaky_relu.negative_slope, q["attention"], self.attn_drop, edge_weight
        )
        total = ops.attend(graph, ops.quantize(q["messages"], source), attention)
        h = self.finish(ops, graph, feat, own_inputs, total, self.bias)
        return (h, ops.dequantize(attention)) if get_attention else h
