"""Low-bit simplified graph convolution."""

from __future__ import annotations

import dgl.nn

from .arguments import Role, roles
from .base import LowBitLayer, register_layer
from .checks import check_edge_weight, check_features, check_graph, check_homogeneous
from .operands import Operand
from .propagation import Channel, channel_operands


@register_layer
class SGConv(LowBitLayer, dgl.nn.SGConv):
    r"""``dgl.nn.SGConv`` (arXiv:1902.07153) with quantised messages, inputs and weights.

    .. math:: H^K = (\tilde D^{-1/2} \tilde A \tilde D^{-1/2})^K X \Theta

    ``messages`` of every step have a quantiser of their own; what K steps give are the ``inputs`` that meet
    ``weights``. With ``cached=True`` they are kept from the first forward on, as in the parent, so that ranges of the
    messages stay as calibration or that forward set them; a frozen layer computes them anew.

    Parameters
    ----------
    in_feats, out_feats, k, cached, bias, norm, allow_zero_in_degree
        As in ``dgl.nn.SGConv``.
    config : QuantConfig, optional
        Default: None, exactly ``dgl.nn.SGConv``.

    Examples
    --------
    >>> import dgl, torch
    >>> from dgl_lowbit import QuantConfig
    >>> g = dgl.add_self_loop(dgl.graph(([0, 1, 2], [1, 2, 3])))
    >>> SGConv(10, 2, k=2, config=QuantConfig(4))(g, torch.ones(4, 10)).shape
    torch.Size([4, 2])
    """

    float_class = dgl.nn.SGConv
    arguments = roles(graph=Role.GRAPH, feat=Role.FEATURES, edge_weight=Role.EDGE_WEIGHT)
    messages = "direct"
    degree_side = "in"

    def operands(self):
        width, out = self.fc.in_features, self.fc.out_features
        return {
            **channel_operands(self.config, width, self._k),
            "inputs": Operand("inputs", width),
            "weights": Operand("weights", out, axis=1),
            "outputs": Operand("outputs", out),
        }

    def validate(self, graph, feat, edge_weight=None):
        check_homogeneous(self, graph)
        check_graph(self, graph, self._allow_zero_in_degree)
        check_edge_weight(self, graph, edge_weight)
        check_features(self, feat, self.fc.in_features, graph.num_nodes())

    def compute(self, ops, graph, feat, edge_weight=None):
        """As ``dgl.nn.SGConv.forward``; shapes: feat (N, in_feats), output (N, out_feats).

        Raises
        ------
        DGLError
            As the parent, and when low-bit on a block or bipartite graph, for features whose width, row count or dtype
            does not fit, and for NaN or infinity in features or edge weights.
        """

        def propagate():
            return self.propagate(ops, graph, feat, edge_weight)

        if any(quantizer.is_observed for quantizer in self.quantizers.values()):
            self._cached_h = None  # ranges may change, and every quantiser is to meet its tensor
            return self.project(ops, propagate())
        return self.project(ops, ops.kept(self, "_cached_h", propagate) if self._cached else propagate())

    def configure(self, config):
        """Quantisers of ``config``; what the float layer kept is forgotten."""
        super().configure(config)
        if self.is_low_bit:
            self._cached_h = None

    def _load_from_state_dict(self, *args):
        super()._load_from_state_dict(*args)
        if self.is_low_bit:
            self._cached_h = None  # it was propagated under other ranges

    def propagate(self, ops, graph, feat, edge_weight):
        """Features, (N, in_feats), after K steps."""
        channel = Channel(ops, graph, self, edge_weight)
        h = channel.start(feat)
        for step in range(self._k):
            _, h = channel(h, step)
        return ops.activate(h, self.norm)

    def project(self, ops, h):
        """The product of what K steps gave, (N, in_feats), with the weights."""
        q = self.quantizers
        h = ops.product(ops.quantize(q["inputs"], h), q["weights"], self.fc.weight.t())
        return ops.requantize(q["outputs"], ops.bias(h, self.fc.bias))
