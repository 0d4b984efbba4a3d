"""Search among packed rows, beside one through all of their values."""

import numpy as np
import pytest

from numba_kernels import Codes, GraphError, Grid, quantize
from numba_kernels.fitting import fitted_grid
from numba_kernels.kernels.nearest import VARIANTS
from numba_kernels.run.codes import Codes as CodesInTheirFile

from .plans import JIT_OFF

ROWS, K = (40, 3) if JIT_OFF else (300, 7)


def grids(columns, bits):
    """One of each granularity, some without a code for 0."""
    draw, top = np.random.default_rng(bits), (1 << bits) - 1
    scales = draw.uniform(0.1, 1, columns).astype(np.float32)
    yield "tensor", Grid(columns, bits, 0.5, top / 2)
    yield "channel", Grid(columns, bits, scales, np.float32((top + 1) // 2))
    yield "row", Grid(columns, bits, half_grid=True)
    yield "shift", Grid(columns, bits, 0.5, top / 2, reach=2.0)


def searched(values, queries, metric):
    """Scores of all rows, float64."""
    values, queries = values.astype(np.float64), queries.astype(np.float64)
    scores = queries @ values.T
    if metric == "cosine":
        norms = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(values, axis=1)
        scores = np.divide(scores, norms, out=np.zeros_like(scores), where=norms > 0)
    return scores


def assert_found(codes, queries, metric="inner", k=K):
    found, rows = codes.search(queries, k, metric)
    dense = queries if isinstance(queries, np.ndarray) else queries.values()
    scores = searched(codes.values(), dense, metric)
    best = np.sort(scores, axis=1)[:, ::-1][:, :k]
    np.testing.assert_allclose(np.take_along_axis(scores, rows, 1), best, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found, best, rtol=1e-5, atol=1e-5)
    assert found.dtype == np.float32 and rows.dtype == np.int64 and found.shape == rows.shape == (len(dense), k)
    assert all(len(set(each)) == k for each in rows.tolist())
    return rows


SOME = [pytest.param(bits, marks=[] if bits == 2 else pytest.mark.slow) for bits in (1, 2, 3, 4, 8)]


@pytest.mark.parametrize("metric", ["inner", "cosine"])
@pytest.mark.parametrize("bits", SOME)
def test_the_best_rows_are_those_of_a_search_through_all_values(bits, metric):
    draw = np.random.default_rng(0)
    for columns, count in ((5, 2), (100, 40)):
        values, asked = (draw.standard_normal((n, columns)).astype(np.float32) * 2 for n in (ROWS, count))
        kinds = [asked, *(quantize(asked, grid) for _, grid in grids(columns, bits))]
        for _, grid in grids(columns, bits):
            for queries in kinds:
                assert_found(quantize(values, grid), queries, metric)


@pytest.mark.parametrize("count", [2, 20])
def test_small_numbers_decide_beside_large_ones_that_rounding_is_for(count):
    draw = np.random.default_rng(5)
    values, queries = (draw.standard_normal((n, 33)).astype(np.float32) for n in (ROWS, count))
    values[:, 0], queries[:, 0] = 0.4, 1000  # int8 is in steps of 8: of the other columns nothing is left
    assert_found(quantize(values, Grid(33, 2, 0.8, 1.5)), queries)


def test_of_equal_rows_the_first_come_first_however_they_are_asked():
    values = np.tile(np.random.default_rng(1).integers(0, 3, (10, 20)), (6, 1)).astype(np.float32)
    codes = quantize(values, Grid(20, 2, 1.0, 1.5))
    queries = quantize(values[:9], Grid(20, 2, 0.5, 1.5))
    for asked in (queries, queries.values()):
        together = codes.search(asked, 12)[1]
        alone = [codes.search(queries.rows([n]) if asked is queries else asked[n : n + 1], 12)[1][0] for n in range(9)]
        assert np.array_equal(together, alone)
        scores = searched(codes.values(), queries.values(), "inner")
        assert np.array_equal(together, [np.lexsort((np.arange(60), -each))[:12] for each in scores])


@pytest.mark.skipif(JIT_OFF, reason="one thread")
def test_results_do_not_depend_on_threads(monkeypatch):
    import numba

    draw = np.random.default_rng(2)
    codes = quantize(draw.standard_normal((1000, 33)).astype(np.float32), Grid(33, 2, 0.8, 1.5))
    queries = draw.standard_normal((20, 33)).astype(np.float32)
    one = codes.search(queries, 9, threads=1)
    for threads in {1, min(2, numba.config.NUMBA_NUM_THREADS)}:
        assert all(np.array_equal(a, b) for a, b in zip(one, codes.search(queries, 9, threads=threads)))


def test_all_rows_may_be_wanted_and_no_queries_asked():
    codes = quantize(np.eye(8, dtype=np.float32), Grid(8, 2, 0.5))
    assert sorted(assert_found(codes, np.ones((1, 8), np.float32), k=8)[0]) == list(range(8))
    scores, rows = codes.search(np.empty((0, 8), np.float32), 3)
    assert scores.shape == rows.shape == (0, 3)


def test_rows_and_queries_of_zeros_have_cosine_0():
    codes = quantize(np.array([[0, 0], [-1, 0], [1, 1]], np.float32), Grid(2, 2, 1.0, 1.0))
    scores, rows = codes.search(np.array([[1, 0], [0, 0]], np.float32), 3, "cosine")
    assert rows.tolist() == [[2, 0, 1], [0, 1, 2]]
    np.testing.assert_allclose(scores, [[0.5**0.5, 0, -1], [0, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k must be a whole number, from 1 to 5"),
        ({"k": 6}, "k must be a whole number, from 1 to 5"),
        ({"metric": "l2"}, "metric must be one of inner, cosine"),
        ({"queries": np.ones((1, 4), np.float32)}, "must have 3 columns"),
        ({"queries": np.ones(3, np.float32)}, r"must have shape \(queries, 3\)"),
        ({"queries": np.ones((1, 3), np.int64)}, "floating point"),
        ({"queries": np.full((1, 3), np.nan, np.float32)}, "NaN or infinity"),
    ],
)
def test_what_cannot_be_searched_is_refused(change, message):
    codes = quantize(np.ones((5, 3), np.float32), Grid(3, 2, 0.5))
    with pytest.raises(GraphError, match=message):
        codes.search(**{"queries": np.ones((1, 3), np.float32), "k": 1, **change})


def test_rows_whose_scales_are_not_finite_are_refused():
    codes = quantize(np.ones((5, 3), np.float32), Grid(3, 2))
    codes.scale[2] = np.nan
    with pytest.raises(GraphError, match="must be finite"):
        codes.search(np.ones((1, 3), np.float32), 1)


def test_rows_are_taken_by_number_and_mask():
    codes = quantize(np.arange(12, dtype=np.float32).reshape(6, 2), Grid(2, 2))
    mask = np.array([False, True, False, False, True, False])
    for rows in ([1, 4], mask):
        assert np.array_equal(codes.rows(rows).values(), codes.values()[[1, 4]])
    with pytest.raises(GraphError, match="rows must be from 0 to 5"):
        codes.rows([6])


@pytest.mark.parametrize("granularity", ["row", "channel", "tensor"])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_fitted_grids_are_no_worse_than_whole_ranges(bits, granularity):
    draw, top = np.random.default_rng(3), (1 << bits) - 1
    values = draw.standard_normal((500, 6)).astype(np.float32) * np.arange(1, 7, dtype=np.float32)
    spec = fitted_grid(values, bits, granularity)

    def error(grid):
        return ((quantize(values, grid).values() - values) ** 2).mean()

    largest = abs(values).max(0 if granularity == "channel" else None)
    whole = Grid(6, bits, half_grid=True) if granularity == "row" else Grid(6, bits, 2 * largest / (top + 1), top / 2)
    assert error(Grid.of(spec, 6)) <= error(whole)


def test_columns_that_are_0_and_small_counts_are_coded_exactly():
    values = np.random.default_rng(4).integers(0, 4, (300, 5)).astype(np.float32)
    values[:, 2] = 0
    for granularity in ("row", "channel", "tensor"):
        spec = fitted_grid(values, 2, granularity)
        decoded = quantize(values, Grid.of(spec, 5)).values()
        wrong = np.abs(decoded - values).max(1) > 1e-6
        assert not wrong[values.max(1) == 3].any() and not decoded[:, 2].any()


@pytest.mark.parametrize(("bits", "granularity"), [(5, "row"), (2, "block"), (True, "row")])
def test_other_bits_and_granularities_are_refused(bits, granularity):
    with pytest.raises(GraphError, match="bits must be one of 1, 2, 3, 4, 8, and granularity of row, channel, tensor"):
        fitted_grid(np.ones((2, 2), np.float32), bits, granularity)


def test_names():
    assert Codes is CodesInTheirFile and {form for _, form in VARIANTS} > {"one"}
