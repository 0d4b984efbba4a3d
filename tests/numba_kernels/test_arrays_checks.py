"""What a file may say of array functions, and that no arguments of the declared kinds make them fail otherwise."""

import copy
import inspect

import numpy as np
import pytest

from numba_kernels import Graph, GraphError, Plan, PlanError
from numba_kernels.arrays import FUNCTIONS

from .arrays import bools, floats, ints

GOOD = {
    "op": "call",
    "in": [0, 1],
    "out": 9,
    "function": "take_source",
    "args": [{"value": 1}, {"value": 0}],
    "kwargs": {},
}
MATRIX = {"op": "matrix", "in": [0], "out": 9, "columns": 3, "rows": {"of": "nodes", "graph": 1}}
KINDS = ("array", "graph", "features", "unused")
ARRAYS = {"table": floats(3, 2), "codes": np.zeros(3, np.uint8)}


def plan_of(op):
    inputs = [{"name": f"x{v}", "kind": k, "value": v, "optional": False} for v, k in enumerate(KINDS)]
    return Plan(inputs, [copy.deepcopy(op)], [9], ARRAYS)


def of(function, *args, reads=(0,), **kwargs):
    return {**GOOD, "in": list(reads), "function": function, "args": list(args), "kwargs": kwargs}


X = {"value": 0}


@pytest.mark.parametrize(
    "op",
    [
        GOOD,
        of("add", X, 2.5, alpha=2),
        of("add", {"value": 2}, {"array": "table"}, reads=[2]),
        of("reshape", X, -1, {"size": {"of": "edges", "graph": 1, "times": 2}}, reads=[0, 1]),
        of("getitem", X, [{"slice": [None, {"size": {"of": "graphs", "graph": 1}}, 2]}, "...", None, 1], reads=[0, 1]),
        of("cat", [X, {"value": 2}], dim=-1, reads=[0, 2]),
        of("zeros", [3, 4], dtype="int64", reads=[]),
        MATRIX,
        {**MATRIX, "rows": 7},
        {**MATRIX, "rows": {"of": "rows", "value": 0, "axis": 2, "plus": -1}},
    ],
)
def test_well_formed_operations(op):
    assert plan_of(op).kinds[9] == ("float" if op["op"] == "matrix" else "array")


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (of("os.system", "ls", reads=[]), "unknown array function 'os.system'"),
        (of(["add"], X, X), "function must be a string"),
        (of("__class__", X), "unknown array function"),
        (of("add", X), "add: missing a required argument: 'other'"),
        (of("add", X, X, X), "add: too many positional arguments"),
        (of("add", X, X, out=X), "add: got an unexpected keyword argument 'out'"),
        (of("add", X, "1"), "other must be an array or a number or a bool, got '1'"),
        (of("add", X, [1]), r"other must be .* got \(1,\)"),
        (of("add", X, {"value": 1}, reads=[0, 1]), "other must be an array .* got {'value': 1}"),
        (of("softmax", X, 0.5), "dim must be a whole number, got 0.5"),
        (of("softmax", X, True), "dim must be a whole number, got True"),
        (of("sum", X, [0, None]), "dim must be"),
        (of("to", X, "object"), "dtype must be 'float32' or 'int64' or 'bool', got 'object'"),
        (of("edge_softmax", {"value": 1}, X, "in", reads=[0, 1]), "norm_by must be 'dst' or 'src', got 'in'"),
        (of("take_source", X, X), "graph must be a graph"),
        (of("getitem", X, {"slice": [0, 1]}), "a slice has a start, a stop and a step"),
        (of("getitem", X, {"slice": [0, 1.5, 1]}), "1.5 bounds a slice"),
        (of("getitem", X, {"slice": [0, X, 1]}), "bounds a slice"),
        (of("getitem", X, "::"), "index must be"),
        (of("add", X, {"array": "none"}), "KeyError"),
        (of("add", X, {"array": "codes"}), "constant codes is uint8"),
        (of("add", X, {"value": 7}), "value 7 read before it is written"),
        (of("add", X, {"value": 3}, reads=[0, 3]), "value 3 is unused"),
        (of("add", X, {"value": [0]}), "malformed"),
        (of("add", X, {"value": 0, "array": "table"}), "other must be"),
        (of("add", X, {"lambda": 0}), "other must be"),
        (of("add", X, X, reads=[0, 2]), r"add reads \[0\], not \[0, 2\]"),
        (of("add", X, X, reads=[]), r"add reads \[0\], not \[\]"),
        (of("full", [3], {"size": {"of": "edges"}}, reads=[]), "KeyError"),
        (of("zeros", {"size": {"of": "weather", "graph": 1}}, reads=[1]), "a size of 'weather'"),
        (of("zeros", {"size": {"of": "nodes", "graph": 0}}, reads=[0]), "value 0 is array, not graph"),
        (of("zeros", {"size": {"of": "nodes", "graph": 1, "times": 0.5}}, reads=[1]), "times of a size is 0.5"),
        (of("zeros", {"size": {"of": "nodes", "graph": 1, "axis": 0}}, reads=[1]), r"a size has \['axis'\]"),
        (of("zeros", {"size": {"of": "rows", "value": 0, "axis": -1}}, reads=[0]), "axis -1 of a size"),
        (of("zeros", {"size": "nodes"}, reads=[]), "'nodes' is no size"),
        ({**GOOD, "args": {"graph": 1}}, "args must be a list"),
        ({**GOOD, "kwargs": []}, "kwargs must be a dict"),
        ({**GOOD, "out": [9, 9]}, "value 9 written twice"),
        ({**GOOD, "out": 0}, "value 0 written twice"),
        ({key: GOOD[key] for key in GOOD if key != "kwargs"}, "missing kwargs"),
        ({**MATRIX, "columns": 0}, "columns must be a whole number from 1 to 2,147,483,647, got 0"),
        ({**MATRIX, "columns": True}, "columns must be .* got True"),
        ({**MATRIX, "in": [1]}, "value 1 is graph, not array"),
        ({**MATRIX, "rows": None}, "rows must be"),
        ({**MATRIX, "rows": {"of": "rows", "value": 2, "axis": 1}}, "known before it is made"),
    ],
)
def test_malformed_operations_are_refused(op, message):
    with pytest.raises(PlanError, match=message):
        plan_of(op)


