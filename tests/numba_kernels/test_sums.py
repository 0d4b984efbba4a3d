"""Sums of packed rows over neighbours against their NumPy twin, exactly."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numba_kernels import reference
from numba_kernels.layout import PACKED_BITS

from .plans import (
    EXAMPLES,
    JIT_OFF,
    PlanBuilder,
    assert_equals_twin,
    draw_graph,
    per_row,
    shifted,
    sizes,
    static,
)


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
    for threads in (1, 2, np.int64(1)):
        model.threads = threads
        outputs.append(model(graph, feat)[0].tobytes())
    assert len(set(outputs)) == 1 and numba.get_num_threads() == before
    for threads in (10_000, 0, True, "2", 1.0):
        model.threads = threads
        with pytest.raises(ValueError, match="threads, of which there are NUMBA_NUM_THREADS, must be a whole number"):
            model(graph, feat)
