"""Sums weighted with attention, against their NumPy twin."""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numba_kernels import Graph, GraphError, PlanError, reference
from numba_kernels.kernels.attend import KEPT
from numba_kernels.plan.ops.attend import MOST_SLOPE, refuse_overflow

from .plans import (
    DRAWS_FROM_ALL,
    EXAMPLES,
    JIT_OFF,
    PlanBuilder,
    draw_graph,
    normal,
    sizes,
    static,
)

slow = functools.partial(pytest.param, marks=pytest.mark.slow)
rare = functools.partial(pytest.param, marks=pytest.mark.exhaustive)


def check_attend(graph, bits, heads, per_head, scored, rng, score_bits=8, slope=0.2, weighted=False):
    """Messages have ``per_head`` columns a head, scores are of ``scored`` numbers a head."""
    builder, columns, width = PlanBuilder(), heads * per_head, heads * scored
    messages = builder.quantize(1, static(bits, columns, rng, per_channel=True), columns)
    scores = [static(score_bits, width, rng, per_channel=scored > 1) for _ in range(2)]
    left, right = (builder.quantize(v, grid, width) for v, grid in zip((2, 3), scores))
    attention = {"bits": 8, "granularity": "tensor", "scale": 1 / 255, "zero_point": 0.0, "offset": 0.0}
    vector = builder.store(rng.normal(size=width).astype(np.float32)) if width > 1 else 1.0
    spec = {"heads": heads, "slope": slope, "vector": vector, "quantizer": attention}
    weight = 4 if weighted else None
    out = builder.add("attend", 0, messages, left, right, weight, **spec)
    decoded = [builder.add("dequantize", codes) for codes in (left, right)]
    attention = builder.add("attention", 0, *decoded, weight, **spec)
    model = builder.model(["graph", *["features"] * 3, "edge_weight"][: 5 if weighted else 4], out, attention)
    shapes = (graph.num_src, columns), (graph.num_src, width), (graph.num_dst, width)
    features = [normal(rng, *shape) for shape in shapes]
    features += [rng.uniform(-0.2, 1, graph.num_edges).astype(np.float32)] if weighted else []
    values = reference.run(model.plan, dict(enumerate((graph, *features))))
    got, by_edge = model(graph, *features)
    np.testing.assert_array_equal(by_edge, values[attention])
    # Where attention falls on the edge between two codes, exponentials that round differently may take either.
    step = np.abs(values[messages].values()).max(initial=0) / 255
    difference = np.abs(got - values[out])
    assert difference.max(initial=0) <= 1.01 * step * max(graph.max_in_degree, 1) + 1e-5
    assert (difference > 1e-5).sum() <= max(0.01 * difference.size, 2 * per_head)
    assert np.array_equal(model(graph, *features)[0], got)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    sizes=sizes,
    shape=st.tuples(st.integers(1, 20), st.integers(1, 9), st.sampled_from([1, 2, 3, 8, 16, 33]))
    if DRAWS_FROM_ALL
    else st.sampled_from([(1, 9, 3), (7, 5, 1), (5, 9, 16)]),
    seed=st.integers(0, 2**32),
)
@pytest.mark.parametrize("bits", [rare(1), slow(2), rare(4), slow(8)])
def test_attend(bits, sizes, shape, seed):
    """Of heads, columns of each, and numbers that scores of each are of."""
    rng = np.random.default_rng(seed)
    check_attend(draw_graph(rng, *sizes), bits, *shape, rng)


