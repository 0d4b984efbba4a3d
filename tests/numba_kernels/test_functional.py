"""Single operations on packed codes, and the machine's limits."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import numba_kernels as nk
from numba_kernels.kernels import limits
from numba_kernels.layout import PACKED_BITS, padded
from numba_kernels.packing import pack
from numba_kernels.plan.ops.neighbours import sum_codes
from numba_kernels.run.memory import Arena, aligned_empty

from .plans import EXAMPLES, JIT_OFF, draw_graph, sizes


@pytest.mark.parametrize("bits", PACKED_BITS)
@given(size=sizes, columns=st.integers(1, 300), seed=st.integers(0, 999), weighted=st.booleans())
@settings(max_examples=EXAMPLES, deadline=None)
def test_spmm_is_exact(bits, size, columns, seed, weighted):
    rng = np.random.default_rng(seed)
    graph = draw_graph(rng, *size)
    weights = rng.integers(-128, 128, graph.num_edges, np.int8) if weighted else None
    codes = nk.quantize(rng.random((graph.num_src, columns)), nk.Grid(columns, bits, scale=1 / 2**bits))
    total, _ = sum_codes(graph, codes.unpacked(), weights)
    expected = (total * np.float64(1 / 2**bits)).astype(np.float32)
    out = np.empty(expected.shape, np.float32)
    assert nk.spmm(graph, codes, edge_weight=weights, out=out) is out
    np.testing.assert_array_equal(out, expected)
    grid = nk.Grid(columns, 8, scale=0.25, zero_point=3.0)
    coded = nk.spmm(graph, codes, grid, edge_weight=weights).unpacked()
    np.testing.assert_array_equal(coded, np.clip(np.rint(expected * 4 + 3), 0, 255))


@pytest.mark.parametrize("bits", PACKED_BITS)
@given(rows=st.integers(1, 40), K=st.integers(1, 300), M=st.integers(1, 150), seed=st.integers(0, 999))
@settings(max_examples=EXAMPLES, deadline=None)
def test_gemm_is_exact(bits, rows, K, M, seed):
    rng = np.random.default_rng(seed)
    codes = nk.quantize(rng.random((rows, K)), nk.Grid(K, bits, scale=1 / 2**bits, zero_point=0.5))
    weight = rng.integers(0, 2**bits, (K, M)).astype(np.uint8)
    zero = (2**bits - 1) / 2
    product = (codes.unpacked() - 0.5) @ (weight - zero)
    expected = (product.astype(np.float32) * np.float32(1 / 2**bits)) * np.float32(0.5)
    np.testing.assert_array_equal(nk.gemm(codes, nk.Weight(weight, 0.5, zero)), expected)


def test_quantize_and_dequantize():
    values = np.random.default_rng(0).standard_normal((33, 70)).astype(np.float32)
    for grid, error in [(nk.Grid(70, 8), 0.03), (nk.Grid(70, 8, scale=0.04, zero_point=128.0), 0.021)]:
        codes = nk.quantize(values, grid)
        assert codes.shape == (33, 70) and codes.packed.ctypes.data % 64 == 0
        assert abs(nk.dequantize(codes) - values).max() <= error


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: nk.Grid(4, 5), "1, 2, 3, 4, 8 bits, got 5"),
        (lambda: nk.Grid(4, 2, scale=0.0), "scale must be positive"),
        (lambda: nk.Grid(4, 2, scale=1.0, zero_point=1e38), "zero point is at most 16,777,216"),
        (lambda: nk.quantize(np.ones((3, 5)), nk.Grid(4, 2)), r"shape \(rows, 4\), got \(3, 5\)"),
        (lambda: nk.quantize(np.full((3, 4), np.nan), nk.Grid(4, 2)), "NaN or infinity"),
        (lambda: nk.spmm(RING, CODES, out=np.empty((3, 4))), "out must be a writeable contiguous float32"),
        (lambda: nk.spmm(RING, CODES, nk.Grid(4, 2), out=np.empty((3, 4), np.float32)), "out is for float32"),
        (lambda: nk.spmm(RING, CODES, nk.Grid(5, 2)), "grid of 4 columns, got 5"),
        (
            lambda: nk.spmm(RING, nk.quantize(np.ones((4, 4)), nk.Grid(4, 2, scale=1.0))),
            "each of 3 source nodes, got 4",
        ),
        (lambda: nk.spmm(RING, nk.quantize(np.ones((3, 4)), nk.Grid(4, 2))), "scale per row cannot be summed"),
        (lambda: nk.spmm(RING, CODES, edge_weight=np.ones(2)), r"shape \(3,\), got \(2,\)"),
        (lambda: nk.gemm(CODES, nk.Weight(np.ones((5, 2), np.uint8), 1.0, 0.0)), "expected 5 columns, got 4"),
        (lambda: nk.spmm(RING, CODES, out=[1]), "out must be a writeable"),
        (
            lambda: nk.spmm(RING, CODES, out=np.frombuffer(bytes(48), np.float32).reshape(3, 4)),
            "out must be a writeable",
        ),
        (lambda: nk.Grid(0, 2, scale=1.0), "columns of a grid must be a whole number, at least 1, got 0"),
        (lambda: nk.Grid(2, 2, scale=np.inf), "must be finite"),
        (lambda: nk.Weight(np.full((4, 2), 300), 1.0, 0.0), "uint8 array, got int64"),
        (lambda: nk.Weight(np.ones((4, 2), np.uint8), np.nan, 0.0), "must be finite"),
        (lambda: nk.Codes(np.zeros((3, 1), np.uint8), CODES.grid, CODES.scale, CODES.zero), r"\(rows, 16\) uint8"),
        (lambda: nk.Codes(CODES.packed, nk.Grid(4, 2), CODES.scale, CODES.zero), "float32 of length 3"),
        (lambda: nk.Codes(CODES.packed[::-1], CODES.grid, CODES.scale, CODES.zero), "contiguous arrays"),
        (lambda: nk.Codes(CODES.packed, CODES.grid, CODES.scale[::-1], CODES.zero), "contiguous arrays"),
        (lambda: nk.gemm(WIDE, nk.Weight(np.ones((70_000, 1), np.uint8), 1.0, 0.0)), "may overflow an int32"),
        (lambda: nk.Graph([0, 2], [0, 0], edge_ids=[0]), "edge_ids must be the places of 2 edges"),
        (lambda: nk.Graph([0, 2], [0, 0], edge_ids=[0, 2]), "edge_ids must be the places of 2 edges"),
        (lambda: nk.gemm(PER_CHANNEL, nk.Weight(np.ones((4, 2), np.uint8), 1.0, 0.0)), "scale per channel"),
    ],
)
def test_what_does_not_fit_is_refused(run, message):
    with pytest.raises(ValueError, match=message):
        run()


RING = nk.Graph([0, 1, 2, 3], [1, 2, 0])


def codes_of_one(rows, columns, bits, scale=1.0):
    """Made without kernels, which would be compiled where tests are only collected."""
    grid, scales = nk.Grid(columns, bits, scale=scale), np.ones(padded(columns), np.float32)
    scales[:columns] = scale
    return nk.Codes(pack(np.ones((rows, columns), np.uint8), bits), grid, scales, np.zeros_like(scales))


CODES, WIDE = codes_of_one(3, 4, 2), codes_of_one(1, 70_000, 8)
PER_CHANNEL = codes_of_one(3, 4, 2, np.arange(1.0, 5.0))


@pytest.mark.skipif(JIT_OFF, reason="too slow in Python")
@pytest.mark.slow
def test_hubs_are_summed_in_parts_with_the_same_result_on_any_number_of_threads():
    rng = np.random.default_rng(0)
    degrees = np.array([3, 100_000, 0, 40_000, 7])
    graph = nk.Graph(np.r_[0, np.cumsum(degrees)], rng.integers(0, 50, degrees.sum()), num_src=50)
    assert len(graph.hubs.nodes) == 2
    before = numba.get_num_threads()
    try:
        for bits in PACKED_BITS:
            for columns in (7, 70):
                codes = nk.quantize(rng.random((50, columns)), nk.Grid(columns, bits, scale=1 / 2**bits))
                results = []
                for threads in sorted({1, numba.config.NUMBA_NUM_THREADS}):
                    numba.set_num_threads(threads)
                    results.append(nk.spmm(graph, codes))
                total, _ = sum_codes(graph, codes.unpacked())
                np.testing.assert_array_equal(results[0], (total / 2**bits).astype(np.float32))
                assert len({result.tobytes() for result in results}) == 1
    finally:
        numba.set_num_threads(before)


def test_sums_that_float32_does_not_hold_are_centred_in_float64():
    degree = 1 if JIT_OFF else 70_001  # odd sums beyond 2^24
    graph = nk.Graph([0, degree], np.zeros(degree, int), num_src=1)
    for zero in (127.5, 1 / 3):
        grid = nk.Grid(3, 8, scale=1.0, zero_point=zero, offset=0.0)
        got = nk.spmm(graph, nk.quantize(np.array([[255, 127, 0]], np.float32), grid))
        centered = np.array([255, 127, 0], np.float64) * degree - np.float64(np.float32(zero)) * degree
        np.testing.assert_array_equal(got[0], centered.astype(np.float32))


def test_signed_weights_may_cancel_though_the_sum_of_codes_is_large():
    graph = nk.Graph([0, 1201], np.r_[np.zeros(601, int), np.ones(600, int)], num_src=2)
    weights = np.r_[np.full(601, 127), np.full(600, -127)].astype(np.int8)
    codes = nk.quantize(np.array([[255], [1]], np.float32), nk.Grid(1, 8, scale=1.0, zero_point=0.5, offset=0.0))
    total = 127 * (601 * 255 - 600)
    assert total > 2**24 and total % 2
    assert nk.spmm(graph, codes, edge_weight=weights)[0, 0] == np.float32(total - 127 * 0.5)


@pytest.mark.parametrize(
    "run",
    [lambda: nk.spmm(RING, np.ones((3, 4))), lambda: nk.gemm(CODES, np.ones((4, 2))), lambda: nk.quantize(RING, 3)],
)
def test_what_is_of_another_kind_is_refused(run):
    with pytest.raises(TypeError, match=r"expected a numba_kernels\.(Codes|Weight|Grid), got"):
        run()


def test_a_graph_does_not_change_with_the_arrays_it_was_made_of():
    indptr, indices, edge_ids = np.array([0, 1, 2]), np.array([1, 0]), np.array([1, 0])
    graph = nk.Graph(indptr, indices, edge_ids=edge_ids)
    indptr[:], indices[:], edge_ids[:] = 1000, 1000, 1000
    assert graph.indptr.tolist() == [0, 1, 2] and graph.indices.tolist() == [1, 0] == graph.edge_ids.tolist()


def test_an_arena_is_used_again_and_shrinks_when_little_of_it_is_needed():
    arena = Arena()
    first = arena.take(1 << 23)
    assert arena.take(1 << 22) == first and first % 64 == 0 and len(arena._memory) == 1 << 23
    arena.take(1 << 10)
    assert len(arena._memory) == 1 << 10
    arena.release()
    assert len(arena._memory) == 0
    for shape in [(3, 64), (1,)]:
        assert aligned_empty(shape, np.uint8).ctypes.data % 64 == 0


@pytest.mark.slow
@pytest.mark.skipif(JIT_OFF, reason="measures the machine")
def test_limits_are_measured():
    assert 1e5 < limits.memory_bandwidth() < 1e13
    assert 1e5 < limits.integer_peak() < 1e14


def test_codes_have_their_powers_under_the_former_name_too():
    codes = nk.quantize(np.array([[8.0], [1.0]], np.float32), nk.Grid(1, 4, scale=1.0, reach=8.0))
    assert codes.powers.tolist() == [64, 8] and codes.weights is codes.powers
