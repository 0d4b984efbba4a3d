"""Kernels against their NumPy twin, exactly."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numba_kernels import Graph, GraphError, reference
from numba_kernels.layout import AHEAD, PACKED_BITS
from numba_kernels.run.one_run import Run
from numba_kernels.run.program import TILE_ROWS

from .plans import (
    EXAMPLES,
    JIT_OFF,
    WIDTHS,
    PlanBuilder,
    assert_equals_twin,
    draw_graph,
    normal,
    operations,
    per_row,
    run_tests_of_kernels,
    static,
)


@pytest.mark.parametrize("bits", PACKED_BITS)
@given(
    rows=st.integers(0, 40), K=st.integers(1, 200), M=st.integers(1, 70), weight_bits=st.sampled_from(WIDTHS),
    seed=st.integers(0, 999), sparse=st.booleans(), row=st.booleans(),
)  # fmt: skip
@settings(max_examples=EXAMPLES, deadline=None)
def test_gemm(bits, rows, K, M, weight_bits, seed, sparse, row):
    """Product, plus a residual, requantised, multiplied again."""
    rng = np.random.default_rng(seed)
    b = PlanBuilder()
    quantizer = per_row(bits, rng) if row else static(bits, K, rng, per_channel=False)
    h = b.linear(b.quantize(0, quantizer, K), rng, K, M, weight_bits)
    h = b.add("combine", h, 1, coefficients=[1, 1])
    out = b.linear(b.quantize(h, per_row(4, rng), M), rng, M, 3, 2)
    feat = rng.standard_normal((rows, K)).astype(np.float32)
    if sparse:
        feat *= rng.random((rows, K)) < 0.1
    assert_equals_twin(
        b.model(["features", "features"], h, out), feat, rng.standard_normal((rows, M)).astype(np.float32)
    )


@given(rows=st.integers(1, 40), columns=st.integers(1, 40), seed=st.integers(0, 999))
@settings(max_examples=EXAMPLES, deadline=None)
def test_delta_coding(rows, columns, seed):
    rng = np.random.default_rng(seed)
    graph = draw_graph(rng, rows, rows, 3 * rows)
    b = PlanBuilder()
    h, state, outputs = 1, None, []
    for step in range(3):
        scaled = b.add("degree", h, 0, side="out", power=-0.5, plus=0)
        quantizer = static(2, columns, rng, per_channel=step == 1)
        codes = b.quantize(scaled, quantizer, columns, op="delta", before=state, state=200 + step)
        state = 200 + step
        h = b.add("combine", b.add("aggregate", 0, codes, None, None), h, coefficients=[0.9, 0.1])
        outputs.append(h)
    feat = rng.standard_normal((rows, columns)).astype(np.float32)
    assert_equals_twin(b.model(["graph", "features"], *outputs), graph, feat)


@given(
    rows=st.integers(1, 30), K=st.integers(1, 300), M=st.integers(1, 100), bits=st.sampled_from(WIDTHS),
    weight_bits=st.sampled_from(WIDTHS), row=st.booleans(), seed=st.integers(0, 999),
)  # fmt: skip
@settings(max_examples=2 * EXAMPLES, deadline=None)
def test_rows_that_are_mostly_zero_are_looked_up_exactly(rows, K, M, bits, weight_bits, row, seed):
    rng = np.random.default_rng(seed)
    b = PlanBuilder()
    h = b.linear(b.quantize(0, per_row(bits, rng) if row else static(bits, K, rng, False), K), rng, K, M, weight_bits)
    model, feat = b.model(["features"], h), np.zeros((rows, K), np.float32)
    for i in range(rows):  # the density is judged by the whole; a row may be full
        full = i == 0 and rows > 20
        chosen = slice(None) if full else rng.choice(K, min(K // 25, 8), replace=False)
        feat[i, chosen] = rng.standard_normal(K if full else len(chosen))
    feat[-1, 0] = -0.0
    assert_equals_twin(model, feat)
    assert operations(model) >= {"look_up"} and "multiply" not in operations(model)
    assert_equals_twin(model, np.ones_like(feat))
    assert "look_up" not in operations(model)
    feat[-1, -1] = np.inf
    with np.errstate(all="ignore"), pytest.raises(GraphError, match="x0 holds NaN or infinity"):
        model(feat)


@pytest.mark.parametrize("is_block", [False, True])
def test_codes_of_both_ends_of_edges_are_looked_up_where_they_are_of_the_same_rows(is_block):
    rng, b, K, rows = np.random.default_rng(0), PlanBuilder(), 60, 7 if is_block else 3
    codes = b.quantize(1, per_row(8, rng), K)
    ends = b.add("source", codes), b.add("destination", codes, 0)
    model = b.model(["graph", "features"], *(b.linear(end, rng, K, 5, 4) for end in ends))
    feat = np.zeros((rows, K), np.float32)
    feat[:, [3, 40]] = rng.standard_normal((rows, 2))
    assert_equals_twin(model, Graph([0, 2, 2, 3], [1, 2, 0], num_src=rows, is_block=is_block), feat)
    assert ("look_up" in operations(model)) != is_block


@pytest.mark.parametrize("K", [1, 16, 40])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused_wherever_they_stand(K, bad):
    rng = np.random.default_rng(0)
    b = PlanBuilder()
    model = b.model(["features"], b.linear(b.quantize(0, per_row(4, rng), K), rng, K, 3, 4))
    for i, k in [(0, 0), (69, K - 1), (33, K // 2)]:
        feat = rng.standard_normal((70, K)).astype(np.float32)
        feat[i, k] = bad
        with np.errstate(all="ignore"), pytest.raises(GraphError, match="NaN or infinity"):
            model(feat)


def test_a_change_of_graph_or_shape_is_noticed_and_memory_is_not_shared_with_results():
    rng = np.random.default_rng(0)
    b = PlanBuilder()
    codes = b.quantize(1, static(2, 20, rng, False), 20)
    h = b.linear(b.quantize(b.add("aggregate", 0, codes, None, None), per_row(4, rng), 20), rng, 20, 7, 4)
    model = b.model(["graph", "features"], h)
    graphs = [draw_graph(rng, rows, rows, 90) for rows in (30, 30, 40)]
    feats = [rng.standard_normal((rows, 20)).astype(np.float32) for rows in (30, 30, 40)]
    kept = [(model(g, x)[0], g, x) for _ in range(2) for g, x in zip(graphs, feats)]
    for output, graph, feat in kept:
        expected = reference.run(model.plan, {0: graph, 1: feat})[h]
        np.testing.assert_array_equal(output, expected)
    twin = copy.deepcopy(model)
    assert not twin._executor._programs
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model))(graphs[0], feats[0])[0], kept[0][0])
    np.testing.assert_array_equal(twin(graphs[0], feats[0])[0], kept[0][0])
    twin.release()
    assert not twin._executor._programs
    np.testing.assert_array_equal(twin(graphs[0], feats[0])[0], kept[0][0])


@pytest.mark.parametrize("columns", [16, 100, 192, 320, 448])
@pytest.mark.parametrize("rows", [1, 25, 70 if JIT_OFF else 2000])
def test_tiles_are_whole_groups_of_rows_at_any_width(rows, columns):
    rng = np.random.default_rng(0)
    b = PlanBuilder()
    h = b.linear(b.quantize(0, per_row(8, rng), columns), rng, columns, columns, 8)
    model = b.model(["features"], b.linear(b.quantize(h, per_row(4, rng), columns), rng, columns, 5, 2))
    assert_equals_twin(model, rng.standard_normal((rows, columns)).astype(np.float32))
    (assembled,) = model._executor._programs.values()
    assert (assembled.program.stages[:, TILE_ROWS] % 8 == 0).all()


def test_heads_of_values_that_are_read_otherwise_too():
    """The first rows of a degree-normed, biased, rectified value, and all of it; both returned as well."""
    rng = np.random.default_rng(0)
    graph = draw_graph(rng, 40, 12, 90, is_block=True)
    b = PlanBuilder()
    scaled = b.add("degree", 1, 0, side="out", power=-0.5, plus=0)
    head = b.add("destination", scaled, 0)
    biased = b.add("bias", scaled, bias=0.3)
    relu = b.add("relu", biased)
    last = b.add("destination", relu, 0)
    codes = b.quantize(scaled, static(4, 20, rng, True), 20)
    own = b.add("destination", codes, 0)
    h = b.add("combine", b.add("aggregate", 0, codes, None, own), head, last, head, coefficients=[1, 0.5, 1, 2])
    again = b.add("dequantize", b.quantize(head, static(2, 20, rng, False), 20))
    model = b.model(["graph", "features"], h, again, last, head, relu, biased)
    assert_equals_twin(model, graph, rng.standard_normal((40, 20)).astype(np.float32))


def test_arguments_of_another_form_are_refused():
    rng = np.random.default_rng(0)
    graph, feat = Graph(np.arange(31), np.arange(30)), rng.standard_normal((30, 20)).astype(np.float32)
    b = PlanBuilder()
    b.ops.append({"op": "check_in_degrees", "in": [0]})
    codes = b.quantize(1, static(4, 20, rng, True), 20)
    model = b.model(["graph", "features"], b.add("aggregate", 0, b.add("source", codes), None, codes))
    for arguments, message in [
        (([graph, graph], feat), "one graph here, got a list of 2"),
        ((graph, (feat, feat)), "got a pair"),
        ((graph, ((feat, feat), feat)), "must be an array or a tuple of two"),
        ((graph, feat.astype(np.float64) * 1e300), "NaN or infinity"),
        ((graph, feat[:29]), "each of 30 source nodes, got 29"),
        ((graph, feat[:, :19]), "width 20, got 19"),
    ]:
        with pytest.raises(GraphError, match=message):
            model(*arguments)


@pytest.mark.parametrize("zero", [0.1, 3.3, 100.3])
def test_zero_points_of_any_value_are_taken_exactly(zero):
    rng = np.random.default_rng(0)
    b = PlanBuilder()
    h = b.linear(b.quantize(0, per_row(8, rng), 200), rng, 200, 30, 8)
    b.ops[-1]["weight"]["zero_point"] = zero
    assert_equals_twin(b.model(["features"], h), rng.standard_normal((20, 200)).astype(np.float32))


def test_of_a_block_only_the_rows_that_are_read_again_are_stored():
    rng, b = np.random.default_rng(0), PlanBuilder()
    h = b.add("relu", 1)
    sums = b.add("aggregate", 0, b.quantize(h, static(2, 20, rng, False), 20), None, None)
    out = b.add("combine", sums, b.add("destination", h, 0), coefficients=[1, 0.5])
    model, graph = b.model(["graph", "features"], out), draw_graph(rng, 160, 70, 400, is_block=True)
    assert_equals_twin(model, graph, normal(rng, 160, 20))
    (assembled,) = model._executor._programs.values()
    run = Run({1: normal(rng, 160, 20)}, {0: graph}, {})
    assert [run.rows(size) for size, row_bytes in assembled.buffers if row_bytes == 4 * 32] == [70]


def test_stages_keep_to_one_number_of_rows():
    """A value read directly and as the head of another graph's block, beside the head of a longer one."""
    rng = np.random.default_rng(0)
    long, short = draw_graph(rng, 500, 8, 40, is_block=True), draw_graph(rng, 8, 8, 30, is_block=True)
    b = PlanBuilder()
    first, second = b.add("relu", 1), b.add("relu", 2)
    heads = b.add("destination", first, 0), b.add("destination", second, 3)
    h = b.add("combine", second, *heads, coefficients=[1, 1, 1])
    model = b.model(["graph", "features", "features", "graph"], h)
    feats = (rng.standard_normal((rows, 20)).astype(np.float32) for rows in (500, 8))
    assert_equals_twin(model, long, *feats, short)


def test_a_copied_graph_can_still_be_read_ahead():
    graph = draw_graph(np.random.default_rng(0), 9, 9, 30)
    for twin in (copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
        np.testing.assert_array_equal(twin.indices, graph.indices)
        assert twin.indices.base.nbytes >= twin.indices.nbytes + 4 * AHEAD


@pytest.mark.slow
@pytest.mark.skipif(JIT_OFF, reason="this is the run without the compiler")
def test_everything_here_also_holds_without_the_compiler():
    assert " passed" in run_tests_of_kernels("not lesser", NUMBA_DISABLE_JIT="1")
