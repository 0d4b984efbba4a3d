"""The operations low-bit layers are written in.

A layer states its computation once, in ``compute(ops, graph, feat, …)``. Given :class:`TorchOps` it runs:
fake-quantised, differentiable, through DGL's message passing. Given the recorder of ``dgl_lowbit.deploy`` the
same statements write the plan of the packed model. What trains and what is deployed can thus not drift apart.
"""

from __future__ import annotations

from typing import NamedTuple

import dgl.function as fn
import torch


class Quantized(NamedTuple):
    """A quantised tensor: ``centered`` codes (codes − zero_point) and the ``scale`` they are multiplied by."""

    centered: torch.Tensor
    scale: torch.Tensor

    def rows(self, chosen: slice) -> Quantized:
        """Some of the rows, with their scales where there is one a row."""
        scale = self.scale
        return Quantized(self.centered[chosen], scale[chosen] if scale.dim() > 1 and len(scale) > 1 else scale)


class TorchOps:
    """Runs a layer's computation in torch and DGL."""

    @staticmethod
    def source(feat):
        """Features of the source nodes: the first of a pair, else ``feat``."""
        return feat[0] if _is_pair(feat) else feat

    @staticmethod
    def destination(feat, graph):
        """Features of the destination nodes: the second of a pair; on a block, the first rows."""
        if _is_pair(feat):
            return feat[1]
        if not graph.is_block:
            return feat
        first = slice(None, graph.num_dst_nodes())
        return feat.rows(first) if isinstance(feat, Quantized) else feat[first]

    @staticmethod
    def dropout(x, module):
        return _each(module, x)

    @staticmethod
    def quantize(quantizer, x):
        """Codes of ``x`` under ``quantizer``; the parts of a pair together, so that both set the range."""
        if not _is_pair(x):
            return Quantized(*quantizer.split(x))
        both, rows = Quantized(*quantizer.split(torch.cat(x))), len(x[0])
        return both.rows(slice(None, rows)), both.rows(slice(rows, None))

    @staticmethod
    def dequantize(codes):
        return codes.centered * codes.scale

    @staticmethod
    def delta_quantize(quantizer, x, state):
        """Codes of what ``x`` changed against ``state``, and the state they lead to (None: zero)."""
        codes = Quantized(*quantizer.split(x if state is None else x - state))
        change = codes.centered * codes.scale
        return codes, change if state is None else state + change

    @staticmethod
    def product(codes, quantizer, weight):
        """Matrix product of codes, (rows, in), with the quantised ``weight``, (in, out); of each part of a pair.

        The sum runs over centred codes, so it is exact; both scales follow.
        """
        centered, scale = quantizer.split(weight)
        return _each(lambda part: torch.matmul(part.centered, centered) * part.scale * scale, codes)

    def aggregate(self, graph, codes, edge_weight=None, self_codes=None):
        """Sum of the codes of the in-neighbours (weighted, where weights are given) plus ``self_codes``."""
        total = self.reduce(graph, codes, edge_weight, fn.sum("m", "neigh"), scaled=False)
        if self_codes is not None:
            total = total + self_codes.centered
        return total * codes.scale

    def maximum(self, graph, codes, edge_weight=None):
        """Largest of the in-neighbours' values, 0 where there are none."""
        return self.reduce(graph, codes, edge_weight, fn.max("m", "neigh"))

    @staticmethod
    def reduce(graph, codes, edge_weight, reducer, scaled=True):
        """DGL's ``reducer`` from mailbox "m" to "neigh" over the in-neighbours' values (or centred codes)."""
        messages = codes.centered * codes.scale if scaled else codes.centered
        with graph.local_scope():
            graph.srcdata["h"] = messages
            message = fn.copy_u("h", "m")
            if edge_weight is not None:
                graph.edata["w"] = edge_weight
                message = fn.u_mul_e("h", "w", "m")
            if graph.num_edges() == 0:
                return messages.new_zeros(graph.num_dst_nodes(), *messages.shape[1:])
            graph.update_all(message, reducer)
            return graph.dstdata["neigh"]

    @staticmethod
    def scale_by_degree(x, graph, side, power, plus=0):
        """Multiply rows by (degree + plus)^power, degrees of 0 counting as 1.

        ``side`` is "out" for out-degrees of source nodes, "in" for in-degrees of destination nodes; ``power``
        is −1, −½ or ½.
        """
        degrees = graph.out_degrees() if side == "out" else graph.in_degrees()
        degrees = (degrees.to(x) + plus).clamp_(min=1)
        factor = (
            degrees.reciprocal_() if power == -1 else degrees.sqrt_() if power == 0.5 else degrees.sqrt_().reciprocal_()
        )
        return x * factor.view(-1, *[1] * (x.dim() - 1))

    @staticmethod
    def combine(*terms):
        """Σ coefficient · tensor over ``terms``, pairs of a float and a tensor, summed from left to right."""
        total = None
        for coefficient, x in terms:
            if coefficient == 0:
                continue
            term = x if coefficient == 1 else coefficient * x
            total = term if total is None else total + term
        return total

    @staticmethod
    def bias(x, bias):
        return x if bias is None else x + bias

    @staticmethod
    def activate(x, activation):
        return x if activation is None else activation(x)

    def requantize(self, quantizer, x):
        """``x`` rounded to the quantiser's grid."""
        return x if quantizer.format.is_float else self.dequantize(self.quantize(quantizer, x))


def _each(function, x):
    return tuple(map(function, x)) if _is_pair(x) else function(x)


def _is_pair(x):
    return isinstance(x, tuple) and not isinstance(x, Quantized)
