"""Nothing unchecked reaches a kernel: keys, kinds of values, codes in stacks, memory, rows that are promised."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numba_kernels import Graph, GraphError, Plan, PlanError, load, warm_up
from numba_kernels.arrays import FUNCTIONS
from tests.numba_kernels.plans import EXAMPLES, PlanBuilder, normal, static

DATA = Path(__file__).parents[1] / "data"
RNG = np.random.default_rng(0)
GRID = static(2, 20, RNG, False)


def plans():
    for name in ("version2", "version3"):
        plan = load(DATA / f"{name}.safetensors").plan
        parts = {part: getattr(plan, part) for part in ("inputs", "ops", "outputs", "returns", "heads")}
        yield json.loads(json.dumps(parts)), plan.arrays


def places(tree, path=()):
    """Paths to all dicts and values of a tree."""
    yield path
    parts = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, part in parts:
        yield from places(part, (*path, key))


def at(tree, path):
    for key in path:
        tree = tree[key]
    return tree


def refused(parts, arrays):
    try:
        Plan(**parts, arrays=arrays)
    except PlanError:
        return True
    return False


@pytest.mark.parametrize("number", [0, 1], ids=["version2", "version3"])
def test_unknown_keys_are_refused_wherever_they_stand(number):
    parts, arrays = list(plans())[number]
    assert not refused(parts, arrays)
    for path in places(parts):
        if path and isinstance(at(parts, path), dict):
            mutant = copy.deepcopy(parts)
            at(mutant, path)["reach"] = 1.0
            assert refused(mutant, arrays), path


@pytest.mark.parametrize("number", [0, 1], ids=["version2", "version3"])
def test_values_of_other_types_are_refused_wherever_they_stand(number):
    parts, arrays = list(plans())[number]
    for path in places(parts):
        value = at(parts, path)
        if type(value) not in (int, bool) or (path[-1] in _MAY_BE_FLOAT):
            continue
        mutant = copy.deepcopy(parts)
        at(mutant, path[:-1])[path[-1]] = float(value) if type(value) is int else int(value)
        assert refused(mutant, arrays), path


_MAY_BE_FLOAT = ("power", "range_qmax")


@pytest.mark.parametrize("depth", [33, 100_000])
def test_deep_nesting_is_refused(depth):
    tree = []
    for _ in range(depth):
        tree = [tree]
    with pytest.raises(PlanError, match="nested"):
        Plan([], [{"op": "relu", "in": tree}], [0], {})


@pytest.mark.parametrize("dtype", [np.complex64, np.float16, np.uint64, object])
def test_arrays_of_other_dtypes_are_refused(dtype):
    with pytest.raises(PlanError, match="array 'a'"):
        Plan([{"name": "x", "kind": "features", "value": 0, "optional": False}], [], [0], {"a": np.zeros(2, dtype)})


def test_a_plan_does_not_change():
    parts, arrays = next(plans())
    plan = Plan(**parts, arrays={name: np.array(array) for name, array in arrays.items()})
    before = json.dumps(plan.ops)
    parts["ops"][0]["op"] = "other"
    assert json.dumps(plan.ops) == before
    with pytest.raises(TypeError, match="does not change"):
        plan.ops[0]["op"] = "other"
    with pytest.raises(ValueError, match="read-only"):
        next(iter(plan.arrays.values()))[:] = 0
    assert json.dumps(copy.deepcopy(plan).ops) == before


def stacked(kind):
    builder = PlanBuilder()
    one, two = (builder.quantize(0, dict(GRID), 20) for _ in range(2))
    if kind == "itself":
        return builder, [builder.add("stack", one, one)]
    if kind == "a view of itself":
        return builder, [builder.add("stack", one, builder.add("source", one))]
    whole = builder.add("stack", one, two)
    if kind == "twice":
        return builder, [whole, builder.add("stack", two, builder.quantize(0, dict(GRID), 20))]
    return builder, [builder.add("stack", whole, builder.quantize(1, dict(GRID), 20))]


@pytest.mark.parametrize("kind", ["itself", "a view of itself", "twice", "a stack"])
def test_codes_stand_in_one_place_of_one_stack(kind):
    builder, stacks = stacked(kind)
    with pytest.raises(PlanError, match="stacked"):
        builder.model(["features"] * 2, *(builder.add("dequantize", stack) for stack in stacks))


@pytest.mark.parametrize("edge_ids", [[0, 0, 1], [1, 2, 2], [0, 1, 3], [-1, 0, 1]])
def test_edge_ids_are_the_places_of_edges_each_once(edge_ids):
    assert Graph([0, 1, 3], [0, 0, 1], edge_ids=[2, 0, 1]).edges[0].tolist() == [0, 1, 0]
    with pytest.raises(GraphError, match="each once"):
        Graph([0, 1, 3], [0, 0, 1], edge_ids=edge_ids)


def concats(times):
    builder = PlanBuilder()
    value = 0
    for _ in range(times):
        value = builder.add("concat", value, value)
    return builder.model(["features"], value)


def wide_matrix(columns):
    builder = PlanBuilder()
    value = builder.add("matrix", 0, columns=columns, rows={"of": "rows", "value": 0, "axis": 0})
    return builder.model(["array"], builder.add("bias", value, bias=1.0))


def called(function, *args):
    builder = PlanBuilder()
    reads = [0] if any(isinstance(arg, dict) for arg in args) else []
    return builder.model(["array"], builder.add("call", *reads, function=function, args=list(args), kwargs={}))


X = {"value": 0}


@pytest.mark.parametrize(
    "model",
    [
        concats(28),
        wide_matrix(10**8),
        called("zeros", 10**10),
        called("full", [10**6, 10**6], 1.0),
        called("arange", 10**11),
        called("eye", 10**6),
        called("repeat", X, 10**9, 1),
        called("tile", X, [10**9, 1]),
        called("repeat_interleave", X, 10**9),
        called("pad", X, [10**10, 0]),
        called("expand", {"value": 0}, 10**6, 10**6, 3, 4),
        called("diag", X, 10**9),
        called("linspace", 0.0, 1.0, 10**10),
    ],
    ids=lambda model: model.plan.ops[0].get("function", model.plan.ops[0]["op"]),
)
def test_memory_is_in_proportion_to_file_and_arguments(model):
    function = model.plan.ops[0].get("function")
    features = np.ones((3,) if function == "diag" else (3, 4), np.float32)
    with pytest.raises(GraphError, match=r"bytes|cannot be computed"):
        model(features)


def test_warming_up_makes_no_wide_features():
    builder = PlanBuilder()
    grid = {"bits": 2, "granularity": "tensor", "scale": 0.5, "zero_point": 1.5, "offset": 1.5}
    model = builder.model(["features"], builder.add("dequantize", builder.quantize(0, grid, 10**8)))
    with pytest.raises(GraphError, match="asks for 3,200,000,000 bytes"):
        warm_up(model)


def test_a_list_of_blocks_is_no_longer_than_models_are():
    builder = PlanBuilder()
    with pytest.raises(PlanError, match="index must be a whole number from 0 to 1,023"):
        builder.model(["graph", "features"], builder.add("item", 0, index=2**30), builder.add("relu", 1))


def test_what_memory_allows_runs():
    assert concats(10)(np.ones((3, 4), np.float32))[0].shape == (3, 4096)
    assert called("zeros", 10**6)(np.ones((3, 4), np.float32))[0].shape == (10**6,)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("add", (np.ones((4000, 1)), np.ones((1, 4000)))),
        ("outer", (np.ones(4000), np.ones(4000))),
        ("matmul", (np.ones((4000, 2)), np.ones((2, 4000)))),
        ("einsum", ("ik,jk->ij", np.ones((4000, 2)), np.ones((4000, 2)))),
        ("cdist", (np.ones((4000, 2)), np.ones((4000, 2)))),
        ("one_hot", (np.array([4000] * 4000),)),
        ("bincount", (np.array([16 * 10**6]),)),
    ],
)
def test_results_larger_than_what_is_read_are_told_before(name, args, monkeypatch):
    function = FUNCTIONS[name]
    monkeypatch.setattr(function, "function", lambda *args: pytest.fail("it was called"))
    with pytest.raises(GraphError, match="allow"):
        function.within(10**8, args, {})


class Promises:
    """Features that give other rows than their shape says."""

    shape, dtype = (40, 20), np.dtype(np.float32)

    def __init__(self, rows, columns):
        self.rows, self.columns = rows, columns

    def __getitem__(self, rows):
        return np.ones((self.rows, self.columns), np.float32)


@pytest.mark.parametrize(("rows", "columns"), [(1, 20), (0, 20), (8, 19), (80, 20)])
@pytest.mark.parametrize("returned", [False, True])
def test_lazy_features_give_the_rows_they_promise(rows, columns, returned):
    builder = PlanBuilder()
    out = builder.add("dequantize", builder.quantize(0, dict(GRID), 20))
    model = builder.model(["features"], *([builder.add("source", 0)] if returned else []), out)
    with pytest.raises(GraphError, match="gave shape"):
        model.inference(Promises(rows, columns), batch_size=8)
    assert model.inference(normal(RNG, 40, 20), batch_size=8)[-1].shape == (40, 20)


_TAKE_ANY = ("concat", "maximum", "multiply", "combine", "stack")


@pytest.mark.parametrize("number", [0, 1], ids=["version2", "version3"])
@pytest.mark.parametrize("change", ["one fewer", "one more"])
def test_operations_read_as_many_values_as_they_take(number, change):
    parts, arrays = list(plans())[number]
    for place, op in enumerate(parts["ops"]):
        if op["op"] in _TAKE_ANY or (op["op"] in ("degree", "attend") and change == "one more"):
            continue
        mutant = copy.deepcopy(parts)
        reads = mutant["ops"][place]["in"]
        reads[:] = reads[:-1] if change == "one fewer" else [*reads, None]
        assert refused(mutant, arrays), op


_ATOMS = st.sampled_from(
    [None, True, 0, 1, 2, -1, 2**40, 10**400, 0.5, float("nan"), "max", "shift", "a0", [], {}, [[]]]
)


@pytest.mark.parametrize("number", [0, 1], ids=["version2", "version3"])
@settings(max_examples=EXAMPLES * 10, deadline=None)
@given(data=st.data())
def test_a_plan_of_anything_is_refused_in_words(number, data):
    parts, arrays = list(plans())[number]
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from([path for path in places(parts) if len(path) > 1]))
        holder, key = at(parts, path[:-1]), path[-1]
        other = at(parts, data.draw(st.sampled_from(list(places(parts)))))
        holder[key] = data.draw(_ATOMS | st.just(copy.deepcopy(other)))
    refused(parts, arrays)  # with any other error it fails
