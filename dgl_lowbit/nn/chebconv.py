"""Low-bit Chebyshev convolution."""

from __future__ import annotations

import dgl.nn
from dgl.base import dgl_warning

from .arguments import Role, roles
from .base import LowBitLayer, register_layer
from .checks import check_features, check_homogeneous
from .operands import Operand
from .propagation import Channel, channel_operands


@register_layer
class ChebConv(LowBitLayer, dgl.nn.ChebConv):
    r"""``dgl.nn.ChebConv`` (arXiv:1606.09375) with quantised messages, inputs and weights.

    .. math::
        h' = \sum_{k=0}^{K-1} W_k z_k, \qquad z_0 = h,\ z_1 = \hat L h,\ z_k = 2 \hat L z_{k-1} - z_{k-2},\
        \hat L = \frac{2 (I - D^{-1/2} A D^{-1/2})}{\lambda_{max}} - I

    ``messages`` of every product with the Laplacian have a quantiser of their own; the z side by side are the
    ``inputs`` that meet ``weights``.

    Parameters
    ----------
    in_feats, out_feats, k, activation, bias
        As in ``dgl.nn.ChebConv``.
    config : QuantConfig, optional
        Default: None, exactly ``dgl.nn.ChebConv``.

    Examples
    --------
    >>> import dgl, torch
    >>> from dgl_lowbit import QuantConfig
    >>> g = dgl.graph(([0, 1, 2], [1, 2, 3]))
    >>> ChebConv(10, 2, k=2, config=QuantConfig(4))(g, torch.ones(4, 10), [2]).shape
    torch.Size([4, 2])
    """

    float_class = dgl.nn.ChebConv
    arguments = roles(graph=Role.GRAPH, feat=Role.FEATURES, lambda_max=Role.CHOICE)
    messages = "direct"
    degree_side = "in"

    def operands(self):
        return {
            **channel_operands(self.config, self._in_feats, self._k - 1),
            "inputs": Operand("inputs", self.linear.in_features),
            "weights": Operand("weights", self._out_feats, axis=1),
            "outputs": Operand("outputs", self._out_feats),
        }

    def validate(self, graph, feat, lambda_max=None):
        check_homogeneous(self, graph)
        check_features(self, feat, self._in_feats, graph.num_nodes())
        if lambda_max is None:
            dgl_warning("lambda_max is not provided, using default value of 2.")

    def compute(self, ops, graph, feat, lambda_max=None):
        """As ``dgl.nn.ChebConv.forward``; shapes: feat (N, in_feats), output (N, out_feats).

        Raises
        ------
        DGLError
            When low-bit, on a block or bipartite graph, for features whose width, row count or dtype does not fit, and
            for NaN or infinity in them.
        """
        q, norm = self.quantizers, ops.spectral_norm(graph, lambda_max)
        channel = Channel(ops, graph, self)
        terms = [channel.start(feat)]
        for step in range(self._k - 1):
            h = terms[-1]
            _, received = channel(h, step)
            times = 1 if step == 0 else 2
            parts = [(-times * norm, received), (times * (norm - 1), h)]
            terms.append(ops.combine(*parts, *([] if step == 0 else [(-1, terms[-2])])))
        inputs = ops.quantize(q["inputs"], ops.concatenate(terms))
        h = ops.bias(ops.product(inputs, q["weights"], self.linear.weight.t()), self.linear.bias)
        return ops.requantize(q["outputs"], ops.activate(h, self.activation))
