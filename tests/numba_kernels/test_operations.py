"""Operations on heads, edges, segments and rows against the NumPy twin."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numba_kernels import Graph, GraphError, PackedModel, Plan, PlanError, reference
from numba_kernels.kernels.maps import MAPS
from tests.numba_kernels.plans import (
    EXAMPLES,
    WIDTHS,
    PlanBuilder,
    draw_graph,
    normal,
    per_row,
    shifted,
    sizes,
    static,
)

widths = st.integers(1, 150)
slow = functools.partial(pytest.param, marks=pytest.mark.slow)
bits_of_codes = st.sampled_from(WIDTHS)


def assert_close_to_twin(model, *arguments, **options):
    expected = reference.run(model.plan, dict(enumerate(arguments)))
    got = model(*arguments, **options)
    for value, output in zip(model.plan.outputs, got):
        np.testing.assert_allclose(output, expected[value], rtol=2e-6, atol=2e-6)
    return got


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    sizes=sizes,
    columns=widths,
    bits=bits_of_codes,
    hub=st.booleans(),
    weights=st.sampled_from([None, np.float32, np.int8]),
    seed=st.integers(0, 2**32),
)
def test_maximum_over_neighbours(sizes, columns, bits, hub, weights, seed):
    num_src, num_dst, edges = sizes
    rng, builder = np.random.default_rng(seed), PlanBuilder()
    graph = draw_graph(rng, num_src, num_dst, edges, hub)
    codes = builder.quantize(1, static(bits, columns, rng, per_channel=True), columns)
    out = builder.add("aggregate", 0, codes, None if weights is None else 2, None, reduce="max")
    model = builder.model(["graph", "features", "edge_weight"][: 2 if weights is None else 3], out)
    given = [graph, normal(rng, num_src, columns)]
    given += [] if weights is None else [rng.normal(scale=3, size=edges).astype(weights)]
    values = reference.run(model.plan, dict(enumerate(given)))
    np.testing.assert_array_equal(model(*given)[0], values[out])
    messages = values[codes].values()[graph.indices] * (1 if weights is None else given[2][:, None].astype(np.float32))
    for row in range(min(num_dst, 5)):
        received = messages[graph.indptr[row] : graph.indptr[row + 1]]
        largest = received.max(0) if len(received) else np.zeros(columns, np.float32)
        np.testing.assert_allclose(values[out][row], largest, rtol=1e-6)


@settings(max_examples=EXAMPLES, deadline=None)
@given(sizes=sizes, columns=widths, bits=bits_of_codes, ordered=st.booleans(), seed=st.integers(0, 2**32))
def test_sums_with_edge_codes(sizes, columns, bits, ordered, seed):
    num_src, num_dst, edges = sizes
    rng, builder = np.random.default_rng(seed), PlanBuilder()
    ids = None if ordered else rng.permutation(edges)
    graph = draw_graph(rng, num_src, num_dst, edges, edge_ids=ids)
    quantizer = static(bits, columns, rng, per_channel=True)
    quantizer["scale"], quantizer["zero_point"] = map(builder.store, (quantizer["scale"], quantizer["zero_point"]))
    nodes, on_edges = (builder.quantize(v, quantizer, columns) for v in (1, 2))
    out = builder.add("aggregate_edges", 0, nodes, on_edges)
    builder.ops[1]["quantizer"] = builder.ops[0]["quantizer"]
    model = builder.model(["graph", "features", "features"], out)
    feat, edge_feat = normal(rng, num_src, columns), normal(rng, edges, columns)
    values = reference.run(model.plan, {0: graph, 1: feat, 2: edge_feat})
    np.testing.assert_array_equal(model(graph, feat, edge_feat)[0], values[out])
    target, order = np.repeat(np.arange(num_dst), graph.in_degrees), np.arange(edges) if ordered else ids
    expected = np.zeros((num_dst, columns))
    messages = values[nodes].values().astype(float)[graph.indices] + values[on_edges].values()[order]
    np.add.at(expected, target, np.maximum(messages, 0))
    np.testing.assert_allclose(values[out], expected, rtol=1e-3, atol=1e-3)


@settings(max_examples=EXAMPLES, deadline=None)
@given(sizes=sizes, count=st.integers(1, 5), columns=widths, shift=st.booleans(), seed=st.integers(0, 2**32))
def test_sums_by_edge_type(sizes, count, columns, shift, seed):
    """A stack of codes, one part a type, summed over the edges of that type."""
    num_src, num_dst, edges = sizes
    rng, builder = np.random.default_rng(seed), PlanBuilder()
    graph = draw_graph(rng, num_src, num_dst, edges, edge_ids=rng.permutation(edges))
    types = rng.integers(count, size=edges)
    quantizer = shifted(4, rng) if shift else static(4, columns, rng, per_channel=True)
    parts = [builder.quantize(2 + n, quantizer, columns) for n in range(count)]
    for op in builder.ops:
        op["quantizer"] = builder.ops[0]["quantizer"]
    by_type = builder.add("edges_by_type", 0, 1, count=count)
    out = builder.add("aggregate", by_type, builder.add("stack", *parts), None, None)
    model = builder.model(["graph", "edge_types", *["features"] * count], out)
    features = [normal(rng, num_src, columns) for _ in range(count)]
    values = reference.run(model.plan, dict(enumerate((graph, types, *features))))
    np.testing.assert_array_equal(model(graph, types, *features)[0], values[out])
    target, ordered = np.repeat(np.arange(num_dst), graph.in_degrees), types[graph.edge_ids]
    expected = np.zeros((num_dst, columns))
    for e in range(edges):
        expected[target[e]] += values[parts[ordered[e]]].values()[graph.indices[e]]
    np.testing.assert_allclose(values[out], expected, rtol=1e-3, atol=1e-3)


@settings(max_examples=EXAMPLES, deadline=None)
@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=12), columns=widths, seed=st.integers(0, 2**32))
@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
def test_readout(reduce, counts, columns, seed):
    rng, builder, nodes = np.random.default_rng(seed), PlanBuilder(), sum(counts)
    graph = draw_graph(rng, nodes, nodes, 3 * nodes, batch_sizes=counts)
    relu = builder.add("relu", 1)
    out = builder.add("readout", 0, relu, reduce=reduce)
    again = builder.add("readout", 0, 1, reduce=reduce)
    got = assert_close_to_twin(builder.model(["graph", "features"], out, again), graph, normal(rng, nodes, columns))
    assert got[0].shape == (len(counts), columns)


@settings(max_examples=EXAMPLES, deadline=None)
@given(rows=st.integers(1, 90), columns=widths, scale=st.sampled_from([0.01, 1.0, 30.0]), seed=st.integers(0, 2**32))
@pytest.mark.parametrize("function", MAPS)
def test_maps(function, rows, columns, scale, seed):
    rng, builder = np.random.default_rng(seed), PlanBuilder()
    parameter = {"leaky_relu": 0.2, "elu": 1.3, "standardise": 1e-5, "normalize": 1e-12}.get(function, 0.0)
    out = builder.add("map", 0, function=function, parameter=parameter)
    after = builder.add("bias", out, bias=0.5)  # what stands beyond the columns must not leak into what follows
    model, x = builder.model(["features"], out, after), scale * normal(rng, rows, columns)
    got = assert_close_to_twin(model, x)
    builder.ops[-1] = {"op": "quantize", "in": [out], "out": 999, "quantizer": per_row(8, rng), "columns": columns}
    coded = builder.model(["features"], out, builder.add("dequantize", 999))
    values = reference.run(coded.plan, {0: x})
    step = np.broadcast_to(values[999].scale, (rows, columns))  # a row's own, found from all that stands in it
    assert (np.abs(coded(x)[1] - values[coded.plan.outputs[1]]) <= 1.01 * step + 1e-6).all()
    if function == "softmax":
        np.testing.assert_allclose(got[0].sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize(("heads", "per_head"), [(6, 16), (9, 32), (3, 40)])
def test_sums_of_heads_are_taken_in_order(heads, per_head):
    """However many are taken at once, they are rounded as one after another is."""
    rng, builder, columns = np.random.default_rng(0), PlanBuilder(), heads * per_head
    x, vector = normal(rng, 5, columns), rng.normal(size=columns).astype(np.float32)
    wide = builder.add("dequantize", builder.quantize(0, static(8, columns, rng, per_channel=True), columns))
    sums = builder.add("head_sums", wide, heads=heads, vector=builder.store(vector))
    model = builder.model(["features"], wide, sums, builder.add("head_mean", wide, heads=heads))
    values, *got = model(x)
    of_heads, share = values.reshape(5, heads, per_head), np.float32(1 / heads)
    weighted = of_heads * vector.reshape(heads, per_head)
    np.testing.assert_array_equal(got[0], np.add.accumulate(weighted, 2, np.float32)[:, :, -1])
    np.testing.assert_array_equal(got[1], np.add.accumulate(of_heads * share, 1, np.float32)[:, -1])


@settings(max_examples=EXAMPLES, deadline=None)
@given(rows=st.integers(1, 90), heads=st.integers(1, 9), per_head=st.integers(1, 20), seed=st.integers(0, 2**32))
def test_heads_and_columns(rows, heads, per_head, seed):
    rng, builder, columns = np.random.default_rng(seed), PlanBuilder(), heads * per_head
    coded = builder.quantize(0, static(8, columns, rng, per_channel=True), columns)  # gives the features a width
    scaled = builder.add("scale", builder.add("dequantize", coded), scale=0.5)
    vector = builder.store(rng.normal(size=columns).astype(np.float32)) if columns > 1 else 0.7
    outs = [
        builder.add("head_sums", builder.add("combine", scaled, coefficients=[1.0]), heads=heads, vector=vector),
        builder.add("combine", scaled, coefficients=[2.0]),
    ]
    builder.ops.insert(0, {"op": "relu", "in": [0], "out": 99})
    mean = builder.add("head_mean", outs[1], heads=heads)
    beside = builder.add("concat", mean, outs[0], 99)
    largest = builder.add("maximum", outs[1], 99)
    coded = builder.quantize(
        beside, static(4, per_head + heads + columns, rng, per_channel=True), per_head + heads + columns
    )
    model = builder.model(["features"], *outs, mean, beside, largest, builder.add("dequantize", coded))
    x = normal(rng, rows, columns)
    expected, got = reference.run(model.plan, {0: x}), model(x)
    for value, output in zip(model.plan.outputs[:-1], got):
        np.testing.assert_allclose(output, expected[value], rtol=1e-5, atol=1e-5)


@given(rows=st.integers(1, 90), columns=st.integers(1, 70), seed=st.integers(0, 999))
@settings(max_examples=EXAMPLES, deadline=None)
def test_products_number_by_number(rows, columns, seed):
    rng, builder = np.random.default_rng(seed), PlanBuilder()
    gate = builder.add("map", 0, function="leaky_relu", parameter=0.25)
    pair = builder.add("multiply", gate, 1)
    square = builder.add("multiply", pair, pair, gate)
    model = builder.model(["features", "features"], builder.add("combine", square, pair, coefficients=[1.0, 0.5]), pair)
    feats = [normal(rng, rows, columns) for _ in range(2)]
    values = reference.run(model.plan, dict(enumerate(feats)))
    for value, output in zip(model.plan.outputs, model(*feats)):
        np.testing.assert_array_equal(output, values[value])


def plan_of(*ops, kinds=("features",)):
    inputs = [{"name": f"x{v}", "kind": k, "value": v, "optional": False} for v, k in enumerate(kinds)]
    return Plan(inputs, list(ops), [ops[-1]["out"]], {})


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        ([{"op": "map", "in": [0], "out": 1, "function": "sin", "parameter": 0.0}], "function must be .* got 'sin'"),
        (
            [{"op": "map", "in": [0], "out": 1, "function": "elu", "parameter": float("nan")}],
            "parameter must be a finite number",
        ),
        ([{"op": "concat", "in": [], "out": 1}], "nothing to put side by side"),
        ([{"op": "multiply", "in": [], "out": 1}], "multiply of widths"),
        ([{"op": "head_mean", "in": [0], "out": 1, "heads": 2}], "heads of None columns"),
    ],
)
def test_malformed_operations_are_refused(ops, message):
    with pytest.raises(PlanError, match=message):
        plan_of(*ops)


def test_arguments_that_do_not_fit_are_refused():
    graph, x = Graph([0, 1, 3], [1, 0, 1], batch_sizes=[1, 1]), np.ones((2, 3), np.float32)
    readout = PackedModel(
        plan_of({"op": "readout", "in": [0, 1], "out": 2, "reduce": "sum"}, kinds=("graph", "features"))
    )
    with pytest.raises(GraphError, match="a row for each of 2 nodes, got 3"):
        readout(graph, np.ones((3, 3), np.float32))
    with pytest.raises(GraphError, match=r"batch_sizes must add up to 2 nodes, got 3"):
        Graph([0, 1, 3], [1, 0, 1], batch_sizes=[1, 2])
    with pytest.raises(GraphError, match="edge types must be from 0 to 1, got 0 to 2"):
        graph.by_type([0, 1, 2], 2)
    with pytest.raises(GraphError, match=r"edge types must have shape \(3,\), got \(2,\)"):
        graph.by_type([0, 1], 2)
    with pytest.raises(GraphError, match="must be positive"):
        graph.normed(np.array([1.0, -1.0, 1.0]))
    np.testing.assert_array_equal(readout(graph, x), x)
