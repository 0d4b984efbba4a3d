"""Operations on heads, edges, segments and rows against the NumPy twin."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numba_kernels import Graph, GraphError, PackedModel, Plan, PlanError, reference
from numba_kernels.kernels.attend import KEPT
from numba_kernels.kernels.maps import MAPS
from tests.numba_kernels.plans import (
    EXAMPLES,
    JIT_OFF,
    WIDTHS,
    PlanBuilder,
    draw_graph,
    per_row,
    shifted,
    sizes,
    static,
)

widths = st.integers(1, 150)
slow = functools.partial(pytest.param, marks=pytest.mark.slow)
bits_of_codes = st.sampled_from(WIDTHS)


def normal(rng, rows, columns):
    return rng.normal(size=(rows, columns)).astype(np.float32)


def assert_close_to_twin(model, *arguments, **options):
    expected = reference.run(model.plan, dict(enumerate(arguments)))
    got = model(*arguments, **options)
    for value, output in zip(model.plan.outputs, got):
        np.testing.assert_allclose(output, expected[value], rtol=2e-6, atol=2e-6)
    return got


def check_attend(graph, bits, heads, per_head, wide, rng, score_bits=8, slope=0.2):
    builder, columns, width = PlanBuilder(), heads * per_head, heads * (3 if wide else 1)
    messages = builder.quantize(1, static(bits, columns, rng, per_channel=True), columns)
    scores = [static(score_bits, width, rng, per_channel=wide) for _ in range(2)]
    left, right = (builder.quantize(v, grid, width) for v, grid in zip((2, 3), scores))
    attention = {"bits": 8, "granularity": "tensor", "scale": 1 / 255, "zero_point": 0.0, "offset": 0.0}
    vector = builder.store(rng.normal(size=width).astype(np.float32)) if width > 1 else 1.0
    spec = {"heads": heads, "slope": slope, "vector": vector, "quantizer": attention}
    out = builder.add("attend", 0, messages, left, right, **spec)
    model = builder.model(["graph", "features", "features", "features"], out)
    shapes = (graph.num_src, columns), (graph.num_src, width), (graph.num_dst, width)
    features = [normal(rng, *shape) for shape in shapes]
    values = reference.run(model.plan, dict(enumerate((graph, *features))))
    (got,) = model(graph, *features)
    # Where attention falls on the edge between two codes, exponentials that round differently may take either.
    step = np.abs(values[messages].values()).max(initial=0) / 255
    difference = np.abs(got - values[out])
    assert difference.max(initial=0) <= 1.01 * step * max(graph.max_in_degree, 1) + 1e-5
    assert difference.size < 500 or (difference > 1e-5).mean() < 0.01
    assert np.array_equal(model(graph, *features)[0], got)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    sizes=sizes, heads=st.integers(1, 20), per_head=st.integers(1, 9), wide=st.booleans(), seed=st.integers(0, 2**32)
)
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_attend(bits, sizes, heads, per_head, wide, seed):
    rng = np.random.default_rng(seed)
    check_attend(draw_graph(rng, *sizes), bits, heads, per_head, wide, rng)


@pytest.mark.parametrize(
    ("heads", "per_head", "wide"),
    [(8, 8, False), slow(3, 20, True), slow(40, 2, False), slow(300, 1, False)],
)
def test_attention_of_more_edges_than_are_kept(heads, per_head, wide):
    rng, kept = np.random.default_rng(0), max(KEPT // heads // 4, 1) * 4
    degrees = [0, kept - 1, kept, kept + 1, 2 * kept, 2 * kept + 6, 3]
    graph = Graph(np.cumsum([0, *degrees]), rng.integers(50, size=sum(degrees)), num_src=50)
    check_attend(graph, 4, heads, per_head, wide, rng)


@pytest.mark.parametrize("score_bits", [slow(1), 2, slow(4)])
@pytest.mark.parametrize(
    ("heads", "per_head", "wide"), [(1, 40, True), slow(20, 3, False), slow(48, 16, True), slow(5, 48, False)]
)
def test_attention_of_scores_of_few_bits(score_bits, heads, per_head, wide):
    rng = np.random.default_rng(score_bits)
    check_attend(draw_graph(rng, 60, 20, 300), 2, heads, per_head, wide, rng, score_bits, slope=-0.5)


@pytest.mark.parametrize(("bits", "edges"), [(2, 0), (8, 0), (8, 1)])
def test_attention_of_hardly_any_edges(bits, edges):
    rng = np.random.default_rng(edges)
    check_attend(draw_graph(rng, 9, 7, edges), bits, 2, 16, False, rng)


@pytest.mark.skipif(JIT_OFF, reason="slow without the compiler")
def test_attention_over_a_hub_is_summed_exactly():
    """A node of more in-neighbours than 255 times a code an edge allowed; its attention adds up to 1."""
    rng, degree = np.random.default_rng(0), 200_000
    graph = Graph([0, degree, degree + 2], rng.integers(1000, size=degree + 2), num_src=1000)
    builder, one = PlanBuilder(), {"bits": 8, "granularity": "tensor", "zero_point": 0.0, "offset": 0.0}
    messages = builder.quantize(1, static(8, 20, rng, per_channel=True), 20)
    left, right = (builder.quantize(v, {**one, "scale": 1.0}, 2) for v in (2, 3))
    vector = builder.store(np.float32([1, 0.5]))
    attention = {**one, "scale": 2.0**-24}
    out = builder.add("attend", 0, messages, left, right, heads=2, slope=0.2, vector=vector, quantizer=attention)
    model = builder.model(["graph", "features", "features", "features"], out)
    # Scores are equal, so that attention is 1 / degree on each edge.
    features = normal(rng, 1000, 20), np.ones((1000, 2), np.float32), np.ones((2, 2), np.float32)
    with pytest.raises(GraphError, match="overflows an int32 sum of codes times coded attention"):
        model(graph, *features)
    builder.ops[-1]["quantizer"]["scale"] = 1 / (degree * 40)
    model = builder.model(["graph", "features", "features", "features"], out)
    (got,) = model(graph, *features)
    expected = reference.run(model.plan, dict(enumerate((graph, *features))))[out]
    np.testing.assert_array_equal(got, expected)


def test_attention_of_one_neighbour_is_one():
    rng, builder = np.random.default_rng(0), PlanBuilder()
    graph = Graph([0, 1, 2], [1, 0])
    messages = builder.quantize(1, static(4, 6, rng, per_channel=False), 6)
    left, right = (builder.quantize(v, static(8, 2, rng, per_channel=False), 2) for v in (2, 3))
    spec = {"bits": 8, "granularity": "tensor", "scale": 1 / 255, "zero_point": 0.0, "offset": 0.0}
    out = builder.add("attend", 0, messages, left, right, heads=2, slope=0.2, vector=1.0, quantizer=spec)
    model = builder.model(["graph", "features", "features", "features"], out, builder.add("dequantize", messages))
    sums, values = model(graph, normal(rng, 2, 6), normal(rng, 2, 2), normal(rng, 2, 2))
    np.testing.assert_allclose(sums, values[::-1], rtol=1e-6)


@settings(max_examples=EXAMPLES, deadline=None)
@given(sizes=sizes, columns=widths, bits=bits_of_codes, hub=st.booleans(), seed=st.integers(0, 2**32))
def test_maximum_over_neighbours(sizes, columns, bits, hub, seed):
    num_src, num_dst, edges = sizes
    rng, builder = np.random.default_rng(seed), PlanBuilder()
    graph = draw_graph(rng, num_src, num_dst, edges, hub)
    codes = builder.quantize(1, static(bits, columns, rng, per_channel=True), columns)
    out = builder.add("aggregate", 0, codes, None, None, reduce="max")
    model, feat = builder.model(["graph", "features"], out), normal(rng, num_src, columns)
    values = reference.run(model.plan, {0: graph, 1: feat})
    np.testing.assert_array_equal(model(graph, feat)[0], values[out])
    messages = values[codes].values()
    for row in range(min(num_dst, 5)):
        neighbours = graph.indices[graph.indptr[row] : graph.indptr[row + 1]]
        largest = messages[neighbours].max(0) if len(neighbours) else np.zeros(columns, np.float32)
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
        ([{"op": "map", "in": [0], "out": 1, "function": "sin", "parameter": 0.0}], "function 'sin'"),
        ([{"op": "map", "in": [0], "out": 1, "function": "elu", "parameter": float("nan")}], "not a number"),
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
