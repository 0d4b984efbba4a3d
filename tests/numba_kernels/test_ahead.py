"""What runs ahead of a plan: graphs made of arrays, arrays that say how many rows there are; and made edge weights."""

import numpy as np
import pytest

from numba_kernels import GraphError, PackedModel, Plan
from numba_kernels.plan import PlanError

from .arrays import call
from .plans import PlanBuilder, assert_equals_twin, draw_graph, normal, static

COLUMNS = 6


class Builder(PlanBuilder):
    """Numbers of nodes, and sums over neighbours, besides."""

    def number(self, size):
        return call(self, "full", [], {"size": size}, dtype="int64")

    def sums(self, graph, features, weight=None):
        codes = self.quantize(features, static(4, COLUMNS, np.random.default_rng(0), True), COLUMNS)
        return self.add("aggregate", graph, codes, weight, None)


def made_of_tensors():
    """Sums over a graph of given edges, of as many nodes as there are features."""
    builder = Builder()
    ends = [call(builder, "to", {"value": value}, "int64") for value in (1, 2)]
    counts = [builder.number({"of": "rows", "value": 0, "axis": 0}) for _ in range(2)]
    graph = builder.add("make_graph", *ends, *counts)
    return builder.model(["features", "array", "array"], builder.sums(graph, 0), builder.sums(graph, 0))


def test_graphs_are_made_of_arrays():
    rng, model = np.random.default_rng(0), made_of_tensors()
    for nodes, edges in ((9, 30), (20, 41), (5, 0)):
        assert_equals_twin(model, normal(rng, nodes, COLUMNS), *rng.integers(nodes, size=(2, edges)))


@pytest.mark.parametrize(
    ("source", "destination", "message"),
    [
        ([0, 9], [0, 1], "edges between nodes that it has not, of 9 and 9"),
        ([0, -1], [0, 1], "edges between nodes that it has not"),
        ([0, 1], [0], "got shapes"),
        ([[0, 1]], [[0, 1]], "got shapes"),
    ],
)
def test_graphs_of_other_nodes_are_refused(source, destination, message):
    with pytest.raises(GraphError, match=message):
        made_of_tensors()(np.ones((9, COLUMNS), np.float32), np.array(source), np.array(destination))


def test_graphs_are_made_of_whole_numbers():
    builder = Builder()
    counts = [builder.number({"of": "rows", "value": 0, "axis": 0}) for _ in range(2)]
    model = builder.model(["features", "array", "array"], builder.sums(builder.add("make_graph", 1, 2, *counts), 0))
    with pytest.raises(GraphError, match="made of whole numbers, got float32 and int64"):
        model(np.ones((3, COLUMNS), np.float32), np.ones(2, np.float32), np.ones(2, np.int64))


def test_graphs_of_graphs_follow_each_other():
    """Each is made once of the one before it, and anew for another."""
    builder, graph = Builder(), 0
    for _ in range(3):
        source, destination = call(builder, "distinct_edges", {"value": graph}, out=2)
        counts = [builder.number({"of": of, "graph": graph}) for of in ("dst_nodes", "src_nodes")]
        graph = builder.add("make_graph", destination, source, *counts)
    model, rng = builder.model(["graph", "features"], builder.sums(graph, 1)), np.random.default_rng(0)
    first, second = (draw_graph(rng, nodes, nodes, 60) for nodes in (8, 13))
    results = [assert_equals_twin(model, first, normal(rng, 8, COLUMNS)) for _ in range(2)]
    kept = [ahead._made for ahead in model._executor._ahead]
    assert_equals_twin(model, first, normal(rng, 8, COLUMNS))
    assert [ahead._made for ahead in model._executor._ahead] == kept and len(results) == 2
    assert_equals_twin(model, second, normal(rng, 13, COLUMNS))
    assert not any(ahead._made is made for ahead, made in zip(model._executor._ahead, kept))


def test_rows_may_be_chosen_by_data():
    builder = Builder()
    chosen = call(builder, "nonzero", {"value": 1})
    rows = call(builder, "getitem", {"value": 0}, {"value": call(builder, "squeeze", {"value": chosen}, 1)})
    ahead = builder.add("ahead", chosen)
    matrix = builder.add("matrix", rows, rows={"of": "rows", "value": ahead, "axis": 0}, columns=COLUMNS)
    codes = builder.quantize(matrix, static(4, COLUMNS, np.random.default_rng(0), True), COLUMNS)
    model, rng = builder.model(["array", "array"], builder.add("dequantize", codes)), np.random.default_rng(1)
    for count in (12, 7):
        mask = rng.random(count) > 0.4
        (got,) = assert_equals_twin(model, normal(rng, count, COLUMNS), mask)
        assert len(got) == mask.sum() > 0


@pytest.mark.parametrize("reduce", ["sum", "max"])
def test_edge_weights_may_be_computed(reduce):
    builder, rng = Builder(), np.random.default_rng(0)
    codes = builder.quantize(1, static(4, COLUMNS, rng, True), COLUMNS)
    weight = builder.add("edge_weight", call(builder, "sigmoid", {"value": 2}))
    model = builder.model(
        ["graph", "features", "array"], builder.add("aggregate", 0, codes, weight, None, reduce=reduce)
    )
    for nodes, edges in ((9, 40), (14, 25)):
        graph = draw_graph(rng, nodes, nodes, edges, edge_ids=rng.permutation(edges))
        weights = rng.normal(size=edges).astype(np.float32)
        (got,) = model(graph, feat := normal(rng, nodes, COLUMNS), weights)
        plain = Builder()
        codes = plain.quantize(1, static(4, COLUMNS, np.random.default_rng(0), True), COLUMNS)
        plain.ops[0]["quantizer"], plain.arrays = builder.ops[0]["quantizer"], builder.arrays
        given = plain.model(
            ["graph", "features", "edge_weight"], plain.add("aggregate", 0, codes, 2, None, reduce=reduce)
        )
        np.testing.assert_array_equal(got, given(graph, feat, 1 / (1 + np.exp(-weights)))[0])


def test_what_runs_ahead_is_made_of_arrays():
    inputs = [{"name": "x", "kind": "features", "value": 0, "optional": False}]
    with pytest.raises(PlanError, match="value 0 is features, not array"):
        PackedModel(Plan(inputs, [{"op": "ahead", "in": [0], "out": 1}], [0], {}))
