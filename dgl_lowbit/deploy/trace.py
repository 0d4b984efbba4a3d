"""Traces a model's forward and records what its layers and operations compute."""

from __future__ import annotations

import inspect
import itertools
import operator
import traceback
from pathlib import Path

import dgl
import torch
import torch.nn.functional as F
from torch import fx, nn

from .. import nn as lowbit_nn
from .recorder import FreezeError

FREEZABLE = "GraphConv, SAGEConv (mean, gcn), SMPConv, Linear, ReLU, Dropout, Identity, sums and multiples of features"
# What the arguments of a layer's forward are, by their names; others are features.
ARGUMENT_KINDS = {"graph": "graph", "edge_weight": "edge_weight"}
_MOST_BLOCKS = 1000
_LIBRARIES = tuple(str(Path(inspect.getfile(module)).parent) for module in (torch, dgl))


class _Tracer(fx.Tracer):
    """Traces with low-bit and DGL layers as leaves, and through loops over a list of blocks."""

    def __init__(self):
        super().__init__()
        self.record_stack_traces = True

    def is_leaf_module(self, m, module_qualified_name):
        is_dgl = type(m).__module__.startswith("dgl.")
        return isinstance(m, lowbit_nn.LowBitLayer) or is_dgl or super().is_leaf_module(m, module_qualified_name)

    def iter(self, obj):
        def items():
            for index in itertools.count():
                if index == _MOST_BLOCKS:
                    raise FreezeError(
                        "a loop over an argument does not end when traced; loop over the layers, as in "
                        "zip(self.layers, blocks)."
                    )
                yield obj[index]

        return items()


class Walk:
    """Walks the trace of ``model`` in order and records what each node computes; ``outputs`` are the values returned.

    ``absent`` names an argument that is None throughout.
    """

    def __init__(self, recorder, model, absent=None):
        self.recorder, self.absent = recorder, absent
        self.modules = dict(model.named_modules())
        self.graph = _trace(model, absent)
        self.order = {node: place for place, node in enumerate(self.graph.nodes)}
        self.kinds = self._placeholder_kinds()
        self.values = {}
        for node in self.graph.nodes:
            if node.op == "output":
                self.outputs = self._output(node)
            elif node.target is not fx._symbolic_trace._assert_is_none:
                self._refuse_mutation(node)
                self.values[node] = getattr(self, f"_{node.op}")(node)

    # -- what the arguments of forward are --------------------------------------------------------------
    def _placeholder_kinds(self):
        kinds = {}
        for node in self.graph.nodes:
            layer = self.modules.get(node.target) if node.op == "call_module" else None
            if isinstance(layer, lowbit_nn.LowBitLayer):
                for name, argument in self._bind(layer, node).arguments.items():
                    if name in ARGUMENT_KINDS and isinstance(argument, fx.Node):
                        root = argument
                        while root.op == "call_function" and root.target is operator.getitem:
                            root = root.args[0]
                        kinds[root] = ARGUMENT_KINDS[name]
        return kinds

    @staticmethod
    def _bind(layer, node):
        return inspect.signature(layer.forward).bind(*node.args, **node.kwargs)

    def _placeholder(self, node):
        if node.target.startswith("*"):
            self._fail(node, f"a forward with {node.target}")
        name = self.absent if node.target == f"{self.absent}_1" else node.target
        kind = self.kinds.get(node, "features") if node.users else "unused"
        return self.recorder.input(name, kind, optional=bool(node.args) and node.args[0] is None)

    # -- nodes ------------------------------------------------------------------------------------------
    def _call_module(self, node):
        module = self.modules[node.target]
        if isinstance(module, lowbit_nn.LowBitLayer) and module.is_low_bit:
            bound = self._bind(module, node)
            bound.arguments = {name: self._value(argument) for name, argument in bound.arguments.items()}
            return self.recorder.layer(node.target, module, bound)
        if isinstance(module, (nn.Dropout, nn.Identity)):
            return self._value(node.args[0])
        if isinstance(module, nn.ReLU):
            return self.recorder.activate(self._float(node, node.args[0]), F.relu)
        return self._fail(node, f"{node.target} ({type(module).__name__})")

    def _call_function(self, node):
        return self._call(node, _FUNCTIONS.get(node.target), getattr(node.target, "__name__", str(node.target)))

    def _call_method(self, node):
        return self._call(node, _METHODS.get(node.target), f"the method .{node.target}()")

    def _call(self, node, record, name):
        try:
            result = None if record is None else record(self, node, *node.args, **node.kwargs)
        except TypeError:  # options that have no packed form
            result = None
        return self._fail(node, name) if result is None else result

    def _get_attr(self, node):
        return self._fail(node, f"the attribute {node.target}")

    def _output(self, node):
        value = self._value(node.args[0])
        given = {entry["value"] for entry in self.recorder.inputs}
        for part in value if isinstance(value, (tuple, list)) else [value]:
            if not isinstance(part, int) or isinstance(part, bool):
                returned = type(part).__name__.replace("immutable_", "")
                self._fail(node, f"a forward that returns a {returned}, not a tensor or a tuple of tensors,")
            if part in given:
                self._fail(node, "a forward that returns an argument of its own")
        return value

    def _refuse_mutation(self, node):
        """An operation in place stands for its result only where what it changes is not read any more."""
        module = self.modules.get(node.target) if node.op == "call_module" else None
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        in_place = (
            (node.op in ("call_function", "call_method") and name.endswith("_") and not name.endswith("__"))
            or node.target in (operator.iadd, operator.isub, operator.imul, operator.setitem)
            or node.kwargs.get("inplace")
            or (node.target is F.relu and True in node.args[1:])
            or getattr(module, "inplace", False)
        )
        changed = node.args[0] if in_place and node.args else None
        if isinstance(changed, fx.Node) and any(self.order[user] > self.order[node] for user in changed.users):
            self._fail(node, f"{name}, which changes in place what is read again later,")
        if in_place and not node.users:
            self._fail(node, f"{name}, which changes its argument in place and whose result is not used,")

    # -- helpers ----------------------------------------------------------------------------------------
    def _value(self, argument):
        return fx.node.map_arg(argument, self.values.__getitem__)

    def _float(self, node, argument):
        value = self._value(argument)
        if not isinstance(argument, fx.Node) or self.kinds.get(argument) is not None or not isinstance(value, int):
            self._fail(node, "an operation on something other than features")
        return value

    def _sum(self, node, *terms):
        """Σ coefficient · term, where a term that is the number 0 is left out."""
        terms = [(c, x) for c, x in terms if not (isinstance(x, (int, float)) and x == 0)]
        return self.recorder.combine(*((c, self._float(node, x)) for c, x in terms))

    def _multiply(self, node, x, y):
        if isinstance(x, (int, float)):
            x, y = y, x
        return self._sum(node, (y, x)) if isinstance(y, (int, float)) and y != 0 else None

    def _item(self, node, x, index):
        if isinstance(index, int) and self.kinds.get(x) == "graph":
            return self.recorder.item(self._value(x), index)
        if isinstance(index, slice) and isinstance(self._value(index.stop), _DestinationRows):
            return self.recorder.destination(self._float(node, x), self._value(index.stop).graph)
        return None

    def _destination_rows(self, node, graph):
        return _DestinationRows(self._value(graph))

    def _fail(self, node, what):
        raise FreezeError(f"{what} cannot be frozen{_line(node)}; these can: {FREEZABLE}.")


