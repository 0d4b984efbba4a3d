"""Runs a model once and records what it computes.

What is recorded are torch functions, DGL's message passing and what it says of graphs; a low-bit layer is one call.
Everything else that Python does in forward simply happens. Tensors are followed by identity, through frames of graphs,
attributes, lists and dicts, and through operations in place.
"""

from __future__ import annotations

import weakref
from typing import Any

import dgl
import torch
from torch import nn
from torch.overrides import TorchFunctionMode, resolve_name

from ...nn.message_passing.last_call import with_own_frames
from ..errors import FreezeError
from .arguments import graphs_of_modules, named_arguments
from .composed import COMPOSED, recorded
from .hooks import noted_calls, recorded_calls
from .lines import LIBRARIES, caller, line
from .mailboxes import boxes_in, by_edge
from .recording import Call, GraphRef, Input, Recording, TensorRef, leaves, mapped

# They say something of a tensor, and make none.
_QUESTIONS = {
    *("size", "dim", "ndimension", "numel", "nelement", "stride", "element_size", "is_floating_point", "is_complex"),
    *(
        "__len__",
        "get_device",
        "data_ptr",
        "is_contiguous",
        "requires_grad_",
        "__format__",
        "__repr__",
        "storage_offset",
    ),
    *("is_signed", "is_pinned", "is_set_to", "untyped_storage", "has_names", "is_tensor", "is_same_size"),
}
# Of these, what gives one number: if it follows from the graph alone, runs on other graphs are held to it.
_NUMBERS = {"__bool__", "__int__", "__float__", "__index__", "item"}
# They hand numbers to Python, where nothing can follow them.
_TO_PYTHON = {
    *("item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "__array__", "equal", "allclose"),
    *("is_nonzero", "__contains__", "__complex__", "__dlpack__"),
}


def record(model: nn.Module, args: tuple, kwargs: dict) -> tuple[Recording, Any]:
    """The recording of ``model(*args, **kwargs)``, run without gradients, and what it returned.

    Raises
    ------
    FreezeError
        Names the line that hands numbers to Python, draws random numbers, or changes what is read under another name.
    """
    capture = Capture()
    args, kwargs = with_own_frames((args, kwargs))
    arguments = named_arguments(model, args, kwargs)
    capture.declare(arguments + graphs_of_modules(model))
    names = {id(module): name for name, module in model.named_modules()}
    with torch.no_grad(), recorded_calls(capture, names), capture:
        output = model(*args, **kwargs)
    capture.recording.output = capture.references(output)
    return capture.recording, output


@torch.no_grad()
def layer_calls(model: nn.Module, args: tuple, kwargs: dict) -> dict[str, tuple[tuple, dict]]:
    """What the outermost low-bit layers of ``model`` are first called with when it is, by their names."""
    names = {id(module): name for name, module in model.named_modules()}
    calls: dict[str, tuple[tuple, dict]] = {}
    with noted_calls(lambda layer, *given: calls.setdefault(names[id(layer)], given)):
        model(*args, **kwargs)
    return calls


class Capture(TorchFunctionMode):
    """Records calls while it is entered."""

    def __init__(self):
        super().__init__()
        self.recording = Recording()
        self.depth = 0  # of calls that are recorded whole
        self._known: dict[int, TensorRef] = {}  # by the identity of tensors
        self._graphs: dict[int, GraphRef] = {}  # by the identity of their indices
        self._alive: list[Any] = []  # arguments, so that identities stay theirs
        self._made: dict[int, weakref.ref] = {}  # what calls returned, forgotten when nothing else holds it
        self._storages: dict[int, set[int]] = {}  # identities of what shows the same memory
        self._stale: set[int] = set()  # tensors that were changed under another name
        self._data: set[int] = set()  # numbers of what depends on arguments
        self._fed: set[int] = set()  # of these what depends on more than graphs
        self._unread: dict[int, tuple] = {}  # arguments by identity
        self._count = 0
        self.applied: list[Recording] = []  # of what the layer that is being called applies

    def inside(self, x: torch.Tensor) -> Capture:
        """A capture for what is done to ``x`` within a call."""
        inner = Capture()
        inner.declare([(("x",), x)])
        return inner

    # -- what is known ----------------------------------------------------------------------------------
    def declare(self, found: list[tuple[tuple, Any]]) -> None:
        """Make known what a forward may read, by its path."""
        graphs = [(path, value) for path, value in found if isinstance(value, dgl.DGLGraph)]
        for path, value in found:
            if not isinstance(value, dgl.DGLGraph) and id(value) not in self._unread:
                self._unread[id(value)] = path
                self._alive.append(value)
        for path, graph in graphs:
            self._declare_graph(path, graph)

    def _declare_graph(self, path, graph):
        ref = self.graph(graph)
        if all(known.ref != ref for known in self.recording.inputs):
            self.recording.inputs.append(Input(path, ref))
            self.declare([((*path, "frame", *place), column) for place, column in frame_columns(graph)])

    def new(self, tensor: torch.Tensor, depends: bool, is_fed: bool = False) -> TensorRef:
        """A reference for a tensor that was just made or changed."""
        ref = self._known[id(tensor)] = TensorRef(self._count)
        self._count += 1
        self._follow(tensor)
        self.recording.shapes[ref.number], self.recording.dtypes[ref.number] = tensor.shape, tensor.dtype
        if depends:
            self._data.add(ref.number)
        if is_fed:
            self._fed.add(ref.number)
        return ref

    def _follow(self, tensor):
        """Know ``tensor`` by its identity for as long as it lives."""
        identity = id(tensor)
        names = set() if tensor.layout != torch.strided else self._storages.setdefault(_memory(tensor), set())
        names.add(identity)
        self._stale.discard(identity)

        def forget(_):
            names.discard(identity)
            self._stale.discard(identity)
            self._known.pop(identity, None)

        self._made[identity] = weakref.ref(tensor, forget)

    def tensor(self, tensor: torch.Tensor) -> TensorRef:
        """The reference of a tensor that is read."""
        if id(tensor) in self._stale:
            raise FreezeError(
                f"a tensor is read that was changed in place under another name (a view of it){line()}; write the "
                "operation so that it returns its result."
            )
        if id(tensor) not in self._known:
            path = self._unread.get(id(tensor))
            ref = self.new(tensor, path is not None, path is not None)
            if path is None:
                self._alive.append(tensor)
                self.recording.constants[ref.number] = tensor.detach().clone()
            else:
                self.recording.inputs.append(Input(path, ref))
        return self._known[id(tensor)]

    def graph(self, graph: dgl.DGLGraph) -> GraphRef:
        """The reference of a graph."""
        ref = self._graphs.get(id(graph._graph))
        if ref is None:
            ref = self._graphs[id(graph._graph)] = GraphRef(self._count)
            self._count += 1
            self._alive.append(graph)
            self.recording.graphs[ref.number] = graph
        return ref

    def knows(self, graph: dgl.DGLGraph) -> bool:
        """Whether ``graph`` is an argument, or follows from what is known."""
        return self.knows_index(graph._graph)

    def knows_index(self, index: Any) -> bool:
        """As :meth:`knows`, of the graph that has ``index`` inside."""
        return id(index) in self._graphs

    def also(self, graph: dgl.DGLGraph, other: dgl.DGLGraph) -> None:
        """``other`` is ``graph`` under another name."""
        self._graphs[id(other._graph)] = self._graphs[id(graph._graph)]
        self._alive.append(other)

    def index(self, index: Any) -> GraphRef:
        """The reference of the graph that has ``index`` inside."""
        if id(index) not in self._graphs:
            raise FreezeError(
                f"a graph that forward makes in a way that cannot be followed{line()}; make it outside and pass it as "
                "an argument."
            )
        return self._graphs[id(index)]

    def references(self, tree: Any) -> Any:
        """``tree`` with references for its tensors and graphs."""
        return mapped(tree, self._reference)

    def _reference(self, leaf):
        if isinstance(leaf, torch.Tensor):
            return self.tensor(leaf)
        return self.index(leaf._graph) if isinstance(leaf, dgl.DGLGraph) else leaf

    def depends(self, tree: Any, numbers: set[int] | None = None) -> bool:
        """Whether something in a tree of references follows from the arguments, or is among ``numbers``."""
        if numbers is not None:
            return any(getattr(leaf, "number", -1) in numbers for leaf in leaves(tree))
        return any(isinstance(leaf, GraphRef) or getattr(leaf, "number", -1) in self._data for leaf in leaves(tree))

    # -- calls ------------------------------------------------------------------------------------------
    def call(self, name: str, function: Any, args: tuple, kwargs: dict, owner: Any = None) -> Any:
        """Call ``function`` and record it whole, as ``name`` on ``args`` and ``kwargs``."""
        if self.depth:
            return function()
        inputs = self.references((args, kwargs))
        self.depth, self.applied = self.depth + 1, []
        try:
            output = function()
        finally:
            self.depth -= 1
        self._write(name, inputs, output, [], owner)
        return output

    def _write(self, name, inputs, output, changed, owner=None):
        depends, is_fed = self.depends(inputs), self.depends(inputs, self._fed)
        refs: list[Any] = []

        def made(leaf):
            if isinstance(leaf, dgl.DGLGraph):
                refs.append(self.graph(leaf))
            elif isinstance(leaf, torch.Tensor):
                refs.append(self.new(leaf, depends, is_fed))
                if not depends:
                    self.recording.constants[refs[-1].number] = leaf.detach().clone()
            return refs[-1] if isinstance(leaf, (torch.Tensor, dgl.DGLGraph)) else leaf

        others = [leaf for leaf in changed if leaf is not output]
        out = mapped(output, made)
        if others:
            out = mapped(others[0], made)
        if refs:
            args, kwargs = inputs
            self.recording.calls.append(Call(name, args, kwargs, out, line(), owner, self.applied if owner else []))

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = _name(function)
        if self.depth or (name in _QUESTIONS and not (name == "size" and boxes_in(args))):
            return function(*args, **kwargs)
        if name != "__get__" and boxes_in((args, kwargs)):
            with self:
                return by_edge(self, function, name, args, kwargs)
        if name in COMPOSED:
            return recorded(self, function, name, args, kwargs)
        if name in _TO_PYTHON:
            return self._to_python(name, function, args, kwargs)
        if name == "__get__":
            return self._attribute(function, args)
        tensors = [leaf for leaf in (*args, *kwargs.values()) if isinstance(leaf, torch.Tensor)]
        before, random = [tensor._version for tensor in tensors], torch.get_rng_state()
        inputs = self.references((tuple(args), dict(kwargs)))
        output = function(*args, **kwargs)
        if not torch.equal(random, torch.get_rng_state()):
            raise FreezeError(
                f"{name} draws random numbers{line()}; a packed model gives the same answer each time: draw them in "
                "training only (if self.training, F.dropout(x, p, self.training)), or pass them as an argument."
            )
        changed = [tensor for tensor, version in zip(tensors, before) if tensor._version != version]
        for tensor in changed:
            self._change(tensor)
        self._write(name, inputs, output, changed)
        return output

    def _change(self, tensor):
        """Note that all other names of what ``tensor`` shows stand for something new."""
        self._stale.update(self._storages.get(_memory(tensor), set()) - {id(tensor)})

    def _attribute(self, function, args):
        output = function(*args)
        if isinstance(output, torch.Tensor):
            self._write(function.__self__.__name__, self.references((tuple(args), {})), output, [])
        return output

    def _to_python(self, name, function, args, kwargs):
        inputs = self.references((tuple(args), dict(kwargs)))
        if not self.depends(inputs) or caller().startswith(LIBRARIES):
            return function(*args, **kwargs)
        if name in _NUMBERS and not self.depends(inputs, self._fed):
            number = function(*args, **kwargs)
            ((ref, *_), _) = inputs
            self.recording.calls.append(Call("require", (ref, number), {}, None, line()))
            return number
        raise FreezeError(
            f"{name} hands numbers that follow from the arguments to Python{line()}, where nothing can follow them; "
            "write it with tensors (torch.where for a choice)."
        )


def frame_columns(graph):
    """The tensors in the frames of ``graph``, each with its place: side, type, name."""
    sides = [("src", graph.srctypes, graph.srcnodes), ("dst", graph.dsttypes, graph.dstnodes)]
    for side, types, nodes in sides if graph.is_block else [("src", graph.ntypes, graph.nodes)]:
        for ntype in types:
            yield from (((side, ntype, key), column) for key, column in nodes[ntype].data.items())
    for etype in graph.canonical_etypes:
        yield from ((("edge", etype, key), column) for key, column in graph.edges[etype].data.items())


def _name(function):
    return getattr(function, "__name__", None) or str(resolve_name(function)).rpartition(".")[2]


def _memory(tensor):
    return tensor.untyped_storage().data_ptr()
