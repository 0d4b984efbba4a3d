"""Array functions within plans: between launches of kernels, in files, on graphs of other sizes."""

import numpy as np
import pytest

from numba_kernels import GraphError, load, warm_up
from numba_kernels.run.calls import Arrays

from .arrays import call, call_value, model_of, size_of
from .plans import PlanBuilder, assert_equals_twin, draw_graph, operations, per_row, static


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def mixed(rng):
    """Codes, a product, an array function with the product and an array, codes again, a sum; its file, loaded."""
    plan = PlanBuilder()
    product = plan.linear(plan.quantize(0, static(2, 20, rng, False), 20), rng, 20, 8, 2)
    added = call(plan, "add", {"value": product}, {"value": 1})
    matrix = plan.add("matrix", added, columns=8, rows={"of": "nodes", "graph": 2})
    total = plan.add("aggregate", 2, plan.quantize(matrix, static(4, 8, rng, False), 8), None, None, reduce="sum")
    return model_of(plan, ("features", "array", "graph"), total, added)


def arguments(rng, nodes, columns=20):
    return (
        rng.normal(size=(nodes, columns)).astype(np.float32),
        rng.normal(size=(1, 8)).astype(np.float32),
        draw_graph(rng, nodes, nodes, 7 * nodes),
    )


@pytest.mark.slow
def test_a_call_between_kernels_on_two_graphs(mixed, rng, tmp_path):
    again = load(mixed.save(tmp_path / "model.safetensors"))
    for nodes in (30, 50):
        given = arguments(rng, nodes)
        for one, other in zip(assert_equals_twin(again, *given), mixed(*given)):
            np.testing.assert_array_equal(one, other)
    assert len(again._executor._programs) == 1


def test_layerwise_inference_runs_calls(mixed, rng):
    given = arguments(rng, 30)
    for one, other in zip(mixed.inference(*given, batch_size=7), mixed(*given)):
        np.testing.assert_array_equal(one, other)


def test_shapes_that_do_not_fit_are_named(mixed, rng):
    x, _, graph = arguments(rng, 30)
    with pytest.raises(GraphError, match=r"add\(float32 \(30, 8\), float32 \(3,\)\) cannot be computed"):
        mixed(x, np.zeros(3, np.float32), graph)


def test_functions_of_arrays_alone_need_no_kernels(rng):
    plan = PlanBuilder()
    parts = call(plan, "split", {"value": 0}, 2, {"size": size_of(1)}, out=3)
    total = call(plan, "add", {"value": parts[0]}, {"value": parts[2]})
    model = model_of(plan, ("array", "array"), total, parts[1])
    x = rng.normal(size=(2, 6, 3))
    one, two = model(x, np.zeros(1, bool))
    np.testing.assert_array_equal(one, x[:, :2].astype(np.float32) + x[:, 4:].astype(np.float32))
    np.testing.assert_array_equal(two, x[:, 2:4].astype(np.float32))
    assert operations(model) == set() and np.shares_memory(two, x) is False
    with pytest.raises(GraphError, match="split gave 2 arrays where 3 are expected"):
        model(x[:, :4], np.zeros(1))


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "uint8", "bool", "int64"])
def test_arrays_that_are_given_have_one_of_three_dtypes(dtype):
    plan = PlanBuilder()
    model = model_of(plan, ("array",), call(plan, "clone", {"value": 0}))
    (got,) = model(np.arange(6).reshape(1, 2, 3).astype(dtype))
    assert got.dtype == {"f": np.float32, "b": np.bool_}.get(np.dtype(dtype).kind, np.int64) and got.shape == (1, 2, 3)
    with pytest.raises(GraphError, match="x0 must be an array of numbers: .* got <U1"):
        model(np.array(["a"]))


