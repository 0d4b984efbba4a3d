"""From a recording to the operations of a plan.

What kernels know is written for kernels, through the :class:`~dgl_lowbit.deploy.recorder.Recorder`: by a rule of
``rules``, found by the function's name. Everything else is a call of a function of NumPy arrays, by torch's name.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from numba_kernels.arrays import FUNCTIONS
from numba_kernels.spec import FixedGrid

from ..capture.recording import Call, GraphRef, Recording, Size, TensorRef, leaves, mapped, refs_of
from ..errors import FreezeError
from ..recorder import Recorder
from ..values import Value
from .arrays import ARRAY_RULES, DTYPES, IGNORED, NAMES
from .forms import Array, Constant, EdgeNumbers, Floats, Form
from .rules import RULES, columns_of


class Translator:
    """Writes what a recording computes on a recorder.

    Parameters
    ----------
    recorder : Recorder
    recording : Recording
        Generalised, or of what a layer applies to a tensor.
    """

    def __init__(self, recorder: Recorder, recording: Recording):
        self.recorder, self.recording = recorder, recording
        self.forms: dict[int, Form] = {n: Constant(tensor) for n, tensor in recording.constants.items()}
        self.graphs: dict[int, Value] = {}
        self.pairs: dict[tuple, Value] = {}  # arguments that are features of sources and of destinations
        self._origins: dict[int, Call] = {}
        self._relations: dict[tuple, Value] = {}
        self._arrays: dict[int, dict] = {}
        self._matrices: dict[int, Value] = {}

    def run(self) -> None:
        """Write every call that the output follows from."""
        read = self._read()
        for number, call in enumerate(self.recording.calls):
            if number in read:
                self._call(call)

    def require_sizes(self, are_fixed: bool) -> None:
        """Hold the graphs that are arguments to batches of as many graphs, or of as many nodes, as were recorded."""
        for entry in self.recording.inputs:
            if entry.ref.number not in self.graphs:
                continue
            graph = self.recording.graphs[entry.ref.number]
            if not are_fixed and not graph.is_block:
                self._require_size(Size("graphs", entry.ref), graph.batch_size, "graphs in a batch")
            for etype in graph.canonical_etypes if are_fixed else ():
                single = None if len(graph.canonical_etypes) == 1 else etype
                for of, ntype in (("src_nodes", etype[0]), ("dst_nodes", etype[2])):
                    size = Size(of, entry.ref, etype=single)
                    self._require_size(size, graph.num_nodes(ntype), f"nodes of type {ntype}")

    def _require_size(self, size, expected, what):
        reference = {"of": size.of, "graph": self.graph_of(size).number}
        self.array_function("require_size", {"size": reference}, expected, what)

    def outputs(self) -> Any:
        """The output as values of the plan."""
        given = {entry.ref for entry in self.recording.inputs}

        def value(leaf):
            if not isinstance(leaf, TensorRef):
                self.fail(None, f"a forward that returns a {type(leaf).__name__}, not tensors,")
            form = self.form(leaf)
            if isinstance(form, Floats) and leaf not in given:
                return form.value
            argument = self.argument(leaf, None)
            if leaf in given or "array" in argument:
                argument = self.array_function("clone", argument)
            return Value(argument["value"])

        return mapped(self.recording.output, value)

    def _read(self):
        """Numbers of the calls that the output follows from."""
        wanted, read = refs_of(self.recording.output), set()
        for number, call in reversed(list(enumerate(self.recording.calls))):
            made = refs_of(call.out) & wanted
            if any(leaf.number not in self.recording.constants for leaf in made) or call.name == "require":
                read.add(number)
                wanted |= refs_of((call.args, call.kwargs))
        return read

    def _call(self, call):
        for leaf in leaves(call.out):
            if isinstance(leaf, TensorRef):
                self._origins[leaf.number] = call
        result = self._ruled(RULES, call)
        if result is None:
            for ref, argument in self._array_call(call).items():
                self.forms[ref.number] = self.result(argument)
        else:
            self._keep(call.out, result)

    def _ruled(self, rules, call):
        """What the rule of a call's function gives; None without one, or where it takes other arguments."""
        rule = rules.get(function_name(call.name))
        if rule is None:
            return None
        kwargs = {name: value for name, value in call.kwargs.items() if name not in IGNORED}
        try:
            inspect.signature(rule).bind(self, call, *call.args, **kwargs)
        except TypeError:
            return None
        return rule(self, call, *call.args, **kwargs)

    def _keep(self, out, result):
        if isinstance(out, GraphRef):
            self.graphs[out.number] = result
        elif isinstance(out, TensorRef):
            self.forms[out.number] = result
        else:
            for ref, part in zip(leaves(out), result):
                (self.graphs if isinstance(ref, GraphRef) else self.forms)[ref.number] = part

    # -- what is known of a tensor ----------------------------------------------------------------------
    def form(self, leaf: Any) -> Any:
        """What a leaf of a call's arguments is, a :data:`~.forms.Form`, if it is a tensor; else None."""
        return self.forms[leaf.number] if isinstance(leaf, TensorRef) else None

    def shape(self, ref: TensorRef) -> tuple:
        return self.recording.shapes[ref.number]

    def is_float(self, ref: TensorRef) -> bool:
        return self.recording.dtypes[ref.number].is_floating_point

    def has_columns(self, ref: TensorRef) -> bool:
        """Whether a tensor is a float matrix, or one of rows of two dimensions, of known widths."""
        shape = self.shape(ref)
        return self.is_float(ref) and 2 <= len(shape) <= 3 and not any(isinstance(size, Size) for size in shape[1:])

    def floats(self, ref: TensorRef, call: Call) -> Value:
        """A tensor of two or three dimensions as a float matrix."""
        form, shape = self.form(ref), self.shape(ref)
        if isinstance(form, Floats):
            return form.value
        if ref.number not in self._matrices:
            if not self.has_columns(ref):
                self.fail(
                    call, f"{call.name} of a tensor of {len(shape)} dimensions of {self.recording.dtypes[ref.number]}"
                )
            heads = shape[1] if len(shape) == 3 else 0
            rows = self.size(shape[0], call)
            self._matrices[ref.number] = self.recorder.matrix(
                self.argument(ref, call), rows, math.prod(shape[1:]), heads
            )
        return self._matrices[ref.number]

    def argument(self, ref: TensorRef, call: Call) -> dict:
        """A tensor as an argument of an array function."""
        form = self.form(ref)
        if isinstance(form, Constant):
            return {"array": self.recorder.constants.array(form.tensor)}
        if isinstance(form, Array):
            return {"value": form.number}
        if ref.number not in self._arrays:
            if isinstance(form, Floats):
                self._arrays[ref.number] = self.reshaped(form.value, ref)
            elif isinstance(form, EdgeNumbers):
                shape = [-1, *self.shape(ref)[1:]]
                self._arrays[ref.number] = self.array_function("reshape", {"value": form.value.number}, shape)
            else:
                self._arrays[ref.number] = self._array_call(self._origins[ref.number])[ref]
        return self._arrays[ref.number]

    def reshaped(self, value: Value, ref: TensorRef) -> dict:
        """A float matrix as an array of the shape of ``ref``."""
        if len(self.shape(ref)) == 2:
            return {"value": value.number}
        return self.array_function("reshape", {"value": value.number}, [-1, *self.shape(ref)[1:]])

    def rounded(self, ref: TensorRef, call: Call, quantizer: Any) -> dict:
        """A tensor rounded to a quantiser's grid, as an argument of an array function."""
        columns, shape = int(quantizer.width), self.shape(ref)
        varies = any(isinstance(size, Size) for size in shape[1:])
        width = 0 if varies else math.prod(shape[1:])
        if isinstance(self.form(ref), Array) and columns == width and not varies:
            grid = self.recorder.grid(quantizer)
            if isinstance(grid, FixedGrid):
                return self._fake_quantized(self.argument(ref, call), grid, shape[1:])
        if self.has_columns(ref) and columns == width:
            return self.reshaped(self.recorder.requantize(quantizer, self.floats(ref, call)), ref)
        if varies or width % columns:
            self.fail(call, f"{call.name} of codes of a tensor whose width varies")
        flat = self.array_function("reshape", self.argument(ref, call), [-1, columns])
        rows = self.product((shape[0], width // columns), call)
        value = self.recorder.requantize(quantizer, self.recorder.matrix(flat, rows, columns, 0))
        return self.array_function("reshape", {"value": value.number}, [-1, *shape[1:]])

    def _fake_quantized(self, argument, grid, shape):
        numbers = [
            {"array": self.recorder.constants.store(array.reshape(shape))} if len(array) > 1 else float(array[0])
            for array in (grid.scale, grid.zero_point, grid.offset)
        ]
        return self.array_function("fake_quantize", argument, *numbers, grid.top)

    def is_edge_weight(self, ref: TensorRef) -> bool:
        """Whether kernels take a tensor for the weights of edges: one float number for each, whatever its shape."""
        shape = self.shape(ref)
        return bool(shape) and self.is_float(ref) and all(size == 1 for size in shape[1:])

    def edge_weight(self, ref: TensorRef, call: Call, argument: dict | None = None) -> Value:
        """A tensor of a number for each edge; ``argument`` if that is another array than the tensor's own."""
        form = self.form(ref)
        if isinstance(form, EdgeNumbers) and argument is None:
            return form.value
        if not self.is_edge_weight(ref):
            self.fail(call, f"{call.name} with edge weights of shape {self.shape(ref)}")
        array = self.array_function("reshape", argument or self.argument(ref, call), [-1])
        return self.recorder.edge_weight(array)

    def edge_types(self, ref: TensorRef, call: Call) -> Value:
        """An argument that holds the type of each edge."""
        form = self.form(ref)
        if isinstance(form, EdgeNumbers):
            return form.value
        return self.fail(call, f"{call.name} with edge types that forward computes")

    def weighted(self, ref: TensorRef) -> tuple[Value, torch.Tensor] | None:
        """The floats and numbers, one a column, that ``ref`` is the product of; None if it is no such product."""
        call = self._origins.get(ref.number)
        if call is None or function_name(call.name) != "mul" or call.kwargs:
            return None
        x, y = call.args if isinstance(self.form(call.args[0]), Floats) else call.args[::-1]
        if not isinstance(self.form(x), Floats) or not isinstance(self.form(y), Constant):
            return None
        columns = columns_of(self, y, x)
        return None if columns is None or columns.dim() == 0 else (self.form(x).value, columns)

    def mean_readout(self, ref: TensorRef) -> Form | None:
        """The mean over each graph of a batch of what ``ref`` is the sum of; None if it is no such sum."""
        call = self._origins.get(ref.number)
        if call is None or call.name != "segment_reduce" or not isinstance(self.form(ref), Floats):
            return None
        _, x, offsets = call.args
        return Floats(self.recorder.readout(self.graphs[self.form(offsets).graph.number], self.floats(x, call), "mean"))

    def graph(self, ref: GraphRef) -> dict:
        """A graph as an argument of an array function."""
        return {"value": self.graphs[ref.number].number}

    def graph_of(self, size: Size) -> Value:
        """The graph, of one edge type, that a size is counted of."""
        graph = self.graphs[size.ref.number]
        if size.etype is None:
            return graph
        if (size.ref, size.etype) not in self._relations:
            self._relations[size.ref, size.etype] = self.recorder.relation(graph, size.etype)
        return self._relations[size.ref, size.etype]

    @staticmethod
    def result(argument: dict) -> Form:
        """The form of what an array function gave."""
        return Array(argument["value"])

    def array_function(self, name: str, *args: Any, **kwargs: Any) -> dict:
        """Call an array function; its one result as an argument of another."""
        return self.array_functions(name, 1, *args, **kwargs)[0]

    def array_functions(self, name: str, count: int, *args: Any, **kwargs: Any) -> list[dict]:
        """Call an array function; its ``count`` results as arguments of others."""
        return [{"value": number} for number in self.recorder.array_call(name, list(args), kwargs, count)]

    # -- calls of array functions -----------------------------------------------------------------------
    def _array_call(self, call) -> dict[TensorRef, dict]:
        """Write a call with array functions; its results as arguments of others."""
        refs = [leaf for leaf in leaves(call.out) if isinstance(leaf, TensorRef)]
        ruled = self._ruled(ARRAY_RULES, call)
        if ruled is not None:
            return dict(zip(refs, ruled if isinstance(ruled, (list, tuple)) else [ruled]))
        name = function_name(call.name)
        if name not in FUNCTIONS:
            self.fail(call, name)
        args = [self.encoded(part, call) for part in call.args]
        known = FUNCTIONS[name].signature.parameters
        asked = {key: part for key, part in call.kwargs.items() if key in known or part not in (None, False)}
        kwargs = {key: self.encoded(part, call) for key, part in asked.items() if key not in IGNORED}
        fault = FUNCTIONS[name].fault(args, kwargs, self._refers)
        if fault is not None:
            self.fail(call, f"{name}, called so that {fault},")
        return dict(zip(refs, self.array_functions(name, len(refs), *args, **kwargs)))

    def encoded(self, tree: Any, call: Call) -> Any:
        """An argument of a recorded call as the plan has it, a tree of JSON values and references."""
        if isinstance(tree, TensorRef):
            return self.argument(tree, call)
        if isinstance(tree, GraphRef):
            return self.graph(tree)
        if isinstance(tree, Size):
            return {"size": self.size(tree, call)}
        if isinstance(tree, slice):
            return {"slice": [self.encoded(part, call) for part in (tree.start, tree.stop, tree.step)]}
        if isinstance(tree, (tuple, list)):
            return [self.encoded(part, call) for part in tree]
        if isinstance(tree, torch.dtype):
            return DTYPES.get(tree) or self.fail(call, f"{call.name} to {tree}")
        if tree is Ellipsis:
            return "..."
        if isinstance(tree, np.generic):
            return self.encoded(tree.item(), call)
        if tree is None or isinstance(tree, (bool, int, float, str)):
            return tree
        return self.fail(call, f"{call.name} of a {type(tree).__name__}")

    def _refers(self, tree):
        if "value" not in tree:
            return next(iter(tree))
        graphs = (*self.graphs.values(), *self._relations.values())
        return "graph" if any(tree["value"] == graph.number for graph in graphs) else "array"

    def product(self, sizes, call):
        """The product of sizes, of which one may be no plain number."""
        varying = [size for size in sizes if isinstance(size, Size)]
        plain = math.prod(size for size in sizes if not isinstance(size, Size))
        if not varying:
            return plain
        if len(varying) > 1:
            self.fail(call, f"{call.name} of rows in several dimensions whose sizes vary")
        size = varying[0]
        return self.size(replace(size, times=size.times * plain, plus=size.plus * plain), call)

    def size(self, size: Any, call: Call) -> Any:
        """A number of the recording as the plan has it."""
        if not isinstance(size, Size):
            return size
        more = {
            key: number for key, number, plain in (("times", size.times, 1), ("plus", size.plus, 0)) if number != plain
        }
        if isinstance(size.ref, GraphRef):
            return {"of": size.of, "graph": self.graph_of(size).number, **more}
        form = self.form(size.ref)
        plain = isinstance(form, Floats) and size.axis == 0
        value = form.value.number if plain else self.argument(size.ref, call)["value"]
        return {"of": "rows", "value": value, "axis": size.axis, **more}

    def fail(self, call: Call | None, what: str):
        raise FreezeError(
            f"{what} has no packed form{(call and call.line) or ''}; compute it before or after the model, or pass "
            "partial=True, which packs the layers and leaves what stands between them to torch."
        )


def function_name(name: str) -> str:
    """A function's name without the signs of an operator, or of an operation in place."""
    plain = name if len(name) == 1 else name.strip("_")
    return NAMES.get(plain, plain)