class _DestinationRows:
    """The number of destination nodes of a graph, as an index."""

    def __init__(self, graph):
        self.graph = graph


def _relu(walk, node, x, inplace=False):
    return walk.recorder.activate(walk._float(node, x), F.relu)


def _dropout(walk, node, x, p=0.5, training=True, inplace=False):
    if training:
        walk._fail(node, "dropout that is active in evaluation (pass training=self.training)")
    return walk._value(x)


def _add(walk, node, x, y):
    return walk._sum(node, (1, x), (1, y))


def _subtract(walk, node, x, y):
    return walk._sum(node, (1, x), (-1, y))


_FUNCTIONS = {
    F.relu: _relu,
    torch.relu: _relu,
    torch.relu_: _relu,
    F.dropout: _dropout,
    torch.dropout: _dropout,
    operator.add: _add,
    operator.iadd: _add,
    torch.add: _add,
    operator.sub: _subtract,
    operator.isub: _subtract,
    torch.sub: _subtract,
    operator.mul: Walk._multiply,
    operator.imul: Walk._multiply,
    torch.mul: Walk._multiply,
    operator.getitem: Walk._item,
}
_METHODS = {
    "relu": _relu,
    "relu_": _relu,
    "add": _add,
    "add_": _add,
    "sub": _subtract,
    "mul": Walk._multiply,
    "num_dst_nodes": Walk._destination_rows,
    "number_of_dst_nodes": Walk._destination_rows,
}


def _trace(model, absent=None):
    try:
        return _Tracer().trace(model, None if absent is None else {absent: None})
    except FreezeError:
        raise
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_LIBRARIES)]
        own = [f for f in frames if Path(f.filename) != Path(__file__)]
        where = f" at {own[-1].filename}:{own[-1].lineno} ({own[-1].line})" if own else ""
        raise FreezeError(
            f"{type(model).__name__}.forward cannot be traced{where}: {error} "
            "Its course may not depend on the values of graphs or features."
        ) from error


def _line(node):
    """Where in the user's code a node comes from, as " at file:line (code)"."""
    lines = (node.stack_trace or "").strip().splitlines()
    for place, code in zip(reversed(lines[:-1]), reversed(lines[1:])):
        if place.strip().startswith("File ") and not any(library in place for library in _LIBRARIES):
            file, number = place.strip()[len('File "') :].split('", line ')
            return f" at {file}:{number.split(',')[0]} ({code.strip()})"
    return ""
