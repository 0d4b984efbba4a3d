"""Writes the plan of a packed model from the statements of low-bit layers."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from numba_kernels import Plan, pack
from numba_kernels.layout import dense_bytes

_RELU = (F.relu, torch.relu, torch.nn.functional.relu_, torch.relu_)


class FreezeError(ValueError):
    """A model, or a part of it, that has no packed form."""


class Recorder:
    """The operations of :class:`dgl_lowbit.nn.ops.TorchOps`, written down instead of run.

    Values are numbers of plan values. ``layer`` is the name and module being recorded, for messages and for the
    widths of its operands.
    """

    def __init__(self):
        self.inputs, self.ops, self.arrays = [], [], {}
        self.pairs = set()  # values that are features as given, and may be pairs
        self._next = 0
        self._operands, self._where = {}, ""

    # -- bookkeeping ------------------------------------------------------------------------------------
    def input(self, name: str, kind: str, optional: bool = False) -> int:
        value = self._new()
        self.inputs.append({"name": name, "kind": kind, "value": value, "optional": optional})
        if kind == "features":
            self.pairs.add(value)
        return value

    def layer(self, name: str, layer: nn.Module, bound):
        """Record ``layer``, called ``name`` in the model, on the bound arguments of its forward."""
        self._where = f"{name or 'the model'} ({type(layer).__name__})"
        operands = layer.all_operands()
        self._operands = {id(q): (key, operands[key]) for key, q in layer.quantizers.items()}
        if getattr(layer, "_allow_zero_in_degree", True) is False:
            self.check_in_degrees(bound.arguments["graph"])
        return self._under_bound(layer, bound, layer.compute(self, *bound.args, **bound.kwargs))

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

    def plan(self, outputs: list, returns_tuple: bool) -> Plan:
        return Plan(self.inputs, self.ops, outputs, self.arrays, returns_tuple)

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
        name, operand = self._operands[id(quantizer)]
        if quantizer.format.is_float:
            self.fail(f"its {name} are float32 (32 bits); packed inference needs 8 bits or fewer.")
        spec = quantizer.export()
        for key in ("scale", "zero_point", "offset"):
            if key in spec:
                spec[key] = self._numbers(spec[key])
        return {"quantizer": spec, "columns": operand.channels}

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
        return self._emit("dequantize", codes)

    def requantize(self, quantizer, x):
        return x if quantizer.format.is_float else self.dequantize(self.quantize(quantizer, x))

    def delta_quantize(self, quantizer, x, state):
        after = self._new()
        return self._emit("delta", x, state, state=after, **self._quantizer(quantizer)), after

    def product(self, codes, quantizer, weight):
        if not isinstance(weight, torch.Tensor):
            self.fail("its weight is an argument of forward; give the layer a weight of its own.")
        spec = self._weight(quantizer, weight)
        return self._each(lambda part: self._emit("linear", part, weight=spec), codes)

    def _weight(self, quantizer, weight):
        if quantizer.format.is_float:
            self.fail("its weights are float32 (32 bits); packed inference needs 8 bits or fewer.")
        spec, weight = quantizer.export(), weight.detach()
        codes, bits = quantizer.codes(weight).t().cpu().numpy(), quantizer.format.storage_bits
        K, M = weight.shape
        return {
            "bits": bits,
            "shape": [K, M],
            "codes": self._store(pack(np.ascontiguousarray(codes), bits, dense_bytes(K, bits))),
            "scale": self._numbers(spec["scale"]),
            "zero_point": self._numbers(spec["zero_point"]),
        }

    def aggregate(self, graph, codes, edge_weight=None, self_codes=None):
        return self._emit("aggregate", graph, codes, edge_weight, self_codes)

    def maximum(self, graph, codes, edge_weight=None):
        self.fail("its aggregator takes a maximum; aggregators that can be frozen are mean and gcn.")

    def reduce(self, graph, codes, edge_weight, reducer, scaled=True):
        self.fail("its aggregator is a recurrent network; aggregators that can be frozen are mean and gcn.")

    def check_in_degrees(self, graph):
        self.ops.append({"op": "check_in_degrees", "in": [graph]})

    def scale_by_degree(self, x, graph, side, power, plus=0):
        return self._emit("degree", x, graph, side=side, power=power, plus=plus)

    def bias(self, x, bias):
        return x if bias is None else self._emit("bias", x, bias=self._numbers(bias.detach().cpu().numpy()))

    def activate(self, x, activation):
        if activation is None or isinstance(activation, (nn.Identity, nn.Dropout)):
            return x
        if activation in _RELU or isinstance(activation, nn.ReLU):
            return self._emit("relu", x)
        name = getattr(activation, "__name__", type(activation).__name__)
        return self.fail(f"{name} has no packed form; ReLU has.")

    def combine(self, *terms):
        terms = [(float(c), x) for c, x in terms if c != 0]
        return self._emit("combine", *(x for _, x in terms), coefficients=[c for c, _ in terms])
