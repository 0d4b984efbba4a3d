"""Writes the plan of a packed model from the statements of low-bit layers."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from numba_kernels import Plan, pack
from numba_kernels.layout import dense_bytes

ROW_FUNCTIONS = ("standardise", "normalize", "softmax", "log_softmax")
_ACTIVATIONS = {
    **dict.fromkeys((F.relu, torch.relu, F.relu_, torch.relu_), lambda recorder, x: recorder.relu(x)),
    F.elu: lambda recorder, x: recorder.map(x, "elu", 1.0),
    F.leaky_relu: lambda recorder, x: recorder.map(x, "leaky_relu", 0.01),
    F.normalize: lambda recorder, x: recorder.map(x, "normalize", 1e-12),
    **dict.fromkeys((torch.sigmoid, F.sigmoid), lambda recorder, x: recorder.map(x, "sigmoid")),
    **dict.fromkeys((torch.tanh, F.tanh), lambda recorder, x: recorder.map(x, "tanh")),
}


class FreezeError(ValueError):
    """A model, or a part of it, that has no packed form."""


class Recorder:
    """The operations of :class:`dgl_lowbit.nn.ops.TorchOps`, written down instead of run.

    Values are numbers of plan values. ``walk`` records a module whose forward is ordinary Python, on a value.
    """

    def __init__(self, walk=None):
        self.inputs, self.ops, self.arrays, self.walk = [], [], {}, walk
        self.pairs = set()  # values that are features as given, and may be pairs
        self.heads = {}  # values that are (rows, heads, width) → heads
        self.float_parts = []  # names of what runs in float32, but for what epilogues take along
        self._next, self._where, self._quantizers, self._exported = 0, "", (), {}

    # -- bookkeeping ------------------------------------------------------------------------------------
    def input(self, name: str, kind: str, optional: bool = False, key: str | None = None) -> int:
        value = self._new()
        entry = {"name": name, "kind": kind, "value": value, "optional": optional}
        self.inputs.append(entry if key is None else {**entry, "key": key})
        if kind == "features":
            self.pairs.add(value)
        return value

    def layer(self, name: str, layer: nn.Module, bound):
        """Record ``layer``, called ``name`` in the model, on the bound arguments of its forward."""
        outside = self._where, self._quantizers
        self._where, self._quantizers = f"{name or 'the model'} ({type(layer).__name__})", layer.quantizers.items()
        if getattr(layer, "_allow_zero_in_degree", True) is False:
            self.check_in_degrees(bound.arguments["graph"])
        result = self._under_bound(layer, bound, layer.compute(self, *bound.args, **bound.kwargs))
        self._where, self._quantizers = outside
        return result

    def _under_bound(self, layer, bound, target):
        """The step towards ``target`` that a smoothness bound on the layer lets it take, as its hook does."""
        control = layer._modules.get("smoothness")
        if control is None:
            return target
        graph, feat = bound.arguments["graph"], bound.arguments["feat"]
        if control.step_size != 1:
            before = self.destination(feat, graph)
            target = self.combine((1 - control.step_size, before), (control.step_size, target))
        return self.requantize(layer.quantizers["states"], target) if "states" in layer.quantizers else target

    def plan(self, outputs) -> Plan:
        """The plan that returns ``outputs``: a value, a tuple or list of them, or a dict."""
        returns = "value"
        if isinstance(outputs, dict):
            returns, outputs = list(outputs), list(outputs.values())
        elif isinstance(outputs, (tuple, list)):
            returns = "tuple"
        else:
            outputs = [outputs]
        heads = [self.heads.get(value, 0) for value in outputs]
        return Plan(self.inputs, self.ops, list(outputs), self.arrays, returns, heads)

    def fail(self, reason: str):
        raise FreezeError(f"{self._where} cannot be frozen: {reason}")

    def _new(self):
        self._next += 1
        return self._next - 1

    def _emit(self, op, *values, **attributes):
        out = self._new()
        self.ops.append({"op": op, "in": list(values), "out": out, **attributes})
        return out

    def _numbers(self, values):
        """A float32 array as a number if it holds only one, else by name."""
        array = np.array(values, np.float32).reshape(-1)
        if (array == array[0]).all():
            return float(array[0])
        return self._store(array)

    def _store(self, array):
        name = f"a{len(self.arrays)}"
        self.arrays[name] = array
        return name

    def _quantizer(self, quantizer):
        if quantizer.format.is_float:
            name = next((name for name, q in self._quantizers if q is quantizer), "operands")
            self.fail(f"its {name} are float32 (32 bits); packed inference needs 8 bits or fewer.")
        if quantizer not in self._exported:
            spec = quantizer.export()
            numbers = {key: self._numbers(spec[key]) for key in ("scale", "zero_point", "offset") if key in spec}
            self._exported[quantizer] = {**spec, **numbers}
        return {"quantizer": self._exported[quantizer], "columns": int(quantizer.width)}

    # -- operations -------------------------------------------------------------------------------------
    def item(self, graphs, index):
        return self._emit("item", graphs, index=index)

    def source(self, feat):
        if isinstance(feat, tuple):
            return feat[0]
        return self._emit("source", feat) if feat in self.pairs else feat

    def destination(self, feat, graph):
        return feat[1] if isinstance(feat, tuple) else self._emit("destination", feat, graph)

    def dropout(self, x, module):
        return x

    def quantize(self, quantizer, x):
        return self._each(lambda part: self._emit("quantize", part, **self._quantizer(quantizer)), x)

    def _each(self, emit, x):
        """Emit for ``x``, or for each part of a pair; what comes of a possible pair may be one too."""
        if isinstance(x, tuple):
            return tuple(map(emit, x))
        out = emit(x)
        if x in self.pairs:
            self.pairs.add(out)
        return out

    def dequantize(self, codes):
        if isinstance(codes, dict):
            self.fail("a frozen layer does not return its attention; call it without get_attention.")
        return self._emit("dequantize", codes)

    def requantize(self, quantizer, x):
        return x if quantizer.format.is_float else self.dequantize(self.quantize(quantizer, x))

    def delta_quantize(self, quantizer, x, state):
        after = self._new()
        return self._emit("delta", x, state, state=after, **self._quantizer(quantizer)), after

    def stack(self, codes):
        return self._emit("stack", *codes)

    def product(self, codes, quantizer, weight):
        if not isinstance(weight, torch.Tensor):
            self.fail("its weight is an argument of forward; give the layer a weight of its own.")
        spec = self._weight(quantizer, weight)
        return self._each(lambda part: self._emit("linear", part, weight=spec), codes)

    def products(self, codes, quantizer, weights):
        parts, width, out = weights.shape
        together = weights.transpose(0, 1).reshape(width, parts * out)
        chosen = (slice(part * out, (part + 1) * out) for part in range(parts))
        return tuple(self._emit("linear", codes, weight=self._weight(quantizer, together, part)) for part in chosen)

    def _weight(self, quantizer, weight, columns=slice(None)):
        if quantizer.format.is_float:
            self.fail("its weights are float32 (32 bits); packed inference needs 8 bits or fewer.")
        spec, weight = quantizer.export(), weight.detach()
        codes, bits = quantizer.codes(weight)[:, columns].t().cpu().numpy(), quantizer.format.storage_bits
        M, K = codes.shape
        numbers = {key: spec[key][columns] if len(spec[key]) > 1 else spec[key] for key in ("scale", "zero_point")}
        return {
            "bits": bits,
            "shape": [K, M],
            "codes": self._store(pack(np.ascontiguousarray(codes), bits, dense_bytes(K, bits))),
            **{key: self._numbers(value) for key, value in numbers.items()},
        }

    def aggregate(self, graph, codes, edge_weight=None, self_codes=None):
        return self._emit("aggregate", graph, codes, edge_weight, self_codes)

    def maximum(self, graph, codes, edge_weight=None):
        self._refuse_powers(codes)
        return self._emit("aggregate", graph, codes, edge_weight, None, reduce="max")

    def reduce(self, graph, codes, edge_weight, reducer, scaled=True):
        self.fail("its aggregator is a recurrent network (lstm); mean, gcn and pool can be frozen.")

    def aggregate_edges(self, graph, codes, edge_codes):
        quantizer = next(op["quantizer"] for op in self.ops if op.get("out") == codes)
        zero = quantizer["zero_point"]
        self._refuse_powers(codes)
        twice = 2 * np.float64(self.arrays[zero] if isinstance(zero, str) else zero)
        if (twice != np.rint(twice)).any():
            self.fail("sums with edge features need zero points of whole halves; use quantizer='qlr'.")
        return self._emit("aggregate_edges", graph, codes, edge_codes)

    def _refuse_powers(self, *codes):
        makers = [op for op in self.ops if op.get("out") in codes]
        if any(op["quantizer"]["granularity"] == "shift" for op in makers):
            self.fail("granularity 'shift' serves plain sums over neighbours; use 'channel' or 'tensor' here.")

    def edges_by_type(self, graph, edge_types, count):
        return self._emit("edges_by_type", graph, edge_types, count=count)

    def normed(self, graph, edge_weight):
        return None if edge_weight is None else self._emit("edge_norm", graph, edge_weight)

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
        return self._emit("head_sums", x, heads=heads, vector=self._numbers(vector.detach().cpu().numpy()))

    def attention(self, graph, left, right, vector, slope, quantizer, drop, edge_weight=None):
        if edge_weight is not None:
            self.fail("attention times edge weights has no packed form; call it without edge_weight.")
        heads = vector.shape[-2]
        spec = self._quantizer(quantizer)["quantizer"]
        if spec.get("zero_point") != 0:
            self.fail("attention is coded from 0 on; use grid='auto' or 'affine'.")
        self._refuse_powers(left, right)
        vector = self._numbers(vector.detach().cpu().numpy())
        return {"left": left, "right": right, "heads": heads, "vector": vector, "slope": slope, "quantizer": spec}

    def attend(self, graph, codes, attention):
        self._refuse_powers(codes)
        left, right = attention["left"], attention["right"]
        spec = {key: attention[key] for key in ("heads", "slope", "vector", "quantizer")}
        return self._emit("attend", graph, codes, left, right, **spec)

    def split_heads(self, x, heads):
        self.heads[x] = heads
        return x

    def merge_heads(self, x):
        """(rows, heads, D) as (rows, heads · D)."""
        return self.combine((1, x), heads=0) if x in self.heads else x

    def head_mean(self, x):
        return self._emit("head_mean", x, heads=self.heads[x])

    # -- others -----------------------------------------------------------------------------------------
    def relation(self, graph, etype):
        return self._emit("relation", graph, etype=list(etype))

    def readout(self, graph, x, reduce):
        return self._emit("readout", graph, x, reduce=reduce)

    def check_in_degrees(self, graph):
        self.ops.append({"op": "check_in_degrees", "in": [graph]})

    def scale_by_degree(self, x, graph, side, power, plus=0, unless=None):
        inputs = [x, graph] if unless is None else [x, graph, unless]
        return self._emit("degree", *inputs, side=side, power=power, plus=plus)

    # -- element by element -----------------------------------------------------------------------------
    def bias(self, x, bias):
        return x if bias is None else self._emit("bias", x, bias=self._numbers(bias.detach().cpu().numpy()))

    def affine(self, x, scale, bias):
        """scale · x + bias, per column."""
        return self.bias(self._emit("scale", x, scale=self._numbers(scale.detach().cpu().numpy())), bias)

    def relu(self, x):
        return self._alike("relu", x)

    def map(self, x, function, parameter=0.0):
        """One of :data:`numba_kernels.plan.MAPS`."""
        if function in ROW_FUNCTIONS and x in self.heads:
            self.fail(f"{function} of an array of three dimensions has no packed form.")
        self.float_parts.append(f"{self._where or 'forward'}: {function}")
        return self._alike("map", x, function=function, parameter=float(parameter))

    def activate(self, x, activation):
        if activation is None:
            return x
        if activation in _ACTIVATIONS:
            return _ACTIVATIONS[activation](self, x)
        if isinstance(activation, nn.Module):
            return self.call(activation, x)
        name = getattr(activation, "__name__", type(activation).__name__)
        known = ", ".join(
            sorted({function.__name__ for function in _ACTIVATIONS if not function.__name__.endswith("_")})
        )
        return self.fail(f"{name} has no packed form; these have: {known}.")

    def call(self, module, x):
        return self.walk(self, module, x)

    def concatenate(self, parts):
        if any(part in self.heads for part in parts):
            self.fail("values of three dimensions cannot be put side by side; flatten them first.")
        return self._emit("concat", *parts)

    def larger(self, *values):
        """The largest of several values, number by number."""
        return self._alike("maximum", *values)

    def combine(self, *terms, heads=None):
        numbers = [(c.item() if isinstance(c, torch.Tensor) else float(c), x) for c, x in terms]
        terms = [(c, x) for c, x in numbers if c != 0]
        return self._alike("combine", *(x for _, x in terms), heads=heads, coefficients=[c for c, _ in terms])

    def _alike(self, op, *values, heads=None, **attributes):
        """Emit an operation whose result has the shape of what it reads."""
        shapes = {self.heads.get(value, 0) for value in values}
        if len(shapes) > 1:
            self.fail("values of two and of three dimensions meet; flatten the latter first.")
        out = self._emit(op, *values, **attributes)
        heads = shapes.pop() if heads is None else heads
        if heads:
            self.heads[out] = heads
        return out
