"""Array functions between launches of kernels, and the way from arrays to matrices that kernels read.

An array has any number of dimensions and a shape that only a run knows; it holds float32, int64 or bool. A function may
read float matrices too, as arrays of two dimensions, and graphs, whose edges are in the order of their ids.
"""

from __future__ import annotations

import math

import numpy as np

from ...arrays import FUNCTIONS, as_array
from ...arrays.kinds import is_reference
from ...graph import GraphError
from ..attributes import COUNT, DICT, LIST, STRING, VALUE, integer, several
from ..sizes import check_size, is_whole, measure, single
from .registry import Operation, operation

_MATRICES = ("array", "features", "float")
_CONSTANTS = (np.dtype(np.float32), np.dtype(np.int64), np.dtype(np.bool_))


@operation("call", function=STRING, args=LIST, kwargs=DICT)
class Call(Operation):
    """A function of :data:`numba_kernels.arrays.FUNCTIONS`; it may write several values."""

    out = VALUE | several(VALUE)
    gathers = reads_sources = None

    def check(self, plan, op, *values):
        plan.require(op["function"] in FUNCTIONS, f"unknown array function {op['function']!r}")
        read = []

        def refers(tree):
            return _target(plan, tree, read)

        fault = FUNCTIONS[op["function"]].fault(op["args"], op["kwargs"], refers)
        plan.require(fault is None, f"array function {op['function']}: {fault}")
        plan.require(set(read) == set(op["in"]), f"{op['function']} reads {sorted(set(read))}, not {[*op['in']]}")
        for value in written(op):
            plan.define(value, "array", None)

    def resolve(self, resolver, op):
        if op["function"] == "require_size":  # before what does not fit where it does not hold
            FUNCTIONS["require_size"](*self.arguments(op, resolver)[0])
        names = {value: resolver.one(value) for value in op["in"] if resolver.plan.kinds[value] in _MATRICES}
        data, rows = data_of(op), resolver.rows
        # Of matrices rows and columns are known, so that what is read for its shape only need not be made.
        reads = [value for value, name in names.items() if value in data or rows[name] is None]
        resolver.call(op, names, reads, written(op))

    def arguments(self, op: dict, reader) -> tuple[list, dict]:
        """What the function is called with."""

        def value_of(tree):
            if isinstance(tree, tuple):
                return [value_of(part) for part in tree]
            if not isinstance(tree, dict):
                return tree
            ((kind, target),) = tree.items()
            if kind == "value":
                return single(reader.graphs[target]) if target in reader.graphs else reader.array(target)
            if kind == "size":
                return measure(target, reader.graphs.__getitem__, reader.shape)
            return slice(*map(value_of, target)) if kind == "slice" else reader.constant(target)

        return [*map(value_of, op["args"])], {name: value_of(tree) for name, tree in op["kwargs"].items()}

    def run(self, op, reader):
        args, kwargs = self.arguments(op, reader)
        results = FUNCTIONS[op["function"]].within(reader.room, args, kwargs)
        if len(results) != len(written(op)):
            raise GraphError(f"{op['function']} gave {len(results)} arrays where {len(written(op))} are expected.")
        return results

    def reference(self, plan, op, *values):
        results = self.run(op, _Given(plan, dict(zip(op["in"], values))))
        return results if isinstance(op["out"], tuple) else results[0]


@operation("matrix", columns=COUNT, rows=integer(0) | DICT)
class ToMatrix(Operation):
    """An array as a float32 matrix, its trailing dimensions side by side in a row."""

    gathers = reads_sources = None

    def check(self, plan, op, value):
        plan.expect(value, "array")
        size_of = check_size(plan, op["rows"])
        if size_of is not None and plan.kinds[size_of] != "graph":
            is_array = plan.kinds[size_of] == "array"
            given = [*(entry["value"] for entry in plan.inputs), *(o["out"] for o in plan.ops if o["op"] == "ahead")]
            known = size_of in given if is_array else op["rows"]["axis"] == 0
            plan.require(known and plan.kinds[size_of] in _MATRICES, "the rows of a matrix are known before it is made")
        plan.define(op["out"], "float", op["columns"])

    def resolve(self, resolver, op):
        (value,), out = op["in"], op["out"]
        name = resolver.one(value)
        resolver.call(op, {value: name, out: out}, [value], [out])
        resolver.rows[out] = measure(op["rows"], resolver.graphs.__getitem__, resolver.shape)
        resolver.columns[out] = op["columns"]

    def run(self, op, reader):
        return [as_matrix(reader.array(op["in"][0]), *reader.shape(op["out"]))]

    def reference(self, plan, op, array):
        return as_matrix(array, len(array), op["columns"])


@operation("edge_weight")
class ToEdgeWeight(Operation):
    """An array of a number for each edge, by edge ids, as weights of edges."""

    gathers = reads_sources = None

    def check(self, plan, op, value):
        plan.expect(value, "array")
        plan.define(op["out"], "edge_weight", None)

    def resolve(self, resolver, op):
        (value,) = op["in"]
        resolver.call(op, {value: resolver.one(value)}, [value], [op["out"]])
        resolver.edge_weights.add(op["out"])

    def run(self, op, reader):
        return [reader.array(op["in"][0]).astype(np.float32, copy=False)]

    def reference(self, plan, op, array):
        return array.astype(np.float32, copy=False)


class _Given:
    """What the twin reads."""

    room = math.inf

    def __init__(self, plan, given):
        self.constant, self._given = plan.arrays.__getitem__, given
        self.graphs = {value: given[value] for value in given if plan.kinds[value] == "graph"}

    def array(self, value):
        return as_array(self._given[value])

    def shape(self, value):
        return self.array(value).shape


def as_matrix(array: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """``array`` as a C-contiguous float32 matrix of as many rows and columns.

    Raises
    ------
    GraphError
        When it has others.
    """
    if array.ndim == 0 or len(array) != rows or array.size != rows * columns:
        raise GraphError(f"expected an array of {rows} rows of {columns} numbers, got shape {array.shape}.")
    return np.ascontiguousarray(array.reshape(rows, columns), np.float32)


def written(op: dict) -> list:
    """The values that an operation of a plan writes first."""
    return [*op["out"]] if isinstance(op["out"], tuple) else [op["out"]]


def data_of(op: dict) -> list:
    """Values that a call reads for more than their shape."""
    found = []

    def walk(tree):
        if isinstance(tree, dict):
            found.extend([tree["value"]] if "value" in tree else ())
            walk(tree.get("slice", ()))
        elif isinstance(tree, tuple):
            for part in tree:
                walk(part)

    walk((op["args"], *op["kwargs"].values()))
    return found


def _target(plan, tree, read):
    """What a reference refers to, "array", "graph", "size" or "slice"; values are added to ``read``."""
    ((kind, target),) = tree.items()
    if kind == "value":
        plan.expect(target, "graph", "edge_weight", "edge_types", *_MATRICES)
        read.append(target)
        return "graph" if plan.kinds[target] == "graph" else "array"
    if kind == "array":
        plan.require(plan.arrays[target].dtype in _CONSTANTS, f"constant {target} is {plan.arrays[target].dtype}")
        return "array"
    if kind == "size":
        size_of = check_size(plan, target)
        read.extend([] if size_of is None else [size_of])
        return "size"
    plan.require(isinstance(target, tuple) and len(target) == 3, "a slice has a start, a stop and a step")
    for bound in target:
        is_size = is_reference(bound) and "size" in bound
        plan.require(bound is None or is_whole(bound) or is_size, f"{bound!r} bounds a slice")
        if is_size:
            _target(plan, bound, read)
    return "slice"
