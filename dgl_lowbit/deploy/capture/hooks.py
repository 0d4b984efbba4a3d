"""Where DGL and low-bit layers are met while a model is recorded."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import dgl
import torch
from dgl import DGLGraph
from dgl.base import is_all
from torch.overrides import handle_torch_function, has_torch_function

from ...nn import Linear, LowBitLayer
from ...nn.message_passing import FakeQuantise, handling
from ...nn.message_passing.calls import SITE_NAMES
from ...nn.ops import TorchOps
from ..errors import FreezeError
from . import made_graphs
from .mailboxes import Mailbox, reduced

_lock = threading.RLock()
# The same edges in another guise.
_ALIASES = ("to", "int", "long", "cpu", "local_var", "clone", "formats")


@contextmanager
def recorded_calls(capture: Any, names: dict[int, str]) -> Iterator[None]:
    """Record on ``capture`` what DGL computes and what low-bit layers do; ``names`` are theirs by identity."""
    captures = [capture]
    with _lock, ExitStack() as stack:
        for owner, name, wrap in _places(captures, names):
            _replace(stack, owner, name, wrap(getattr(owner, name)))
        stack.enter_context(handling(_Recording(captures)))
        yield


@contextmanager
def noted_calls(note: Callable) -> Iterator[None]:
    """Tell ``note`` of each call of a low-bit layer that is not within another: the layer, its args and kwargs."""
    original, depth = LowBitLayer.__call__, [0]

    def layer_call(layer, *args, **kwargs):
        if not depth[0]:
            note(layer, args, kwargs)
        depth[0] += 1
        try:
            return original(layer, *args, **kwargs)
        finally:
            depth[0] -= 1

    with _lock, ExitStack() as stack:
        _replace(stack, LowBitLayer, "__call__", layer_call)
        yield


def _replace(stack, owner, name, function):
    """Let ``function`` stand for an attribute in this thread until ``stack`` unwinds."""
    original, here = getattr(owner, name), threading.get_ident()
    run = function.__func__ if isinstance(function, staticmethod) else function

    @functools.wraps(original)
    def dispatch(*args, **kwargs):
        return (run if threading.get_ident() == here else original)(*args, **kwargs)

    if name in vars(owner):
        stack.callback(setattr, owner, name, vars(owner)[name])
    else:
        stack.callback(delattr, owner, name)
    setattr(owner, name, staticmethod(dispatch) if isinstance(function, staticmethod) else dispatch)


def _places(captures, names):
    for name in _ALIASES:
        yield DGLGraph, name, functools.partial(_alias, captures)
    yield DGLGraph, "__getitem__", functools.partial(_relation, captures)
    for name in ("in_degrees", "out_degrees"):
        yield DGLGraph, name, functools.partial(_degrees, captures, name)
    yield DGLGraph, "all_edges", functools.partial(_edges, captures)
    yield DGLGraph, "find_edges", functools.partial(_find_edges, captures)
    yield DGLGraph, "batch_num_nodes", functools.partial(_batch, captures, "batch_num_nodes")
    yield DGLGraph, "batch_num_edges", functools.partial(_batch, captures, "batch_num_edges")
    yield from made_graphs.places(captures)
    yield LowBitLayer, "__call__", functools.partial(_layer, captures, names)
    yield TorchOps, "kept", lambda original: staticmethod(lambda holder, name, make: make())
    for name in ("call", "activate"):
        yield TorchOps, name, functools.partial(_inside, captures, name)
    for name in ("__getitem__", "__setitem__"):
        yield torch.Tensor, name, _indexing


def _indexing(original):
    """Indexing that modes are told of: torch 2.2 does not tell them."""

    def index(tensor, *args):
        if has_torch_function((tensor,)):
            return handle_torch_function(original, (tensor,), tensor, *args)
        return original(tensor, *args)

    return index


# -- graphs ---------------------------------------------------------------------------------------------
def _alias(captures, original):
    def same(graph, *args, **kwargs):
        result, capture = original(graph, *args, **kwargs), captures[-1]
        if isinstance(result, DGLGraph) and capture.knows(graph):  # formats() asks
            capture.also(graph, result)
        return result

    return same


def _relation(captures, original):
    def relation(graph, key):
        capture = captures[-1]
        if capture.depth or not capture.knows(graph):
            return original(graph, key)
        result = original(graph, key)
        if len(result.canonical_etypes) != 1:
            raise FreezeError(f"graph[{key!r}] chooses several edge types; choose one at a time.")
        if len(graph.canonical_etypes) == 1:
            capture.also(graph, result)
            return result
        etype = graph.to_canonical_etype(
            key if not isinstance(key, tuple) or slice(None) not in key else result.etypes[0]
        )
        return capture.call("relation", lambda: result, (graph, list(etype)), {})

    return relation


def _degrees(captures, name, original):
    def degrees(graph, nodes=dgl.base.ALL, etype=None):
        capture = captures[-1]
        if capture.depth or not capture.knows(graph):
            return original(graph, nodes, etype)
        graph = graph if etype is None else graph[etype]
        args = (graph,) if is_all(nodes) else (graph, nodes)
        return capture.call(name, lambda: original(graph, nodes), args, {})

    return degrees


def _edges(captures, original):
    def edges(graph, form="uv", order="eid", etype=None):
        capture = captures[-1]
        if capture.depth or not capture.knows(graph):
            return original(graph, form, order, etype)
        graph = graph if etype is None else graph[etype]
        return capture.call("edges", lambda: original(graph, form, order), (graph, form, order), {})

    return edges


def _find_edges(captures, original):
    def find_edges(graph, eid, etype=None):
        capture = captures[-1]
        if capture.depth or not capture.knows(graph) or not isinstance(eid, torch.Tensor):
            return original(graph, eid, etype)
        source, destination = graph.all_edges(form="uv", order="eid", etype=etype)
        return source[eid.long()], destination[eid.long()]

    return find_edges


def _batch(captures, name, original):
    def sizes(graph, type_=None):
        capture = captures[-1]
        if capture.depth or not capture.knows(graph):
            return original(graph, type_)
        return capture.call(name, lambda: original(graph, type_), (graph, type_), {})

    return sizes


# -- message passing ------------------------------------------------------------------------------------
class _Recording(FakeQuantise):
    """Records the calls that :class:`FakeQuantise` runs."""

    def __init__(self, captures):
        self.captures = captures

    def record(self, call, run):
        """Record ``run(call)``."""
        capture = self.captures[-1]
        if capture.depth:
            return run(call)
        if call.kind == "udf_reduce":
            return reduced(capture, call, lambda: run(call))
        graph = None if call.graph is None else capture.index(call.graph)
        more = [call.details[name] for name in _TENSORS.get(call.kind, ())]
        return capture.call(call.kind, lambda: run(call), (graph, *call.operands, *more), {}, owner=call)


def _recorded(kind):
    run = getattr(FakeQuantise, kind)
    return lambda self, call: self.record(call, functools.partial(run, self))


# What calls read besides their operands.
_TENSORS = {"segment_reduce": ("offsets",), "segment_mm": ("seglen",), "gather_mm": ("rows", "types")}
for _kind in SITE_NAMES:
    setattr(_Recording, _kind, _recorded(_kind))


# -- layers ---------------------------------------------------------------------------------------------
def _layer(captures, names, original):
    def layer_call(layer, *args, **kwargs):
        capture = captures[-1]
        if capture.depth or not layer.is_low_bit or id(layer) not in names:
            return original(layer, *args, **kwargs)
        if args and isinstance(args[0], Mailbox) and isinstance(layer, Linear):
            return Mailbox(layer(args[0].rows), args[0].graph)
        return capture.call(
            "layer", lambda: original(layer, *args, **kwargs), args, kwargs, owner=(names[id(layer)], layer)
        )

    return layer_call


def _inside(captures, name, original):
    """What a layer applies to a tensor, a module or a function, recorded by itself."""

    def apply(*args):
        *_, x, function = args if name == "activate" else (args[-1], args[-2])
        if function is None or not captures[-1].depth:
            return original(*args)
        inner = captures[-1].inside(x)
        captures.append(inner)
        try:
            with inner:
                result = function(x)
        finally:
            captures.pop()
        inner.recording.output = inner.references(result)
        captures[-1].applied.append(inner.recording)
        return result

    return staticmethod(apply)