def test_constants_sizes_and_slices(rng):
    plan = PlanBuilder()
    table = plan.store(rng.normal(size=(4, 5, 2)).astype(np.float32))
    nodes = {"size": {"of": "nodes", "graph": 1, "plus": -1}}
    part = call(plan, "getitem", {"value": 0}, [{"slice": [None, nodes, 2]}, "...", None])
    picked = call(plan, "index_select", {"array": table}, 1, {"value": 2})
    filled = call(plan, "zeros", {"size": {"of": "edges", "graph": 1, "times": 2}}, {"size": 7 - 4}, dtype="bool")
    model = model_of(plan, ("features", "graph", "array"), part, picked, filled)
    for nodes in (6, 9):
        x = rng.normal(size=(nodes, 3)).astype(np.float32)
        one, two, three = model(x, draw_graph(rng, nodes, nodes, 20), np.array([4, 0, 4]))
        np.testing.assert_array_equal(one, x[: nodes - 1 : 2, :, None])
        np.testing.assert_array_equal(two, plan.arrays[table][:, [4, 0, 4]])
        assert three.shape == (40, 3) and three.dtype == np.bool_


def test_a_matrix_has_the_rows_of_what_is_given(rng):
    plan = PlanBuilder()
    rows = {"of": "rows", "value": 0, "axis": 1, "times": 2}
    turned = call(plan, "reshape", call_value(call(plan, "transpose", {"value": 0}, 0, 1)), -1, 8)
    matrix = plan.add("matrix", turned, columns=8, rows=rows)
    product = plan.linear(plan.quantize(matrix, per_row(4, rng), 8), rng, 8, 5, 4)
    model = model_of(plan, ("array",), product, matrix)
    for shape in ((4, 6, 4), (4, 9, 4), (2, 6, 8)):
        assert_equals_twin(model, rng.normal(size=shape).astype(np.float32))
    with pytest.raises(GraphError, match=r"expected an array of 12 rows of 8 numbers, got shape \(6, 8\)"):
        model(rng.normal(size=(2, 6, 4)).astype(np.float32))


def test_rows_of_matrices_that_kernels_make(rng):
    plan = PlanBuilder()
    product = plan.linear(plan.quantize(0, per_row(2, rng), 6), rng, 6, 4, 2)
    doubled = call(plan, "repeat", {"value": product}, 2, 1)
    rows = {"of": "rows", "value": product, "axis": 0}
    matrix = plan.add("matrix", doubled, columns=4, rows={**rows, "times": 2})
    tail = call(plan, "getitem", {"value": plan.add("relu", matrix)}, {"slice": [{"size": rows}, None, None]})
    less = plan.add("matrix", tail, columns=4, rows=rows)
    model = model_of(plan, ("features",), plan.add("relu", less), matrix, product)
    for nodes in (1, 7, 40):
        assert_equals_twin(model, rng.normal(size=(nodes, 6)).astype(np.float32))
    assert len(model._executor._programs) == 1


def test_what_is_read_for_its_shape_only_is_not_made(rng):
    plan = PlanBuilder()
    product = plan.linear(plan.quantize(0, per_row(2, rng), 6), rng, 6, 4, 2)
    zeros = call(plan, "zeros", {"size": {"of": "rows", "value": product, "axis": 0}}, 3)
    model = model_of(plan, ("features",), zeros)
    assert model(np.zeros((5, 6), np.float32))[0].shape == (5, 3) and operations(model) == set()


def test_an_array_read_late_for_its_shape_is_kept(rng):
    plan = PlanBuilder()
    half = call(plan, "getitem", {"value": 0}, {"slice": [None, None, 2]})
    matrix = plan.add("matrix", call(plan, "neg", {"value": 0}), columns=3, rows={"of": "rows", "value": 0, "axis": 0})
    later = call(plan, "neg", {"value": plan.add("relu", matrix)})
    last = call(plan, "getitem", {"value": later}, {"slice": [{"size": size_of(half)}, None, None]})
    (got,) = assert_equals_twin(model_of(plan, ("array",), last), rng.normal(size=(7, 3)).astype(np.float32))
    assert got.shape == (3, 3)


def test_results_are_no_views_of_memory_that_is_used_again(rng):
    plan, value, views = PlanBuilder(), 0, []
    for _ in range(4):  # views of what kernels make, held while they make more in the same places
        product = plan.linear(plan.quantize(value, per_row(4, rng), 8), rng, 8, 8, 4)
        views.append(call(plan, "unsqueeze", {"value": product}, 0))
        value = plan.add("matrix", call(plan, "squeeze", {"value": views[-1]}, 0), columns=8, rows=size_of(0))
    total = call(plan, "cat", [{"value": view} for view in views])
    assert_equals_twin(model_of(plan, ("features",), total), rng.normal(size=(33, 8)).astype(np.float32))


