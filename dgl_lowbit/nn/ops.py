"""The operations low-bit layers are written in.

A layer states its computation once, in ``compute(ops, graph, feat, …)``. Given :class:`TorchOps` it runs:
fake-quantised, differentiable, through DGL's message passing. Given the recorder of ``dgl_lowbit.deploy`` the
same statements write the plan of the packed model. What trains and what is deployed can thus not drift apart.
"""

from __future__ import annotations

from typing import NamedTuple

import dgl
import dgl.function as fn
import torch
import torch.nn.functional as F
from dgl.nn.functional import edge_softmax
from dgl.nn.pytorch import EdgeWeightNorm

from .typed import TypedProducts


class Quantized(NamedTuple):
    """A quantised tensor: ``centered`` codes (codes − zero_point) and the ``scale`` they are multiplied by."""

    centered: torch.Tensor
    scale: torch.Tensor

    def rows(self, chosen: slice | torch.Tensor) -> Quantized:
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
        """Codes of ``x`` under ``quantizer``; several parts, as of a pair, together, so that all set the range."""
        if not _is_pair(x):
            return Quantized(*quantizer.split(x))
        together, start, parts = Quantized(*quantizer.split(torch.cat(x))), 0, []
        for part in x:
            parts.append(together.rows(slice(start, start + len(part))))
            start += len(part)
        return tuple(parts)

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
    def aggregate_edges(graph, codes, edge_codes):
        """Sum over in-neighbours of max(code of the node + code of the edge, 0), both of one quantiser."""
        if graph.num_edges() == 0:
            return codes.centered.new_zeros(graph.num_dst_nodes(), codes.centered.shape[1])
        with graph.local_scope():
            graph.srcdata["h"], graph.edata["e"] = codes.centered, edge_codes.centered
            graph.apply_edges(fn.u_add_e("h", "e", "m"))
            graph.edata["m"] = F.relu(graph.edata["m"])
            graph.update_all(fn.copy_e("m", "m"), fn.sum("m", "neigh"))
            return graph.dstdata["neigh"] * codes.scale

    def aggregate_by_type(self, graph, codes, weight_quantizer, weights, quantizer, edge_types, edge_weight=None):
        """Sum over in-edges, (weighted, where weights are given), of messages by edge type, quantised by ``quantizer``.

        A message is the product of the source node's codes, (rows, in), with the matrix of the edge's type among
        ``weights``, (types, in, out), which are quantised together. It is computed once for each type and source node
        that an edge of that type leaves.
        """
        products = TypedProducts(codes, weight_quantizer, weights)
        source, destination = graph.edges(order="eid")
        places = torch.as_tensor(edge_types, device=source.device).long() * products.rows + source
        sent, message = torch.unique(places, return_inverse=True)
        messages = Quantized(*quantizer.split(products.at(sent), observed=products.sample))
        ends = {"num_src_nodes": len(sent), "num_dst_nodes": graph.num_dst_nodes()}
        return self.aggregate(dgl.create_block((message, destination.long()), **ends), messages, edge_weight)

    @staticmethod
    def normed(graph, edge_weight):
        """``edge_weight`` over the roots of its sums at both ends (dgl.nn.EdgeWeightNorm); None stays None."""
        return edge_weight if edge_weight is None else EdgeWeightNorm("both")(graph, edge_weight)

    @staticmethod
    def spectral_norm(graph, lambda_max):
        """2 / λ_max of the graph's Laplacian: 1 where it is not given, else a number for each node, (N, 1)."""
        if lambda_max is None:
            return 1.0
        values = torch.as_tensor(lambda_max, dtype=torch.float32, device=graph.device).reshape(-1, 1)
        return 2.0 / dgl.broadcast_nodes(graph, values)

    @staticmethod
    def drop_edges(graph, edge_weight, module):
        """Weights of the edges that ``module``, dropout, leaves; None as long as all of them stay."""
        if not (module.training and module.p > 0):
            return edge_weight
        ones = torch.ones(graph.num_edges(), 1, device=graph.device) if edge_weight is None else edge_weight
        return module(ones)

    @staticmethod
    def kept(holder, name, make):
        """What ``make()`` gave in the first forward, kept as the attribute ``name`` of ``holder``; without gradient."""
        if getattr(holder, name) is None:
            setattr(holder, name, make().detach())
        return getattr(holder, name)

    # -- attention --------------------------------------------------------------------------------------
    @staticmethod
    def head_sums(x, vector, heads):
        """Σ_d x[i, h, d] · vector[h, d]: rows of (heads · D) to (rows, heads)."""
        return (TorchOps.split_heads(x, heads) * vector.view(heads, -1)).sum(-1)

    @staticmethod
    def attention(graph, left, right, vector, slope, quantizer, drop, edge_weight=None):
        """Quantised attention weights of the edges, (E, heads, 1).

        The softmax over in-neighbours j of i of Σ_d vector[h, d] · LeakyReLU(left[j, h, d] + right[i, h, d]), in
        float32 over the values of the codes; ``drop`` acts on it, ``edge_weight`` multiplies it.
        """
        if graph.num_edges() == 0:  # nothing to quantise, but a range to be known
            return Quantized(*quantizer.split(vector.new_ones(1, vector.shape[-2], 1))).rows(slice(0, 0))
        with graph.local_scope():
            graph.srcdata["l"] = _by_head(left.centered * left.scale, vector)
            graph.dstdata["r"] = _by_head(right.centered * right.scale, vector)
            graph.apply_edges(fn.u_add_v("l", "r", "e"))
            score = (F.leaky_relu(graph.edata["e"], slope) * vector).sum(-1, keepdim=True)
            weights = drop(edge_softmax(graph, score))
        if edge_weight is not None:
            weights = weights * edge_weight.view(-1, 1, 1)
        return Quantized(*quantizer.split(weights))

    @staticmethod
    def attend(graph, codes, attention):
        """Sum of the codes of the in-neighbours, (N, heads · D), each head's weighted with its attention."""
        heads, width = attention.centered.shape[1], codes.centered.shape[1]
        if graph.num_edges() == 0:
            return codes.centered.new_zeros(graph.num_dst_nodes(), width)
        with graph.local_scope():
            graph.srcdata["h"] = codes.centered.view(-1, heads, width // heads)
            graph.edata["a"] = attention.centered
            graph.update_all(fn.u_mul_e("h", "a", "m"), fn.sum("m", "neigh"))
            total = graph.dstdata["neigh"].reshape(-1, width)
        return total * (attention.scale * codes.scale)

    @staticmethod
    def split_heads(x, heads):
        """(rows, heads · D) as (rows, heads, D)."""
        return x.unflatten(-1, (heads, x.shape[-1] // heads))

    # -- element by element -----------------------------------------------------------------------------
    @staticmethod
    def concatenate(parts):
        """Values side by side."""
        return torch.cat(parts, dim=-1)

    @staticmethod
    def call(module, x):
        """What a module that is a layer of its own makes of ``x``."""
        return module(x)

    @staticmethod
    def scale_by_degree(x, graph, side, power, plus=0, unless=None):
        """Multiply rows by (degree + plus)^power, degrees of 0 counting as 1; where ``unless`` is given, do not.

        ``side`` is "out" for out-degrees of source nodes, "in" for in-degrees of destination nodes; ``power``
        is −1, −½ or ½.
        """
        if unless is not None:
            return x
        degrees = graph.out_degrees() if side == "out" else graph.in_degrees()
        degrees = (degrees.to(x) + plus).clamp_(min=1)
        factor = (
            degrees.reciprocal_() if power == -1 else degrees.sqrt_() if power == 0.5 else degrees.sqrt_().reciprocal_()
        )
        return x * factor.view(-1, *[1] * (x.dim() - 1))

    @staticmethod
    def combine(*terms):
        """Σ coefficient · tensor over ``terms``, pairs of a number and a tensor, summed from left to right."""
        total = None
        for coefficient, x in terms:
            is_learned = isinstance(coefficient, torch.Tensor)
            if not is_learned and coefficient == 0:
                continue
            term = x if not is_learned and coefficient == 1 else coefficient * x
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


def _by_head(x, vector):
    return x.view(len(x), *vector.shape[-2:])


def _each(function, x):
    return tuple(map(function, x)) if _is_pair(x) else function(x)


def _is_pair(x):
    return isinstance(x, tuple) and not isinstance(x, Quantized)
