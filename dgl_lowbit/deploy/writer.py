"""Writes the plan of a packed model: its inputs, its operations, its constants."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from torch import nn

from numba_kernels import Plan
from numba_kernels.arrays import CHECKS
from numba_kernels.selected import packed_mask
from numba_kernels.spec import GridSpec

from .constants import Constants
from .errors import FreezeError
from .values import Value

SHAPE_FUNCTIONS = frozenset(
    [
        "clone",
        "reshape",
        "view",
        "flatten",
        "unflatten",
        "squeeze",
        "unsqueeze",
        "transpose",
        "permute",
        "expand",
        "getitem",
        "cat",
        "stack",
        "split",
        "chunk",
        "T",
        "t",
    ]
)


class Writer:
    """A plan as it is written.

    Attributes
    ----------
    inputs, ops : list of dict
        Of the plan.
    constants : Constants
    float_parts : list of str
        Names of what runs in float32, but for what epilogues take along.
    """

    def __init__(self):
        self.inputs, self.ops, self.constants = [], [], Constants()
        self.float_parts: list[str] = []
        self._where, self._layer_quantizers = "", ()  # of the layer or call site that is being recorded
        self._next = 0
        self._computed: set[int] = set()  # arrays that functions give
        self._computed_ahead: dict[int, int] = {}  # those of them that are computed ahead, as what
        self._views, self._columns = {}, {}  # by number: whose rows a view shows, and widths as far as they are known

    def input(self, name: str, kind: str, optional: bool = False, key: str | int | None = None) -> Value:
        """An argument of the packed model, or with ``key`` an entry of it."""
        value = Value(self._new(), kind, may_be_pair=kind == "features" and key is None)
        entry = {"name": name, "kind": kind, "value": value.number, "optional": optional}
        self.inputs.append(entry if key is None else {**entry, "key": key})
        return value

    def columns_of_input(self, value: Value, index: np.ndarray, total: int) -> Value:
        """Of an argument, features of ``total`` columns, those of ``index``, ascending, and no others."""
        place = next(n for n, entry in enumerate(self.inputs) if entry["value"] == value.number)
        kept = self.constants.store(packed_mask(index, total))
        self.inputs[place] = {**self.inputs[place], "columns": {"total": total, "kept": kept}}
        return self._set_columns(replace(value, may_be_pair=False), len(index))

    @contextmanager
    def at(self, where: str, quantizers: nn.ModuleDict) -> Iterator[None]:
        """Name what is recorded, for errors and what runs in float32: a layer or a call site, and its quantisers."""
        outside = self._where, self._layer_quantizers
        self._where, self._layer_quantizers = where, quantizers.items()
        yield
        self._where, self._layer_quantizers = outside

    def constant(self, name: str, value) -> None:
        """An argument that the plan does not read; it must be ``value`` where it is given."""
        entry = {"name": name, "kind": "constant", "value": self._new(), "optional": True, "constant": value}
        self.inputs.append(entry)

    def plan(self, outputs) -> Plan:
        """The plan that returns ``outputs``: a value, a tuple or list of values, or a dict of them."""
        returns: str | list[str] = "value"
        if isinstance(outputs, dict):
            returns, outputs = list(outputs), list(outputs.values())
        elif isinstance(outputs, (tuple, list)):
            returns = "tuple"
        else:
            outputs = [outputs]
        if not all(isinstance(value, Value) for value in outputs):
            raise FreezeError("forward returns tuples, lists or dicts within each other; return one of tensors.")
        numbers, heads = [value.number for value in outputs], [value.heads for value in outputs]
        return Plan(self.inputs, _read(self.ops, numbers), numbers, self.constants.arrays, returns, heads)

    def columns(self, value: Value) -> int | None:
        """Width of the rows of ``value``, None as long as nothing recorded says it."""
        return self._columns.get(self._views.get(value.number, value.number))

    def fail(self, reason: str):
        raise FreezeError(f"{self._where} cannot be frozen: {reason}")

    def _new(self):
        self._next += 1
        return self._next - 1

    def _emit(self, op, *values, **attributes):
        """Write an operation on values, None where an optional one is missing; returns its result, a float value."""
        out = Value(self._new())
        self.ops.append({"op": op, "in": [value and value.number for value in values], "out": out.number, **attributes})
        known = [columns for columns in (self.columns(value) for value in values if value) if columns is not None]
        self._set_columns(out, known[0] if known else None)
        return out

    def _set_columns(self, value, columns):
        self._columns[self._views.get(value.number, value.number)] = columns
        return value

    def _view(self, op, feat, *others):
        """Some of the rows of ``feat``, which are codes where it is."""
        out = self._emit(op, feat, *others)
        self._views[out.number] = self._views.get(feat.number, feat.number)
        kind = "float" if feat.kind == "features" else feat.kind
        return replace(feat, number=out.number, kind=kind, may_be_pair=False)

    def _export(self, make, quantizer, *args):
        """What ``make`` gives of a quantiser for the plan, or a refusal that names the operand."""
        if quantizer.format.is_float:
            name = next((name for name, q in self._layer_quantizers if q is quantizer), "operands")
            of = "its weights are" if name.startswith("weights") else f"its {name} are"
            self.fail(f"{of} float32 (32 bits); packed inference needs 8 bits or fewer.")
        try:
            return make(quantizer, *args)
        except NotImplementedError as error:
            return self.fail(str(error))

    def grid(self, quantizer) -> GridSpec:
        """The grid of a quantiser, or a refusal."""
        return self._export(lambda own: own.export(), quantizer)

    def array_call(self, function: str, args: list, kwargs: dict, count: int) -> list[int]:
        """Call an array function of :mod:`numba_kernels.arrays` with trees of arguments; numbers of its results."""
        out = [self._new() for _ in range(count)]
        self._computed.update(out)
        read = list(dict.fromkeys(_values_of([args, list(kwargs.values())])))
        call = {"op": "call", "in": read, "out": out[0] if count == 1 else out, "function": function}
        self.ops.append({**call, "args": args, "kwargs": kwargs})
        if function not in SHAPE_FUNCTIONS and function not in CHECKS:
            self.float_parts.append(f"{self._where or 'forward'}: {function}")
        return out

    def matrix(self, argument: dict, rows, columns: int, heads: int) -> Value:
        """An array as a float matrix of ``rows``, a size."""
        if "array" in argument:
            argument = {"value": self.array_call("clone", [argument], {}, 1)[0]}
        if isinstance(rows, dict) and rows.get("value") in self._computed:
            rows = {**rows, "value": self._ahead(rows["value"])}
        out = Value(self._new())
        self.ops.append(
            {"op": "matrix", "in": [argument["value"]], "out": out.number, "rows": rows, "columns": columns}
        )
        return replace(self._set_columns(out, columns), heads=heads)

    def _ahead(self, number: int) -> int:
        """An array that is computed before the rest is laid out, as its shape says how much there is to do."""
        if number not in self._computed_ahead:
            self._computed_ahead[number] = self._new()
            self.ops.append({"op": "ahead", "in": [number], "out": self._computed_ahead[number]})
        return self._computed_ahead[number]

    def edge_weight(self, argument: dict) -> Value:
        """An array of a number for each edge as weights of edges."""
        return replace(self._emit("edge_weight", Value(argument["value"])), kind="edge_weight", is_made=True)

    def make_graph(self, *arrays: int) -> Value:
        """The graph of arrays by number: sources, destinations, and the two numbers of nodes."""
        return replace(self._emit("make_graph", *map(Value, arrays)), kind="graph")

    def _alike(self, op, *values, **attributes):
        """Emit an operation whose result has the shape of what it reads."""
        shapes = {value.heads for value in values}
        if len(shapes) > 1:
            self.fail("values of two and of three dimensions meet; flatten the latter first.")
        return replace(self._emit(op, *values, **attributes), heads=shapes.pop())


def _read(ops, outputs):
    """The operations that ``outputs`` follow from, and the checks."""
    wanted, kept = set(outputs), []
    for op in reversed(ops):
        written = [value for value in (*_listed(op.get("out")), op.get("state")) if value is not None]
        if not written or wanted.intersection(written) or op.get("function") in CHECKS:
            wanted.update(value for value in op["in"] if value is not None)
            wanted.update(_values_of({"size": op["rows"]}) if op["op"] == "matrix" else ())
            kept.append(op)
    return kept[::-1]


def _listed(value):
    return value if isinstance(value, list) else [value]


def _values_of(tree):
    """Numbers of the values that a tree of arguments refers to, those of sizes among them."""
    if isinstance(tree, dict):
        own = [tree[key] for key in ("value", "graph") if isinstance(tree.get(key), int)]
        return own + [number for key in ("size", "slice") if key in tree for number in _values_of(tree[key])]
    return [number for part in tree for number in _values_of(part)] if isinstance(tree, list) else []