@pytest.mark.parametrize(
    ("heads", "per_head", "scored"),
    [slow(8, 8, 1), slow(3, 20, 3), slow(40, 2, 1), slow(300, 1, 1)],
)
def test_attention_of_more_edges_than_are_kept(heads, per_head, scored):
    rng, kept = np.random.default_rng(0), max(KEPT // heads // 4, 1) * 4
    degrees = [0, kept - 1, kept, kept + 1, 2 * kept, 2 * kept + 6, 3]
    graph = Graph(np.cumsum([0, *degrees]), rng.integers(50, size=sum(degrees)), num_src=50)
    check_attend(graph, 2, heads, per_head, scored, rng)


@pytest.mark.slow
def test_attention_with_weights_of_edges():
    """One node has more edges than are kept, and weights below 0 count as 0."""
    rng, degrees = np.random.default_rng(0), [0, KEPT // 8 + 5, 3]
    order = rng.permutation(sum(degrees))
    graph = Graph(np.cumsum([0, *degrees]), rng.integers(50, size=sum(degrees)), num_src=50, edge_ids=order)
    check_attend(graph, 2, 8, 8, 1, rng, weighted=True)


@pytest.mark.parametrize("score_bits", [slow(1), 2, slow(4)])
@pytest.mark.parametrize(
    ("heads", "per_head", "scored"), [(1, 40, 3), slow(20, 3, 1), slow(48, 16, 3), slow(5, 48, 1), slow(5, 4, 8)]
)
def test_attention_of_scores_of_few_bits(score_bits, heads, per_head, scored):
    rng = np.random.default_rng(score_bits)
    check_attend(draw_graph(rng, 60, 20, 300), 2, heads, per_head, scored, rng, score_bits, slope=-0.5)


@pytest.mark.parametrize(("bits", "edges", "per_head"), [(2, 0, 5), (8, 0, 16), (8, 1, 16)])
def test_attention_of_hardly_any_edges(bits, edges, per_head):
    rng = np.random.default_rng(edges)
    check_attend(draw_graph(rng, 9, 7, edges), bits, 2, per_head, 1, rng)


@pytest.mark.skipif(JIT_OFF, reason="slow without the compiler")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("degree", [8 * KEPT, 8 * KEPT // 2, 200_000, slow(2_000_000)])
def test_attention_over_a_hub_is_summed_exactly(degree, weighted):
    """Whatever the scale of attention, whose codes are 255 on each edge where it is small."""
    rng = np.random.default_rng(0)
    graph = Graph([0, degree, degree + 2], rng.integers(1000, size=degree + 2), num_src=1000)
    # Scores are equal, so that attention is 1 / degree on each edge.
    features = normal(rng, 1000, 40), np.ones((1000, 2), np.float32), np.ones((2, 2), np.float32)
    edge_weight = [rng.uniform(0.5, 2, degree + 2).astype(np.float32)] if weighted else []
    for scale in (2.0**-31, 1 / (degree * 40)):
        builder, one = PlanBuilder(), {"bits": 8, "granularity": "tensor", "zero_point": 0.0, "offset": 0.0}
        messages = builder.quantize(1, static(8, 40, rng, per_channel=True), 40)
        left, right = (builder.quantize(v, {**one, "scale": 1.0}, 2) for v in (2, 3))
        inputs, vector = (0, messages, left, right, *([4] if weighted else [])), builder.store(np.float32([1, 0.5]))
        out = builder.add("attend", *inputs, heads=2, slope=0.2, vector=vector, quantizer={**one, "scale": scale})
        model = builder.model(["graph", *["features"] * 3, *["edge_weight"] * weighted], out)
        arguments = (graph, *features, *edge_weight)
        expected = reference.run(model.plan, dict(enumerate(arguments)))[out]
        np.testing.assert_array_equal(model(*arguments)[0], expected)


def test_attention_whose_codes_add_up_to_more_than_int32_holds_is_refused():
    degree = 2**31 // 255 + 1
    graph = SimpleNamespace(max_in_degree=degree)
    for scale in (0, 2.0**-32):
        with pytest.raises(GraphError, match=f"codes of attention of a node of in-degree {degree} overflow an int32"):
            refuse_overflow(graph, 255, scale)
    refuse_overflow(graph, 255, 1e-3)
    refuse_overflow(SimpleNamespace(max_in_degree=degree - 1), 255, 0)


@pytest.mark.parametrize("slope", [-MOST_SLOPE - 1, 2.0**40])
def test_attention_of_a_slope_whose_parts_would_cancel_is_refused(slope):
    with pytest.raises(PlanError, match="a slope of"):
        check_attend(Graph([0, 1], [0]), 8, 1, 4, 1, np.random.default_rng(0), slope=slope)


@pytest.mark.parametrize("slope", [-MOST_SLOPE, MOST_SLOPE])
def test_attention_of_the_steepest_slopes(slope):
    rng = np.random.default_rng(0)
    check_attend(draw_graph(rng, 60, 20, 300), 8, 2, 4, 1, rng, slope=slope)


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