def test_arrays_are_dropped_when_nothing_reads_them_any_more(rng, monkeypatch):
    plan, value = PlanBuilder(), 0
    for _ in range(5):
        value = call(plan, "neg", {"value": value})
    model, held = model_of(plan, ("array",), value), []
    take = Arrays.take
    monkeypatch.setattr(Arrays, "take", lambda self, *rest: (take(self, *rest), held.append(len(self.made))))
    model(rng.normal(size=3))
    assert max(held) == 1


def test_numbers_that_are_not_finite_are_refused_where_kernels_read_them(rng):
    plan = PlanBuilder()
    matrix = plan.add("matrix", call(plan, "log", {"value": 0}), columns=3, rows=size_of(0))
    model = model_of(plan, ("array",), plan.add("relu", matrix))
    model(np.ones((2, 3)))
    with pytest.raises(GraphError, match="the result of log holds NaN or infinity"):
        model(np.zeros((2, 3)))


def test_edge_weights_and_graphs_are_read(rng):
    plan = PlanBuilder()
    scores = call(plan, "edge_softmax", {"value": 0}, call_value(call(plan, "mul", {"value": 1}, 2.0)))
    model = model_of(plan, ("graph", "edge_weight"), scores, optional=("edge_weight",))
    graph, weight = draw_graph(rng, 5, 5, 12, edge_ids=rng.permutation(12)), rng.normal(size=12).astype(np.float32)
    for weights in (weight, rng.integers(-5, 6, 12).astype(np.int8), weight.astype(np.float64)):
        assert_equals_twin(model, graph, weights)
    with pytest.raises(GraphError, match="computes with edge weights; pass them"):
        model(graph, None)
    with pytest.raises(GraphError, match="reads one graph here, got one of several edge types"):
        model({("a", "b", "c"): graph}, weight)


def test_destinations_of_blocks_are_the_first_rows(rng):
    plan = PlanBuilder()
    product = plan.linear(plan.quantize(0, per_row(2, rng), 6), rng, 6, 4, 2)
    head = plan.add("destination", product, 1)
    model = model_of(plan, ("features", "graph"), call(plan, "neg", {"value": head}))
    x = rng.normal(size=(9, 6)).astype(np.float32)
    (got,) = assert_equals_twin(model, x, draw_graph(rng, 9, 4, 12, is_block=True))
    assert got.shape == (4, 4)


def test_features_that_functions_read_do_not_come_in_batches(rng):
    plan = PlanBuilder()
    model = model_of(plan, ("features",), call(plan, "neg", {"value": 0}))
    with pytest.raises(GraphError, match="features that array functions read as they are do not come in batches"):
        model.inference(rng.normal(size=(9, 6)), batch_size=4)


def test_results_of_functions_are_written_where_asked(rng):
    plan = PlanBuilder()
    product = plan.linear(plan.quantize(0, per_row(2, rng), 6), rng, 6, 4, 2)
    model = model_of(plan, ("features",), call(plan, "neg", {"value": product}))
    x, out = rng.normal(size=(9, 6)).astype(np.float32), np.empty((9, 4), np.float32)
    (got,) = model.inference(x, batch_size=4, out=out)
    assert got is out
    np.testing.assert_array_equal(out, model(x)[0])
    with pytest.raises(GraphError, match=r"out must be float32 of shape \(9, 4\), got float32 \(8, 4\)"):
        model.inference(x, out=out[:8])


def test_threads_give_the_same(mixed, rng, tmp_path):
    given, path = arguments(rng, 3000), mixed.save(tmp_path / "model.safetensors")
    for one, other in zip(load(path, threads=1)(*given), load(path)(*given)):
        np.testing.assert_array_equal(one, other)


def test_models_that_take_arrays_cannot_be_warmed_up(mixed):
    with pytest.raises(ValueError, match="does not tell the shape of x1; call the model once instead"):
        warm_up(mixed)
