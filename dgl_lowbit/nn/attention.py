"""What attention layers share."""

from __future__ import annotations

from .base import LowBitLayer
from .checks import check_graph, check_sources


class Attention(LowBitLayer):
    """Base of the low-bit attention layers: checks, and what follows the weighted sum."""

    def validate(self, graph, feat, get_attention=False):
        check_graph(self, graph, self._allow_zero_in_degree)
        check_sources(self, graph, feat, self._in_src_feats, self._in_dst_feats)

    def finish(self, ops, graph, feat, inputs, total, bias):
        """Residual, bias and activation: (N, …, H · D) sums to the layer's output, (N, …, H, D)."""
        q = self.quantizers
        if "weights_res" in q:
            residual = ops.product(ops.destination(inputs, graph), q["weights_res"], self.res_fc.weight.t())
            total = ops.combine((1, total), (1, ops.bias(residual, self.res_fc.bias)))
        elif self.res_fc is not None:
            total = ops.combine((1, total), (1, ops.destination(feat, graph)))
        total = ops.requantize(q["outputs"], ops.bias(total, bias))
        return ops.activate(ops.split_heads(total, self._num_heads), self.activation)
