"""Traces a model's forward and records what its layers and operations compute."""

from __future__ import annotations

import functools
import inspect
import itertools
import operator
import traceback
from pathlib import Path

import dgl
import dgl.nn
import torch
import torch.nn.functional as F
from torch import fx, nn

from .. import nn as lowbit_nn
from ..nn.arguments import Role
from ..nn.base import LAYERS
from ..nn.message_passing import own_class
from .functions import FUNCTIONS, GRAPH_MODULES, METHODS, MODULES, destination, relation
from .recorder import FreezeError
from .values import Value

_MOST_BLOCKS = 1000
_LIBRARIES = tuple(str(Path(inspect.getfile(module)).parent) for module in (torch, dgl))
_DICT_METHODS = ("items", "keys", "values")


def freezable() -> str:
    """Names of what a packed model runs, comma-separated."""
    names = [cls.__name__ for cls in MODULES] + [cls.__name__ for cls in LAYERS]
    return ", ".join(sorted({*names, "SMPConv", "DeepGraphConv", "HeteroGraphConv"}))


class _Tracer(fx.Tracer):
    """Traces with low-bit and DGL layers as leaves, and through loops over blocks and over node types.

    ``types`` are the canonical edge types of heterogeneous graphs.
    """

    def __init__(self, types=None):
        super().__init__()
        self.record_stack_traces = True
        self.types = types

    def is_leaf_module(self, m, module_qualified_name):
        is_dgl = type(m).__module__.startswith("dgl.")
        return isinstance(m, lowbit_nn.LowBitLayer) or is_dgl or super().is_leaf_module(m, module_qualified_name)

    def iter(self, obj):
        node = obj.node
        if node.op == "call_method" and node.target in _DICT_METHODS:
            return iter(self._entries(fx.Proxy(node.args[0], self), node.target))

        def items():
            for index in itertools.count():
                if index == _MOST_BLOCKS:
                    raise FreezeError(
                        "a loop over an argument does not end when traced; loop over the layers, as in "
                        "zip(self.layers, blocks)."
                    )
                yield obj[index]

        return items()

    def _entries(self, features, what):
        if self.types is None:
            raise FreezeError("features by node type are read in a loop; name the types: freeze(model, graph=graph).")
        names = sorted({name for source, _, target in self.types for name in (source, target)})
        choose = {"items": lambda name: (name, features[name]), "keys": str, "values": features.__getitem__}[what]
        return [choose(name) for name in names]

    def call_module(self, m, forward, args, kwargs):
        if not isinstance(m, dgl.nn.HeteroGraphConv):
            return super().call_module(m, forward, args, kwargs)
        if self.types is None:
            raise FreezeError(
                "HeteroGraphConv depends on the graph's edge types; pass one: freeze(model, graph=graph)."
            )
        return self._convolve_by_type(m, *args, **kwargs)

    def _convolve_by_type(self, module, g, inputs, mod_args=None, mod_kwargs=None):
        """What HeteroGraphConv's forward does, on the types of the graph at hand."""
        sources, destinations = inputs if isinstance(inputs, tuple) else (inputs, inputs)
        outputs = {}
        for etype in self.types:
            source, name, target = etype
            if not (_has(sources, source) and _has(destinations, target)):
                continue
            edges = self.create_proxy("call_function", relation, (g, etype), {})
            own = self.create_proxy("call_function", destination, (destinations[target], edges), {})
            own = destinations[target] if isinstance(inputs, tuple) else own
            more, named = (mod_args or {}).get(name, ()), (mod_kwargs or {}).get(name, {})
            result = module._get_module(etype)(edges, (sources[source], own), *more, **named)
            outputs.setdefault(target, []).append(result)
        return {name: _combine_types(module.agg_fn, parts, name) for name, parts in outputs.items()}


def _has(features, name):
    return isinstance(features, fx.Proxy) or name in features


def _combine_types(aggregate, parts, name):
    """What ``aggregate`` of a HeteroGraphConv makes of several results."""
    reduce = getattr(getattr(aggregate, "keywords", {}).get("fn"), "__name__", None)
    if reduce in ("_sum_reduce_func", "_mean_reduce_func"):
        total = functools.reduce(operator.add, parts)
        return total / len(parts) if reduce == "_mean_reduce_func" else total
    if reduce == "_max_reduce_func":
        return functools.reduce(torch.maximum, parts)
    raise FreezeError("HeteroGraphConv's aggregate must be 'sum', 'mean' or 'max' to be frozen.")


