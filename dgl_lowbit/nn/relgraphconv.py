"""Low-bit relational graph convolution."""

from __future__ import annotations

import dgl.nn
import torch
from dgl import DGLError

from .arguments import Role, roles
from .base import LowBitLayer, register_layer
from .checks import check_edge_weight, check_features
from .operands import Operand


@register_layer
class RelGraphConv(LowBitLayer, dgl.nn.RelGraphConv):
    r"""``dgl.nn.RelGraphConv`` (arXiv:1703.06103) with quantised inputs, weights and messages.

    .. math:: h_i' = \sigma\left(\sum_r \sum_{j \in N_r(i)} e_{ji} W_r h_j + W_0 h_i + b\right)

    ``inputs`` meet the ``weights`` of all relations and ``weights_loop``; the products are ``messages``, of one
    quantiser, so that sums over neighbours run over integers across relations.

    Parameters
    ----------
    in_feat, out_feat, num_rels, regularizer, num_bases, bias, activation, self_loop, dropout, layer_norm
        As in ``dgl.nn.RelGraphConv``.
    config : QuantConfig, optional
        Default: None, exactly ``dgl.nn.RelGraphConv``.

    Examples
    --------
    >>> import dgl, torch
    >>> from dgl_lowbit import QuantConfig
    >>> g = dgl.graph(([0, 1, 2], [1, 2, 3]))
    >>> layer = RelGraphConv(10, 2, num_rels=3, config=QuantConfig(4))
    >>> layer(g, torch.ones(4, 10), torch.tensor([0, 2, 1])).shape
    torch.Size([4, 2])
    """

    float_class = dgl.nn.RelGraphConv
    arguments = roles(
        g=Role.GRAPH, feat=Role.FEATURES, etypes=Role.EDGE_TYPES, norm=Role.EDGE_WEIGHT, presorted=Role.CHOICE
    )

    def operands(self):
        linear = self.linear_r
        operands = {
            "inputs": Operand("inputs", linear.in_size),
            "weights": Operand("weights", linear.num_types * linear.out_size, axis=1),
            "messages": Operand("messages", linear.out_size),
            "outputs": Operand("outputs", linear.out_size),
        }
        if self.self_loop:
            operands["weights_loop"] = Operand("weights", linear.out_size, axis=1)
        return operands

    def validate(self, g, feat, etypes, norm=None, *, presorted=False):
        check_features(self, feat, self.linear_r.in_size, g.num_src_nodes())
        check_edge_weight(self, g, norm)
        if self.self_loop and not g.is_block and g.num_src_nodes() != g.num_dst_nodes():
            raise DGLError(
                "RelGraphConv with self_loop adds what destination nodes have as sources; pass a homogeneous graph or "
                "a block (dgl.to_block)."
            )
        etypes = torch.as_tensor(etypes, device=g.device)
        if etypes.shape != (g.num_edges(),) or etypes.is_floating_point():
            raise DGLError(f"RelGraphConv expects etypes as {g.num_edges()} integers, got shape {tuple(etypes.shape)}.")
        if len(etypes) and not (etypes.min() >= 0 and etypes.max() < self.linear_r.num_types):
            raise DGLError(
                f"RelGraphConv expects etypes below num_rels={self.linear_r.num_types}, got "
                f"{int(etypes.min())} to {int(etypes.max())}."
            )

    def compute(self, ops, g, feat, etypes, norm=None, *, presorted=False):
        """As ``dgl.nn.RelGraphConv.forward``; shapes: feat (N, in_feat), etypes, norm (E,), output (N_dst, out_feat).

        Raises
        ------
        DGLError
            When low-bit, for features whose width, row count or dtype does not fit, NaN or infinity in features or
            norm, and edge types that are not a whole number below num_rels for each edge.
        """
        q = self.quantizers
        inputs = ops.quantize(q["inputs"], ops.source(feat))
        h = ops.aggregate_by_type(g, inputs, q["weights"], self.relation_weights(), q["messages"], etypes, norm)
        if self.layer_norm:
            h = ops.call(self.layer_norm_weight, h)
        if self.bias:
            h = ops.bias(h, self.h_bias)
        if self.self_loop:
            own = ops.product(ops.destination(inputs, g), q["weights_loop"], self.loop_weight)
            h = ops.combine((1, h), (1, own))
        h = ops.dropout(ops.activate(h, self.activation), self.dropout)
        return ops.requantize(q["outputs"], h)

    def relation_weights(self) -> torch.Tensor:
        """Weights of all relations, (num_rels, in_feat, out_feat)."""
        linear = self.linear_r
        weight = linear.get_weight()
        if linear.regularizer != "bdd":
            return weight
        blocks = weight.view(linear.num_types, linear.num_bases, linear.submat_in, linear.submat_out)
        return torch.stack([torch.block_diag(*relation) for relation in blocks])
