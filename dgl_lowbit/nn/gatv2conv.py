"""Low-bit graph attention layer of the second kind."""

from __future__ import annotations

import dgl.nn
from torch import nn

from .arguments import Role, roles
from .attention import Attention
from .base import register_layer
from .operands import Operand


@register_layer
class GATv2Conv(Attention, dgl.nn.GATv2Conv):
    r"""``dgl.nn.GATv2Conv`` (arXiv:2105.14491) with quantised inputs, weights, messages, scores and attention.

    .. math::
        h_i' = \sum_{j \in N(i)} \alpha_{ij} W_l h_j, \qquad
        \alpha_{ij} = \mathrm{softmax}_j\, a^T \mathrm{LeakyReLU}(W_l h_j + W_r h_i)

    As :class:`~dgl_lowbit.nn.GATConv`, but ``scores`` are as wide as the messages.

    Parameters
    ----------
    in_feats, out_feats, num_heads, feat_drop, attn_drop, negative_slope, residual, activation, allow_zero_in_degree, bias, share_weights
        As in ``dgl.nn.GATv2Conv``.
    config : QuantConfig, optional
        Default: None, exactly ``dgl.nn.GATv2Conv``.

    Examples
    --------
    >>> import dgl, torch
    >>> from dgl_lowbit import QuantConfig
    >>> g = dgl.add_self_loop(dgl.graph(([0, 1, 2], [1, 2, 3])))
    >>> GATv2Conv(10, 2, num_heads=3, config=QuantConfig(4))(g, torch.ones(4, 10)).shape
    torch.Size([4, 3, 2])
    """  # noqa: E501

    float_class = dgl.nn.GATv2Conv
    arguments = roles(graph=Role.GRAPH, feat=Role.FEATURES, get_attention=Role.CHOICE)

    @property
    def has_two_inputs(self) -> bool:
        """Whether destination nodes have features of a width of their own."""
        return self._in_src_feats != self._in_dst_feats

    def operands(self):
        width = self._num_heads * self._out_feats
        operands = {
            "inputs": Operand("inputs", self._in_src_feats),
            "weights": Operand("weights", width, axis=1),
            "messages": Operand("messages", width),
            "scores_src": Operand("scores", width),
            "scores_dst": Operand("scores", width),
            "attention": Operand("attention", None),
            "outputs": Operand("outputs", width),
        }
        if self.has_two_inputs:
            operands["inputs_dst"] = Operand("inputs", self._in_dst_feats)
        if self.fc_dst is not self.fc_src:
            operands["weights_dst"] = Operand("weights", width, axis=1)
        if isinstance(self.res_fc, nn.Linear):
            operands["weights_res"] = Operand("weights", width, axis=1)
        return operands

    def compute(self, ops, graph, feat, get_attention=False):
        """As ``dgl.nn.GATv2Conv.forward``; shapes: feat (N, …, in_feats) or a pair, output
        (N_dst, …, num_heads, out_feats).

        Raises
        ------
        DGLError
            As the parent, and when low-bit for features whose width, row count or dtype does not fit, and for NaN
            or infinity in features.
        """
        q = self.quantizers
        feat = ops.dropout(feat, self.feat_drop)
        if self.has_two_inputs:
            inputs = ops.quantize(q["inputs"], ops.source(feat))
            own_inputs = ops.quantize(q["inputs_dst"], ops.destination(feat, graph))
        else:
            both = ops.quantize(q["inputs"], feat)
            inputs, own_inputs = ops.source(both), ops.destination(both, graph)
        own_weights = q["weights_dst" if "weights_dst" in q else "weights"]
        source = ops.bias(ops.product(inputs, q["weights"], self.fc_src.weight.t()), self.fc_src.bias)
        destination = ops.bias(ops.product(own_inputs, own_weights, self.fc_dst.weight.t()), self.fc_dst.bias)
        left, right = ops.quantize(q["scores_src"], source), ops.quantize(q["scores_dst"], destination)
        attention = ops.attention(
            graph, left, right, self.attn, self.leaky_relu.negative_slope, q["attention"], self.attn_drop
        )
        total = ops.attend(graph, ops.quantize(q["messages"], source), attention)
        h = self.finish(ops, graph, feat, own_inputs, total, None)
        return (h, ops.dequantize(attention)) if get_attention else h