class Walk:
    """Walks the trace of ``model`` in order and records what each node computes; ``outputs`` are the values returned.

    Parameters
    ----------
    recorder : Recorder
    model : torch.nn.Module
    absent : str, optional
        An argument that is None throughout.
    types : list of tuple of str, optional
        Canonical edge types of the graphs.
    values : list of Value, optional
        Recorded values that the arguments are. Default: they are the plan's inputs.
    """

    def __init__(self, recorder, model, absent=None, types=None, values=None):
        self.recorder, self.absent, self.given = recorder, absent, None if values is None else list(values)
        self.modules = dict(model.named_modules())
        self.graph = _trace(model, absent, types)
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
            if node.op != "call_module":
                continue
            layer = self.modules.get(node.target)
            is_ours = isinstance(layer, lowbit_nn.LowBitLayer)
            roles = layer.arguments if is_ours else GRAPH_MODULES.get(own_class(layer), {})
            for name, argument in self._bind(layer, node).arguments.items() if roles else ():
                if roles[name] not in (Role.FEATURES, Role.CHOICE) and isinstance(argument, fx.Node):
                    kinds[_root(argument)] = roles[name].value
        return kinds

    @staticmethod
    def _bind(layer, node):
        return inspect.signature(layer.forward).bind(*node.args, **node.kwargs)

    def _placeholder(self, node):
        if node.target.startswith("*"):
            self.fail(node, f"a forward with {node.target}")
        if self.given is not None:
            if not self.given:
                self.fail(node, f"a module of its own that takes {node.target} beside its input")
            return self.given.pop(0)
        name = self.absent if node.target == f"{self.absent}_1" else node.target
        kind = self.kinds.get(node, "features") if node.users else "unused"
        optional = bool(node.args) and node.args[0] is None
        keys = {
            user.args[1] for user in node.users if user.target is operator.getitem and isinstance(user.args[1], str)
        }
        if kind == "features" and keys:
            return {key: self.recorder.input(name, kind, optional, key) for key in sorted(keys)}
        return self.recorder.input(name, kind, optional)

    # -- nodes ------------------------------------------------------------------------------------------
    def _call_module(self, node):
        module = self.modules[node.target]
        if isinstance(module, lowbit_nn.LowBitLayer) and module.is_low_bit:
            bound = self._bind(module, node)
            bound.arguments = {name: self.value(argument) for name, argument in bound.arguments.items()}
            return self.recorder.layer(node.target, module, bound)
        record = MODULES.get(own_class(module))
        if record is None:
            return self.fail(node, f"{node.target} ({type(module).__name__})")
        return record(self, node, module, *node.args, **node.kwargs)

    def _call_function(self, node):
        return self._call(node, FUNCTIONS.get(node.target), getattr(node.target, "__name__", str(node.target)))

    def _call_method(self, node):
        if node.target in _DICT_METHODS and not node.users:  # its entries were read one by one
            return None
        return self._call(node, METHODS.get(node.target), f"the method .{node.target}()")

    def _call(self, node, record, name):
        try:
            result = None if record is None else record(self, node, *node.args, **node.kwargs)
        except TypeError:  # options that have no packed form
            result = None
        return self.fail(node, name) if result is None else result

    def _get_attr(self, node):
        return self.fail(node, f"the attribute {node.target}")

    def _output(self, node):
        value = self.value(node.args[0])
        if self.given is not None:
            return value
        given = {entry["value"] for entry in self.recorder.inputs}
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else [value]
        for part in parts:
            if not isinstance(part, Value):
                returned = type(part).__name__.replace("immutable_", "")
                self.fail(node, f"a forward that returns a {returned}, not a tensor or a tuple or dict of tensors,")
            if part.number in given:
                self.fail(node, "a forward that returns an argument of its own")
        return value

    def _refuse_mutation(self, node):
        """An operation in place stands for its result only where what it changes is not read any more."""
        module = self.modules.get(node.target) if node.op == "call_module" else None
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        in_place = (
            (node.op in ("call_function", "call_method") and name.endswith("_") and not name.endswith("__"))
            or node.target in (operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.setitem)
            or node.kwargs.get("inplace")
            or (node.target is F.relu and True in node.args[1:])
            or getattr(module, "inplace", False)
        )
        changed = node.args[0] if in_place and node.args else None
        if isinstance(changed, fx.Node) and any(self.order[user] > self.order[node] for user in changed.users):
            self.fail(node, f"{name}, which changes in place what is read again later,")
        if in_place and not node.users:
            self.fail(node, f"{name}, which changes its argument in place and whose result is not used,")

    # -- for the entries of functions.py ----------------------------------------------------------------
    def value(self, argument):
        """What was recorded for an argument of a call, or for the nodes in it."""
        return fx.node.map_arg(argument, self.values.__getitem__)

    def floats(self, node, argument):
        """The float value that was recorded for an argument."""
        value = self.value(argument)
        if not isinstance(value, Value) or value.kind not in ("features", "float"):
            self.fail(node, "an operation on something other than features")
        return value

    def matrix(self, node, argument):
        """The float value of two dimensions that was recorded for an argument."""
        value = self.floats(node, argument)
        if value.heads:
            self.fail(node, "an operation on rows of three dimensions; flatten them first: it")
        return value

    def sum(self, node, *terms):
        """Σ coefficient · term, where a term that is the number 0 is left out."""
        terms = [(c, x) for c, x in terms if not (isinstance(x, (int, float)) and x == 0)]
        return self.recorder.combine(*((c, self.floats(node, x)) for c, x in terms))

    def fail(self, node, what):
        raise FreezeError(f"{what} cannot be frozen{_line(node)}; these can: {freezable()}.")


def walk_inside(recorder, module, x):
    """Record a module whose forward is ordinary Python, on one value."""
    holder = _Holder(module)
    return Walk(recorder, holder, values=[x]).outputs


class _Holder(nn.Module):
    """Calls a module, so that it is a node of the trace."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


def _root(node):
    """The argument of forward that a graph comes from: itself, or a list or heterogeneous graph it is part of."""
    while node.op == "call_function" and node.target in (operator.getitem, relation):
        node = node.args[0]
    return node


def _trace(model, absent=None, types=None):
    try:
        return _Tracer(types).trace(model, None if absent is None else {absent: None})
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
        if place.strip().startswith("File ") and not any(library in place for library in (*_LIBRARIES, __file__)):
            file, number = place.strip()[len('File "') :].split('", line ')
            return f" at {file}:{number.split(',')[0]} ({code.strip()})"
    return ""
