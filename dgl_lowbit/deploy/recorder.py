"""What low-bit layers state, written into a plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from numba_kernels.plan.ops.attend import MOST_SLOPE

from ..nn import LowBitLayer
from ..nn.arguments import Role
from ..nn.protocol import OnlyOps
from .values import AttentionCodes, Value
from .writer import Writer

ROW_FUNCTIONS = ("standardise", "normalize", "softmax", "log_softmax")


class Recorder(Writer, OnlyOps):
    """The operations of :class:`dgl_lowbit.nn.Ops`, written down instead of run.

    They take and return values, :class:`~dgl_lowbit.deploy.values.Value`, tuples of two where features are a pair.
    """

    def __init__(self):
        super().__init__()
        self._inside: Callable | None = None  # writes what the layer that is being recorded applies to a value

    # -- layers -----------------------------------------------------------------------------------------
    def layer(self, name: str, layer: LowBitLayer, bound, inside: Callable | None = None):
        """Record ``layer``, called ``name`` in the model, on the bound arguments of its forward.

        ``inside`` writes, at each call, what the layer's next function or module makes of a value.
        """
        outside, self._inside = self._inside, inside
        with self.at(f"{name or 'the model'} ({type(layer).__name__})", layer.quantizers):
            if getattr(layer, "_allow_zero_in_degree", True) is False:
                self.check_in_degrees(layer.argument(Role.GRAPH, bound.arguments))
            result = self._under_bound(layer, bound, layer.compute(self, *bound.args, **bound.kwargs))
        self._inside = outside
        return result

    def _under_bound(self, layer, bound, target):
        """The step towards ``target`` that a smoothness bound on the layer lets it take, as its hook does."""
        control = layer._modules.get("smoothness")
        if control is None:
            return target
        if isinstance(target, tuple):  # with attention beside
            return self._under_bound(layer, bound, target[0]), *target[1:]
        graph, feat = (layer.argument(role, bound.arguments) for role in (Role.GRAPH, Role.FEATURES))
        before = self.destination(feat, graph) if control.step_size != 1 or isinstance(feat, tuple) else feat
        widths, heads = {self.columns(before), self.columns(target)} - {None}, target.heads
        if before.heads not in (0, heads) or len(widths) > 1:  # there is no step between these: the hook takes none
            return target
        target = self.with_heads(target, before.heads)  # side by side
        if control.step_size != 1:
            target = self.combine((1 - control.step_size, before), (control.step_size, target))
        if "states" in layer.quantizers:
            target = self.requantize(layer.quantizers["states"], target)
        return self.with_heads(target, heads)

    # -- operations -------------------------------------------------------------------------------------
    def item(self, graphs, index):
        return replace(self._emit("item", graphs, index=index), kind="graph")

    def source(self, feat):
        if isinstance(feat, tuple):
            return feat[0]
        return self._view("source", feat) if feat is not None and feat.may_be_pair else feat

    def destination(self, feat, graph):
        return feat[1] if isinstance(feat, tuple) else self._view("destination", feat, graph)

    def dropout(self, x, module):
        return x

    def quantize(self, quantizer, x, norm=None):
        x = x if norm is None else self.scale_by_degree(x, *norm)
        return self._each(lambda part: self._coded("quantize", quantizer, part), x)

    def _coded(self, op, quantizer, x, *others, **attributes):
        spec, columns = self._export(self.constants.quantizer, quantizer), int(quantizer.width)
        out = self._emit(op, x, *others, quantizer=spec, columns=columns, **attributes)
        self._set_columns(x, columns)
        return replace(self._set_columns(out, columns), kind="codes", quantizer=spec)

    def _each(self, emit, x):
        """Emit for ``x``, or for each part of a pair; what comes of a possible pair may be one too."""
        if isinstance(x, tuple):
            return tuple(map(emit, x))
        return replace(emit(x), may_be_pair=x.may_be_pair)

    def dequantize(self, codes):
        if isinstance(codes, AttentionCodes):
            return self._attention_values(codes)
        return self._emit("dequantize", codes)

    def _attention_values(self, codes):
        """Attention as an array, (E, heads, 1)."""
        scores = map(self.dequantize, (codes.left, codes.right))
        self.float_parts.append(f"{self._where}: attention")
        values = self._emit("attention", codes.graph, *scores, codes.edge_weight, **codes.attributes)
        return replace(values, kind="array")

    def requantize(self, quantizer, x):
        return x if quantizer.format.is_float else self.dequantize(self.quantize(quantizer, x))

    def delta_quantize(self, quantizer, x, state, dead_zone=None):
        after, zone = Value(self._new(), "state"), {}
        if dead_zone is not None:
            thresholds = self._export(lambda _: dead_zone.thresholds().cpu().numpy(), dead_zone.quantizer)
            zone = {"dead_zone": {"thresholds": self.constants.numbers(thresholds), "of": dead_zone.part}}
        return self._coded("delta", quantizer, x, state, state=after.number, **zone), after

    def product(self, codes, quantizer, weight, norm=None, bias=None, onto=None):
        if not isinstance(weight, torch.Tensor):
            self.fail("its weight is an argument of forward; give the layer a weight of its own.")
        spec = self._export(self.constants.weight, quantizer, weight)
        return self._each(lambda part: self._finished(self._linear(part, spec), norm, bias, onto), codes)

    def products(self, *terms):
        return tuple(self.product(*term) for term in terms)

    def _finished(self, x, norm=None, bias=None, onto=None):
        x = self.bias(x if norm is None else self.scale_by_degree(x, *norm), bias)
        return x if onto is None else self.combine((1, x), (1, onto))

    def _linear(self, codes, spec):
        return self._set_columns(self._emit("linear", codes, weight=spec), spec["shape"][1])

    def aggregate(self, graph, codes, edge_weight=None, self_codes=None, norm=None):
        return self._finished(self._emit("aggregate", graph, codes, edge_weight, self_codes), norm)

    def aggregate_by_type(self, graph, codes, weight_quantizer, weights, quantizer, edge_types, edge_weight=None):
        types, width, out = weights.shape
        together = weights.transpose(0, 1).reshape(width, types * out)
        chosen = [slice(number * out, (number + 1) * out) for number in range(types)]
        products = [
            self._linear(codes, self._export(self.constants.weight, weight_quantizer, together, part))
            for part in chosen
        ]
        messages = [self.quantize(quantizer, product) for product in products]
        by_type = replace(self._emit("edges_by_type", graph, edge_types, count=types), kind="graph")
        stacked = replace(self._emit("stack", *messages), kind="codes", quantizer=messages[0].quantizer)
        return self.aggregate(by_type, stacked, edge_weight)

    def largest(self, graph, codes, edge_weight=None):
        self._refuse_powers(codes)
        return self._emit("aggregate", graph, codes, edge_weight, None, reduce="max")

    maximum = largest

    def reduce(self, graph, codes, edge_weight, reducer, scaled=True):
        self.fail("its aggregator is a recurrent network (lstm); mean, gcn and pool can be frozen.")

    def aggregate_edges(self, graph, codes, edge_codes):
        zero = codes.quantizer.get("zero_point")
        self._refuse_powers(codes)
        twice = 2 * np.float64(self.constants.arrays[zero] if isinstance(zero, str) else zero)
        if (twice != np.rint(twice)).any():
            self.fail("sums with edge features need zero points of whole halves; use quantizer='qlr'.")
        return self._emit("aggregate_edges", graph, codes, edge_codes)

    def _refuse_powers(self, *codes):
        if any(value.quantizer["granularity"] == "shift" for value in codes):
            self.fail("granularity 'shift' serves plain sums over neighbours; use 'channel' or 'tensor' here.")

    def normed(self, graph, edge_weight):
        if edge_weight is None:
            return None
        if edge_weight.is_made:
            self.fail("it norms edge weights that forward computes; norm them with dgl.nn.EdgeWeightNorm before.")
        return replace(self._emit("edge_norm", graph, edge_weight), kind="edge_weight")

    def kept(self, holder, name, make):
        return make()

    def drop_edges(self, graph, edge_weight, module):
        return edge_weight

    def spectral_norm(self, graph, lambda_max):
        if lambda_max is None:
            return 1.0
        numbers = set(lambda_max) if isinstance(lambda_max, (list, tuple)) else set()
        if len(numbers) != 1 or not isinstance(next(iter(numbers)), (int, float)):
            self.fail("lambda_max is an argument of forward; a frozen layer takes one number, or None for 2.")
        return 2.0 / numbers.pop()

    # -- attention --------------------------------------------------------------------------------------
    def head_sums(self, x, vector, heads):
        out = self._emit("head_sums", x, heads=heads, vector=self.constants.numbers(vector.detach().cpu().numpy()))
        return self._set_columns(out, heads)

    def attention(self, graph, left, right, vector, slope, quantizer, drop, edge_weight=None):
        return self._attention(graph, left, right, edge_weight, vector.detach().cpu().numpy(), slope, quantizer)

    def attention_of(self, graph, scores, heads, quantizer):
        """The attention that sums of ``scores``, one for each of ``heads``, lead to."""
        ones = np.ones((heads, 1), np.float32)
        return self._attention(graph, scores.left, scores.right, None, ones, scores.slope, quantizer)

    def _attention(self, graph, left, right, edge_weight, vector, slope, quantizer):
        spec = self._export(self.constants.quantizer, quantizer)
        self._refuse_powers(left, right)
        attributes = {
            "heads": vector.shape[-2],
            "slope": slope,
            "vector": self.constants.numbers(vector),
            "quantizer": spec,
        }
        return AttentionCodes(graph, left, right, edge_weight, attributes)

    def attend(self, graph, codes, attention):
        self._refuse_powers(codes)
        attributes = attention.attributes
        if attributes["quantizer"]["zero_point"] != 0 or abs(attributes["slope"]) > MOST_SLOPE:
            return self._attend_by_edge(graph, codes, attention)
        values = attention.left, attention.right, attention.edge_weight
        return self._emit("attend", graph, codes, *values, **attributes)

    def _attend_by_edge(self, graph, codes, attention):
        """Sums with attention that has a code below 0, as of edge weights that are negative, in float32."""

        def call(function, *args):
            return {"value": self.array_call(function, list(args), {}, 1)[0]}

        columns, edges = self.columns(codes), {"value": graph.number}
        heads = attention.attributes["heads"]
        messages = call("take_source", edges, {"value": self.dequantize(codes).number})
        by_head = call("reshape", messages, [{"size": {"of": "edges", "graph": graph.number}}, heads, columns // heads])
        weighted = call("mul", by_head, {"value": self._attention_values(attention).number})
        rows = {"of": "dst_nodes", "graph": graph.number}
        return self.matrix(call("reduce_edges", edges, weighted, "sum"), rows, columns, 0)

    def split_heads(self, x, heads):
        return replace(x, heads=heads)

    def with_heads(self, x, heads):
        """The rows of ``x`` as ``heads`` parts, or 0 as one."""
        return x if x.heads == heads else replace(x, heads=heads)

    def head_mean(self, x):
        columns = self.columns(x)
        out = self._emit("head_mean", x, heads=x.heads)
        return self._set_columns(out, None if columns is None else columns // x.heads)

    # -- others -----------------------------------------------------------------------------------------
    def relation(self, graph, etype):
        return replace(self._emit("relation", graph, etype=list(etype)), kind="graph")

    def readout(self, graph, x, reduce):
        return self._emit("readout", graph, x, reduce=reduce)

    def check_in_degrees(self, graph):
        self.ops.append({"op": "check_in_degrees", "in": [graph.number]})

    def scale_by_degree(self, x, graph, side, power, plus=0, unless=None):
        inputs = [x, graph] if unless is None else [x, graph, unless]
        return replace(self._emit("degree", *inputs, side=side, power=power, plus=plus), heads=x.heads)

    # -- element by element -----------------------------------------------------------------------------
    def bias(self, x, bias):
        if bias is None:
            return x
        return self._alike("bias", x, bias=self.constants.numbers(bias.detach().cpu().numpy()))

    def affine(self, x, scale, bias):
        """scale · x + bias, per column."""
        return self.bias(self._alike("scale", x, scale=self.constants.numbers(scale.detach().cpu().numpy())), bias)

    def relu(self, x):
        return self._alike("relu", x)

    def map(self, x, function, parameter=0.0):
        """One of :data:`numba_kernels.plan.MAPS`."""
        if function in ROW_FUNCTIONS and x.heads:
            self.fail(f"{function} of an array of three dimensions has no packed form.")
        self.float_parts.append(f"{self._where or 'forward'}: {function}")
        return self._alike("map", x, function=function, parameter=float(parameter))

    def activate(self, x, activation):
        return x if activation is None else self.call(activation, x)

    def call(self, module, x):
        return self._inside(x)

    def concatenate(self, parts):
        if any(part.heads for part in parts):
            self.fail("values of three dimensions cannot be put side by side; flatten them first.")
        widths = [self.columns(part) for part in parts]
        return self._set_columns(self._emit("concat", *parts), None if None in widths else sum(widths))

    def larger(self, *values):
        """The largest of several values, number by number."""
        return self._alike("maximum", *values)

    def multiply(self, *values):
        """The product of several values, number by number."""
        return self._alike("multiply", *values)

    def combine(self, *terms):
        numbers = [(c.item() if isinstance(c, torch.Tensor) else float(c), x) for c, x in terms]
        terms = [(c, x) for c, x in numbers if c != 0]
        return self._alike("combine", *(x for _, x in terms), coefficients=[c for c, _ in terms])