def test_rows_of_an_array_that_is_made_are_not_known_before():
    inputs = [{"name": "x", "kind": "array", "value": 0, "optional": False}]
    ops = [of("neg", X), {**MATRIX, "in": [9], "out": 10, "rows": {"of": "rows", "value": 9, "axis": 0}}]
    with pytest.raises(PlanError, match="the rows of a matrix are known before it is made"):
        Plan(inputs, ops, [10], {})


GRAPH = Graph([0, 1, 1, 3, 4], [1, 0, 2, 3], edge_ids=[2, 0, 1, 3])
POOL = [
    floats(4, 3), floats(4, seed=1), floats(4, 3, 2), floats(0, 3), floats(), ints(4, low=0, high=4), ints(4, 3),
    bools(4, 3), bools(4), GRAPH, 0, 1, -1, 2, 7, -(2**40), 0.5, 2.0, float("inf"), True, None, "sum", "mean", "amax",
    "dst", "floor", "u", "ij,jk->ik", "...i->i", "float32", "bool", [], [0], [0, 1], [2, -1], [3, 2],
    [floats(4, 3), floats(4, 3)], slice(0, 2),
]  # fmt: skip


def as_tree(argument):
    """What stands in a plan for an argument."""
    if isinstance(argument, list):
        return [as_tree(part) for part in argument]
    if isinstance(argument, slice):
        return {"slice": [argument.start, argument.stop, argument.step]}
    return {"value": argument} if isinstance(argument, (np.ndarray, Graph)) else argument


def refers(tree):
    return "slice" if "slice" in tree else "graph" if tree["value"] is GRAPH else "array"


def draw(function, rng):
    """Arguments of the declared kinds, options now and then."""
    named, several = {}, []
    for name, parameter in function.signature.parameters.items():
        fitting = [argument for argument in POOL if function.kinds[name].accepts(as_tree(argument), refers)]
        if not fitting or (parameter.default is not inspect.Parameter.empty and rng.random() < 0.6):
            continue
        argument = fitting[rng.integers(len(fitting))]
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            several = [argument]
        else:
            named[name] = argument
    # What stands before those that may be several comes by position.
    before = [named.pop(name) for name in list(named) if several and name in list(function.kinds)[:1]]
    return [*before, *several], named


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_whatever_is_of_the_declared_kinds_gives_arrays_or_one_error(name, recwarn):
    rng, function = np.random.default_rng(0), FUNCTIONS[name]
    for _ in range(100):
        args, kwargs = draw(function, rng)
        trees = as_tree(args), {key: as_tree(argument) for key, argument in kwargs.items()}
        assert function.fault(*trees, refers) is None
        try:
            results = function(*args, **kwargs)
        except GraphError as error:
            assert str(error).startswith(f"{name}(")
        else:
            assert all(result.dtype in (np.float32, np.int64, np.bool_) for result in results)
    assert not recwarn.list
