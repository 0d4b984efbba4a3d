"""The operations of layers, run in torch and DGL: fake-quantised and differentiable."""

from __future__ import annotations

import math
from functools import partial

import dgl
import dgl.function as fn
import torch
import torch.nn.functional as F
from dgl.core import is_builtin
from dgl.nn.functional import edge_softmax
from dgl.nn.pytorch import EdgeWeightNorm

from ..graphs.degrees import most_messages, power_of_degrees, times_drawn
from ..quant.products import finished, product, products
from ..quant.quantized import Quantized
from ..quant.scaled import scale_rows, scaled
from ..quant.stochastic import with_gradient_in
from .protection import protected_messages, protected_rows
from .protocol import OnlyOps
from .sums import can_sum_packed, exactly_summed, sum_packed
from .typed import TypedProducts, meet_by_type
from .watching import summed

# Reducers whose functions of dgl.ops give 0 where there is no message; largest and smallest give infinities.
_SUMS = ("sum", "mean")


class TorchOps(OnlyOps):
    """The operations :class:`dgl_lowbit.nn.Ops`, run: fake-quantised, differentiable, through DGL's message passing.

    They write to ``graph.local_var()``, never to the caller's frames: DGL 1.x's ``local_scope`` leaves what was written
    where an error is raised in it.

    Parameters
    ----------
    gradients : int
        Bits of the gradients of sums over neighbours, 8 or 32: see :class:`dgl_lowbit.QuantConfig`.
    """

    def __init__(self, gradients: int = 32):
        self.gradients = gradients

    @staticmethod
    def source(feat):
        return feat[0] if is_pair(feat) else feat

    @staticmethod
    def destination(feat, graph):
        if is_pair(feat):
            return feat[1]
        if not graph.is_block:
            return feat
        first = slice(None, graph.num_dst_nodes())
        return feat.rows(first) if isinstance(feat, Quantized) else feat[first]

    @staticmethod
    def dropout(x, module):
        return each(module, x)

    @staticmethod
    def quantize(quantizer, x, norm=None):
        x = x if norm is None else TorchOps.scale_by_degree(x, *norm)
        if not is_pair(x):
            return quantizer.quantized(x, protected=protected_rows(len(x)))
        together = quantizer.quantized(torch.cat(x), protected=protected_rows(*map(len, x)))
        start, parts = 0, []
        for part in x:
            parts.append(together.rows(slice(start, start + len(part))))
            start += len(part)
        return tuple(parts)

    @staticmethod
    def dequantize(codes):
        _expect_codes("dequantize", codes)
        return codes.centered * codes.scale

    @staticmethod
    def delta_quantize(quantizer, x, state, dead_zone=None):
        change = x if state is None else x - state
        code = quantizer.quantized if dead_zone is None else partial(dead_zone.quantized, quantizer)
        codes = code(change, protected=protected_rows(len(change)))
        change = codes.centered * codes.scale
        return codes, change if state is None else state + change

    @staticmethod
    def product(codes, quantizer, weight, norm=None, bias=None, onto=None):
        each(partial(_expect_product, weight), codes)
        quantizer.meets(weight, list(codes) if is_pair(codes) else [codes])
        quantized, after = quantizer.quantized(weight), _of_degrees(norm, codes)
        return each(lambda part: product(part, quantized, after, bias, onto), codes)

    @staticmethod
    def products(*terms):
        codes, others = terms[0][0], [part for part, *_ in terms[1:]]
        if is_pair(codes) or any(other is not codes for other in others):
            return tuple(TorchOps.product(*term) for term in terms)
        for _, quantizer, weight in terms:
            _expect_product(weight, codes)
            quantizer.meets(weight, [codes])
        return products(codes, [quantizer.quantized(weight) for _, quantizer, weight in terms])

    def aggregate(self, graph, codes, edge_weight=None, self_codes=None, norm=None):
        _expect_codes("aggregate", codes)
        if edge_weight is None:
            summed(graph, codes)
        after = _of_degrees(norm, codes)
        if edge_weight is None and self_codes is None and can_sum_packed(graph, codes):
            factors = [part for part in (after, times_drawn(codes.scale, graph)) if part is not None]
            return sum_packed(graph, codes, math.prod(factors) if factors else None, self.gradients)
        total = of_all_neighbours(self.reduce(graph, codes, edge_weight, fn.sum("m", "neigh"), scaled=False), graph)
        if self_codes is not None:
            total = total + self_codes.centered
        total = scaled(total.to(codes.centered.dtype), codes.scale)
        return finished(with_gradient_in(total, self.gradients), after)

    def largest(self, graph, codes, edge_weight=None):
        return self.reduce(graph, codes, edge_weight, fn.max("m", "neigh"))

    maximum = largest

    @staticmethod
    def reduce(graph, codes, edge_weight, reducer, scaled=True):
        _expect_codes("largest and reduce", codes)
        messages = codes.centered * codes.scale if scaled else codes.centered
        if graph.num_edges() == 0:
            return _nothing(graph, messages)
        if edge_weight is None and not scaled:
            messages = exactly_summed(messages, most_messages(graph))
        if is_builtin(reducer) and reducer.name in _SUMS:  # what update_all comes to, without its frames
            if edge_weight is None:
                return getattr(dgl.ops, f"copy_u_{reducer.name}")(graph, messages)
            return getattr(dgl.ops, f"u_mul_e_{reducer.name}")(graph, messages, edge_weight)
        graph, message = graph.local_var(), fn.copy_u("h", "m")
        graph.srcdata["h"] = messages
        if edge_weight is not None:
            graph.edata["w"] = edge_weight
            message = fn.u_mul_e("h", "w", "m")
        graph.update_all(message, reducer)
        return graph.dstdata["neigh"]

    def aggregate_edges(self, graph, codes, edge_codes):
        if graph.num_edges() == 0:
            return _nothing(graph, codes.centered)
        graph = graph.local_var()
        graph.srcdata["h"], graph.edata["e"] = codes.centered, edge_codes.centered
        graph.apply_edges(fn.u_add_e("h", "e", "m"))
        graph.edata["m"] = exactly_summed(F.relu(graph.edata["m"]), most_messages(graph))
        graph.update_all(fn.copy_e("m", "m"), fn.sum("m", "neigh"))
        total = scaled(graph.dstdata["neigh"].to(codes.centered.dtype), codes.scale)
        return with_gradient_in(total, self.gradients)

    def aggregate_by_type(self, graph, codes, weight_quantizer, weights, quantizer, edge_types, edge_weight=None):
        source, destination = graph.edges(order="eid")
        places = torch.as_tensor(edge_types, device=source.device).long() * codes.shape[0] + source
        sent, message = torch.unique(places, return_inverse=True)
        meet_by_type(weight_quantizer, weights, codes, sent // max(codes.shape[0], 1), sent % max(codes.shape[0], 1))
        products = TypedProducts(codes, weight_quantizer, weights)
        protected = protected_messages(lambda: sent % codes.shape[0], codes.shape[0])
        messages = quantizer.quantized(products.at(sent), products.sample, protected)
        ends = {"num_src_nodes": len(sent), "num_dst_nodes": graph.num_dst_nodes()}
        return self.aggregate(dgl.create_block((message, destination.long()), **ends), messages, edge_weight)

    @staticmethod
    def normed(graph, edge_weight):
        return edge_weight if edge_weight is None else EdgeWeightNorm("both")(graph, edge_weight)

    @staticmethod
    def spectral_norm(graph, lambda_max):
        if lambda_max is None:
            return 1.0
        values = torch.as_tensor(lambda_max, dtype=torch.float32, device=graph.device).reshape(-1, 1)
        return 2.0 / dgl.broadcast_nodes(graph, values)

    @staticmethod
    def drop_edges(graph, edge_weight, module):
        if not (module.training and module.p > 0):
            return edge_weight
        ones = torch.ones(graph.num_edges(), 1, device=graph.device) if edge_weight is None else edge_weight
        return module(ones)

    @staticmethod
    def kept(holder, name, make):
        if getattr(holder, name) is None:
            with torch.no_grad():  # recomputed by checkpointing, a forward meets what the first has kept
                setattr(holder, name, make())
        return getattr(holder, name)

    # -- attention --------------------------------------------------------------------------------------
    @staticmethod
    def head_sums(x, vector, heads):
        return (TorchOps.split_heads(x, heads) * vector.view(heads, -1)).sum(-1)

    @staticmethod
    def attention(graph, left, right, vector, slope, quantizer, drop, edge_weight=None):
        if graph.num_edges() == 0:  # nothing to quantise, but a range to be known
            return quantizer.quantized(vector.new_ones(1, vector.shape[-2], 1)).rows(slice(0, 0))
        graph = graph.local_var()
        graph.srcdata["l"] = TorchOps.split_heads(left.centered * left.scale, vector.shape[-2])
        graph.dstdata["r"] = TorchOps.split_heads(right.centered * right.scale, vector.shape[-2])
        graph.apply_edges(fn.u_add_v("l", "r", "e"))
        score = (F.leaky_relu(graph.edata["e"], slope) * vector).sum(-1, keepdim=True)
        weights = drop(edge_softmax(graph, score))
        if edge_weight is not None:
            weights = weights * edge_weight.view(-1, *[1] * (weights.dim() - 1))
        protected = protected_messages(lambda: graph.edges()[0], graph.num_src_nodes())
        return quantizer.quantized(weights, protected=protected)

    def attend(self, graph, codes, attention):
        _expect_codes("attend", codes, attention)
        if graph.num_edges() == 0:
            return _nothing(graph, codes.centered)
        graph = graph.local_var()
        messages = exactly_summed(codes.centered, _most_attention(graph, attention.centered, sums=False))
        if messages.dtype != codes.centered.dtype:  # the sums themselves may be smaller than their bound
            messages = exactly_summed(codes.centered, _most_attention(graph, attention.centered, sums=True))
        graph.srcdata["h"] = TorchOps.split_heads(messages, attention.centered.shape[-2])
        graph.edata["a"] = attention.centered.to(messages.dtype)
        graph.update_all(fn.u_mul_e("h", "a", "m"), fn.sum("m", "neigh"))
        total = graph.dstdata["neigh"].to(codes.scale.dtype).flatten(-2) * (attention.scale * codes.scale)
        return with_gradient_in(total, self.gradients)

    @staticmethod
    def split_heads(x, heads):
        return x.unflatten(-1, (heads, x.shape[-1] // heads))

    # -- element by element -----------------------------------------------------------------------------
    @staticmethod
    def concatenate(parts):
        return torch.cat(parts, dim=-1)

    @staticmethod
    def call(module, x):
        return module(x)

    @staticmethod
    def scale_by_degree(x, graph, side, power, plus=0, unless=None):
        if unless is not None:
            return x
        return scale_rows(x, power_of_degrees(x, graph, side, power, plus))

    @staticmethod
    def combine(*terms):
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
        return x if quantizer.format.is_float else self.dequantize(self.quantize(quantizer, x))


@torch.no_grad()
def _most_attention(graph, attention, sums):
    """The largest sum of attention codes, as magnitudes, that a node has, or a bound of it."""
    magnitudes = attention.abs()
    if not sums:
        return most_messages(graph) * float(magnitudes.max())
    graph.edata["weight"] = magnitudes
    graph.update_all(fn.copy_e("weight", "m"), fn.sum("m", "weight"))
    return float(graph.dstdata["weight"].max())


def _expect_codes(operation, *given):
    for codes in given:
        if not isinstance(codes, Quantized):
            raise TypeError(
                f"ops.{operation} takes codes, which ops.quantize(quantizer, x) makes, got {type(codes).__name__}."
            )


def _expect_product(weight, codes):
    _expect_codes("product", codes)
    if codes.shape[-1] != weight.shape[0]:
        raise ValueError(
            f"ops.product takes codes of (rows, in) and a weight of (in, out), got shapes {tuple(codes.shape)} and "
            f"{tuple(weight.shape)}; torch.nn.Linear keeps (out, in): write weight.t()."
        )


def _nothing(graph, messages):
    """Zeros for each node, which depend on messages that none of them gets."""
    return messages.new_zeros(graph.num_dst_nodes(), *messages.shape[1:]) + 0 * messages.sum()


def of_all_neighbours(total, graph):
    """Sums over the neighbours that were drawn as those over all of them, in the mean, where degrees are known."""
    times = times_drawn(total, graph)
    return total if times is None else total * times.view(-1, *[1] * (total.dim() - 1))


def _of_degrees(norm, codes):
    return None if norm is None else power_of_degrees(codes.scale, *norm)


def each(function, x):
    """``function`` of ``x``, or of each part of a pair."""
    return tuple(map(function, x)) if is_pair(x) else function(x)


def is_pair(x) -> bool:
    """Whether features are a pair, of source and of destination nodes."""
    return isinstance(x, tuple)
