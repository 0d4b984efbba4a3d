"""Kernels against their NumPy twin, exactly."""

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numba_kernels import Graph, GraphError, pack, reference, simd, unpack
from numba_kernels.graph import AHEAD
from numba_kernels.kernels.unpack import unpacking
from numba_kernels.layout import PACKED_BITS, row_bytes
from numba_kernels.run.program import TILE_ROWS

from .plans import (
    EXAMPLES,
    JIT_OFF,
    WIDTHS,
    PlanBuilder,
    assert_equals_twin,
    draw_graph,
    operations,
    per_row,
    shifted,
    sizes,
    static,
)


def unpacking_rows(bits, form):
    unpack_row = unpacking(bits, form)

    @numba.njit
    def unpack_rows(packed, codes, sums):
        for i in range(packed.shape[0]):
            row, at = simd.u8_at(simd.address(packed) + i * packed.shape[1]), simd.address(codes) + i * codes.shape[1]
            sums[i] = unpack_row(row, packed.shape[1], simd.u8_at(at))

    return unpack_rows


UNPACKING = {(bits, form): unpacking_rows(bits, form) for bits in PACKED_BITS for form in ("bytes", "words")}
UNPACKING[2, "pairs"] = unpacking_rows(2, "pairs")


@pytest.mark.parametrize("bits", PACKED_BITS)
@given(rows=st.integers(0, 9), columns=st.integers(1, 300), seed=st.integers(0, 999))
@settings(max_examples=EXAMPLES, deadline=None)
def test_packing_round_trips_and_kernels_agree(bits, rows, columns, seed):
    codes = np.random.default_rng(seed).integers(0, 2**bits, (rows, columns)).astype(np.uint8)
    packed = pack(codes, bits)
    assert packed.shape == (rows, row_bytes(columns, bits))
    np.testing.assert_array_equal(unpack(packed, bits, columns), codes)
    width, sums = packed.shape[1], np.full(rows, -1)
    for kind in ("u1", "u2"):
        spread = np.full((rows, width * 8 // bits), 99, kind)
        UNPACKING[bits, "bytes" if kind == "u1" else "words"](packed, spread.view(np.uint8), sums)
        np.testing.assert_array_equal(spread[:, :columns], codes)
        assert not spread[:, columns:].any()
        np.testing.assert_array_equal(sums, codes.sum(1, dtype=np.int64))
    if bits == 2:
        pairs, filled = np.full((rows, 2 * width), 99, np.uint8), np.zeros((rows, 2, 2, width), np.uint8)
        filled.reshape(rows, 4 * width)[:, :columns] = codes
        UNPACKING[2, "pairs"](packed, pairs, sums)
        np.testing.assert_array_equal(pairs, (16 * (filled[:, :, 0] + 4 * filled[:, :, 1])).reshape(rows, 2 * width))
        np.testing.assert_array_equal(sums, codes.sum(1, dtype=np.int64))


def test_packed_layout_is_planar_low_bits_first():
    codes = np.zeros((1, 64), np.uint8)
    codes[0, [0, 16, 32, 48]] = [3, 2, 1, 0]
    assert pack(codes, 2)[0, 0] == 3 | 2 << 2 | 1 << 4 and not pack(codes, 2)[0, 1:].any()


@pytest.mark.parametrize(
    ("codes", "bits", "width", "message"),
    [
        (np.zeros((1, 1), np.uint8), 3, None, "1, 2, 4, 8 bits, got 3"),
        (np.zeros((1, 1), np.int64), 2, None, "uint8 array, got int64"),
        (np.full((1, 1), 4, np.uint8), 2, None, "2-bit codes end at 3, got 4"),
        (np.zeros((1, 9), np.uint8), 2, 2, "9 codes of 2 bits do not fit 2 bytes"),
    ],
)
def test_pack_refuses(codes, bits, width, message):
    with pytest.raises(ValueError, match=message):
        pack(codes, bits, width)


def test_unpack_refuses():
    with pytest.raises(ValueError, match="hold 16 codes, not 17"):
        unpack(np.zeros((1, 4), np.uint8), 2, 17)
    with pytest.raises(ValueError, match="uint8 array, got float64"):
        unpack(np.zeros((1, 4)), 2, 3)


@pytest.mark.parametrize("bits", PACKED_BITS)
@given(size=sizes, columns=st.integers(1, 150), seed=st.integers(0, 999), hub=st.booleans(), own=st.booleans())
@settings(max_examples=EXAMPLES, deadline=None)
def test_spmm(bits, size, columns, seed, hub, own):
    """Sum, then norm, bias and ReLU, then requantised twice, to other widths."""
    rng = np.random.default_rng(seed)
    num_src, num_dst, edges = size
    num_dst = min(num_dst, num_src)
    graph = draw_graph(rng, num_src, num_dst, edges, hub=hub and edges > 0, is_block=True)
    b = PlanBuilder()
    codes = b.quantize(1, static(bits, columns, rng, per_channel=bool(rng.integers(2))), columns)
    mine = b.add("destination", codes, 0) if own else None
    h = b.add("aggregate", 0, codes, None, mine)
    h = b.add("degree", h, 0, side="in", power=-0.5, plus=0)
    h = b.add("bias", h, bias=b.store(rng.standard_normal(columns).astype(np.float32)))
    h = b.add("relu", h)
    again = b.add("dequantize", b.quantize(h, static(4, columns, rng, per_channel=True), columns))
    rows = b.add("dequantize", b.quantize(h, per_row(2, rng), columns))
    feat = rng.standard_normal((num_src, columns)).astype(np.float32)
    assert_equals_twin(b.model(["graph", "features"], h, again, rows), graph, feat)


@pytest.mark.parametrize("bits", PACKED_BITS)
@given(size=sizes, columns=st.integers(1, 150), seed=st.integers(0, 999), hub=st.booleans(), own=st.booleans())
@settings(max_examples=EXAMPLES, deadline=None)
def test_spmm_of_rows_with_powers_of_two(bits, size, columns, seed, hub, own):
    rng = np.random.default_rng(seed)
    num_src, num_dst, edges = size
    num_dst = min(num_dst, num_src)
    graph = draw_graph(rng, num_src, num_dst, edges, hub=hub and edges > 0, is_block=True)
    b = PlanBuilder()
    scaled = b.add("degree", 1, 0, side="out", power=float(rng.choice([-0.5, 0.5])), plus=0)
    codes = b.quantize(scaled, shifted(bits, rng), columns)
    mine = b.add("destination", codes, 0) if own else None
    h = b.add("aggregate", 0, codes, None, mine)
    again = b.quantize(h, shifted(4, rng), columns)
    product = b.linear(again, rng, columns, 5, 2)
    kept = b.add("dequantize", codes)
    feat = rng.standard_normal((num_src, columns)) * 2.0 ** rng.integers(-9, 2, (num_src, 1))
    model = b.model(["graph", "features"], h, b.add("dequantize", again), product, kept)
    assert_equals_twin(model, graph, feat.astype(np.float32))


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


@given(size=sizes, columns=st.integers(1, 40), seed=st.integers(0, 999))
@settings(max_examples=EXAMPLES, deadline=None)
def test_float_edge_weights(size, columns, seed):
    rng = np.random.default_rng(seed)
    graph = draw_graph(rng, *size)
    b = PlanBuilder()
    h = b.add("aggregate", 0, b.quantize(1, static(4, columns, rng, True), columns), 2, None)
    model = b.model(["graph", "features", "edge_weight"], h)
    arguments = graph, rng.standard_normal((size[0], columns)).astype(np.float32), rng.random(size[2])
    expected = reference.run(model.plan, dict(enumerate(arguments)))[h]
    np.testing.assert_allclose(model(*arguments)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bits", PACKED_BITS)
@given(size=sizes, columns=st.integers(1, 90), seed=st.integers(0, 999), own=st.booleans())
@settings(max_examples=EXAMPLES, deadline=None)
def test_int8_edge_weights_are_summed_exactly(bits, size, columns, seed, own):
    rng = np.random.default_rng(seed)
    num_src, num_dst, edges = size
    graph = draw_graph(rng, num_src, min(num_dst, num_src), edges, is_block=True)
    b = PlanBuilder()
    codes = b.quantize(1, static(bits, columns, rng, per_channel=bool(rng.integers(2))), columns)
    h = b.add("aggregate", 0, codes, 2, b.add("destination", codes, 0) if own else None)
    model = b.model(["graph", "features", "edge_weight"], h)
    weights = rng.integers(-128, 128, edges, np.int8)
    assert_equals_twin(model, graph, rng.standard_normal((num_src, columns)).astype(np.float32), weights)


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


@pytest.mark.skipif(JIT_OFF, reason="too slow in Python")
@pytest.mark.parametrize("bits", PACKED_BITS)
def test_a_hub_of_a_million_edges_is_summed_exactly(bits):
    rng = np.random.default_rng(0)
    graph = draw_graph(rng, 50, 3, 1_000_000, hub=True)
    b = PlanBuilder()
    quantizer = {"bits": bits, "granularity": "tensor", "scale": 1.0, "zero_point": 0.0, "offset": 0.0}
    h = b.add("aggregate", 0, b.quantize(1, quantizer, 20), None, None)
    feat = np.full((50, 20), 2**bits - 1, np.float32)
    feat[::3] = 0
    (got,) = assert_equals_twin(b.model(["graph", "features"], h), graph, feat)
    assert got[2].max() == np.float32((2**bits - 1) * np.isin(graph.indices % 3, [1, 2]).sum())


@pytest.mark.skipif(JIT_OFF, reason="threads are the compiler's")
def test_results_do_not_depend_on_the_thread_count():
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("one thread on this machine")
    rng = np.random.default_rng(0)
    graph = draw_graph(rng, 500, 500, 9000)
    b = PlanBuilder()
    h = b.linear(b.quantize(1, per_row(2, rng), 70), rng, 70, 40, 2)
    h = b.add("aggregate", 0, b.quantize(h, static(2, 40, rng, False), 40), None, None)
    model, feat = b.model(["graph", "features"], h), rng.standard_normal((500, 70)).astype(np.float32)
    before = numba.get_num_threads()
    outputs = []
    for threads in (1, 2):
        model.threads = threads
        outputs.append(model(graph, feat)[0].tobytes())
    assert outputs[0] == outputs[1] and numba.get_num_threads() == before
    model.threads = 10_000
    with pytest.raises(ValueError, match="threads must be between 1 and"):
        model(graph, feat)


@pytest.mark.slow
@pytest.mark.skipif(JIT_OFF, reason="this is the run without the compiler")
def test_everything_here_also_holds_without_the_compiler():
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-n",
            "0",
            "-k",
            "not lesser",
            str(Path(__file__).parent),
        ],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
