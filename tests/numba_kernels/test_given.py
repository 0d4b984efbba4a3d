"""Hostile arguments: one GraphError that names the argument and what to write instead, before any work."""

import numpy as np
import pytest
import scipy.sparse

import numba_kernels as nk
from numba_kernels import Graph, GraphError
from numba_kernels.arguments import graphs
from tests.numba_kernels.plans import PlanBuilder, normal, static

RNG = np.random.default_rng(0)
INDPTR, INDICES = np.array([0, 1, 3, 4]), np.array([1, 0, 2, 1])
PAIR, X = (INDPTR, INDICES), normal(RNG, 3, 4)
WEIGHTS = np.ones(4, np.float32)


def summing(blocks=0):
    """A model that sums over one graph, or over each of a list of blocks."""
    builder, kinds = PlanBuilder(), ["graph", "features"] if blocks else ["graph", "features", "edge_weight"]
    value = 1
    for number in range(blocks or 1):
        codes = builder.quantize(value, static(8, 4, RNG, True), 4)
        graph = builder.add("item", 0, index=number) if blocks else 0
        value = builder.add("aggregate", graph, codes, None if blocks else 2, None)
    return builder.model(kinds, value)


@pytest.fixture(scope="module")
def model():
    return summing()


def masked(array):
    return np.ma.masked_array(array, np.arange(array.size).reshape(array.shape) == 1)


class NoArray:
    dtype, shape = np.dtype(np.float32), (3, 4)

    def __array__(self, *args, **kwargs):
        raise RuntimeError("no data")


def csr(indptr=INDPTR, indices=INDICES, kind=scipy.sparse.csr_matrix):
    matrix = kind((np.ones(4), INDICES, INDPTR), shape=(3, 3))
    matrix.indptr, matrix.indices = np.asarray(indptr), np.asarray(indices)
    return matrix


def csc(**arrays):
    return csr(kind=scipy.sparse.csc_matrix, **arrays)


def coo(row, col):
    matrix = scipy.sparse.coo_matrix((np.ones(2), ([0, 1], [1, 2])), shape=(3, 3))
    matrix.row, matrix.col = np.asarray(row), np.asarray(col)
    return matrix


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (X[0], r"x1 must have shape \(nodes, width\)"),
        (masked(X), r"x1 is masked.*x1\.filled"),
        (scipy.sparse.csr_matrix(X), r"x1 is a sparse matrix; pass x1\.toarray"),
        (X.astype(complex), "x1 must be floating point, got complex128; convert"),
        (NoArray(), "x1 must be an array, got NoArray"),
        (X.tolist(), "x1 must be an array or a tuple of two"),
        ((X, X, X), "x1 must be one array or a pair"),
    ],
)
@pytest.mark.parametrize("in_batches", [False, True])
def test_features(model, features, words, in_batches):
    with pytest.raises(GraphError, match="x1|rows of features" if in_batches else words):
        (model.inference if in_batches else model)(PAIR, features, WEIGHTS)


@pytest.mark.parametrize(
    "weights", ["w", {}, [[1], [1, 2]], WEIGHTS.astype(complex), masked(WEIGHTS), WEIGHTS[:2], WEIGHTS[:, None, None]]
)
def test_edge_weights(model, weights):
    with pytest.raises(GraphError, match="edge_weight"):
        model(PAIR, X, weights)


@pytest.mark.parametrize("number", [1.9, "3", True, float("nan"), -1, 2**31, None.__class__, np.float32(3)])
def test_numbers_of_nodes(number):
    with pytest.raises(GraphError, match="num_src must be a whole number, from 0 to"):
        Graph(INDPTR, INDICES, num_src=number)
    assert Graph(INDPTR, INDICES, num_src=np.int64(3)).num_src == 3


@pytest.mark.parametrize("number", [4.0, True, "4", 0, None])
def test_batch_sizes_of_inference(model, number):
    with pytest.raises(GraphError, match="batch_size must be a whole number, at least 1"):
        model.inference(PAIR, X, WEIGHTS, batch_size=number)
    whole = model(PAIR, X, WEIGHTS)[0]
    for size in (np.int64(2), np.uint8(1), 2**70):
        np.testing.assert_array_equal(model.inference(PAIR, X, WEIGHTS, batch_size=size)[0], whole)


@pytest.mark.parametrize("sizes", [3, [[3]], [], [-1, 4], [1.5, 1.5], "3", [2**63 - 1, 2**63 - 1, 5]])
def test_sizes_of_graphs(sizes):
    with pytest.raises(GraphError, match="batch_sizes must"):
        Graph(INDPTR, INDICES, batch_sizes=sizes)


@pytest.mark.parametrize(
    "graph",
    [
        ([[1], [1, 2]], [1]), (None, None), ("a", "b"), (INDPTR[None], INDICES), (INDPTR.astype(float), INDICES), 3,
        (masked(INDPTR), INDICES), (INDPTR, masked(INDICES)), PAIR * 2, None, "cora", np.zeros((3, 3)), (3, 4),
        (INDPTR, INDICES.astype(np.uint64) + np.uint64(2**63)),
    ],
)  # fmt: skip
def test_graphs(model, graph):
    with pytest.raises(GraphError):
        model(graph, X, WEIGHTS)


def test_a_block_is_true_or_false():
    with pytest.raises(GraphError, match="is_block must be True or False, got 'no'"):
        Graph(INDPTR, INDICES, is_block="no")


@pytest.mark.parametrize(
    "matrix",
    [
        csr(indices=[1, 0, 2, 3]), csr(indices=[1, -1, 2, 1]), csr(indptr=[0, 1, 10**6, 4]), csr(indptr=[0, 1, 3, 9]),
        csr(indptr=[0, 3, 1, 4]), csr(indptr=[1, 1, 3, 4]), csr(indptr=[0, 4]),
        coo([0, 1], [1, 3]), coo([0, 1], [1, -1]), coo([0, 3], [1, 1]), coo([-1, 1], [1, 1]), coo([0.5, 1], [1, 1]),
        csc(indices=[1, 0, 2, 3]), csc(indices=[1, -1, 2, 1]), csc(indptr=[0, 1, 10**6, 4]),
    ],
)  # fmt: skip
def test_sparse_matrices_that_point_elsewhere(model, matrix):
    """scipy itself writes beyond its arrays when it is asked to convert some of these."""
    with pytest.raises(GraphError):
        model(matrix, X, WEIGHTS)


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "bsr", "lil", "dok", "dia"])
def test_sparse_matrices_of_all_formats(kind):
    dense = np.array([[0, 1, 0, 0], [1, 0, 0, 2], [0, 3, 0, 0]], np.float32)
    graph = Graph.from_scipy(scipy.sparse.coo_matrix(dense).asformat(kind))
    ends = graph.edges if kind in ("csr", "csc", "coo") else np.array(dense.nonzero())
    assert sorted(map(tuple, ends.T.tolist())) == [(0, 1), (1, 0), (1, 3), (2, 1)]
    assert (graph.num_src, graph.num_dst, graph.indptr.tolist()) == (3, 4, [0, 1, 3, 3, 4])


def test_entries_behind_the_last_row_of_a_sparse_matrix_are_none():
    matrix = scipy.sparse.csr_matrix((3, 3))
    matrix.indptr, matrix.indices, matrix.data = INDPTR, np.append(INDICES, 77), np.ones(5)
    assert Graph.from_scipy(matrix).num_edges == 4


def test_pairs_are_blocks_in_a_list():
    two = summing(blocks=2)
    expected = two([Graph(*PAIR), Graph(*PAIR)], X)[0]
    lists = [INDPTR.tolist(), INDICES.tolist()]
    for blocks in ([PAIR, PAIR], (PAIR, PAIR), [list(PAIR), Graph(*PAIR)], [lists, lists], [tuple(lists), PAIR]):
        np.testing.assert_array_equal(two(blocks, X)[0], expected)
        np.testing.assert_array_equal(two.inference(blocks, X, batch_size=2)[0], expected)
    np.testing.assert_array_equal(two.inference(PAIR, X)[0], expected)
    with pytest.raises(GraphError, match="reads graph 1 of a list of blocks"):
        two([PAIR], X)
    for pair in (PAIR, list(PAIR), lists, tuple(lists)):
        assert isinstance(graphs(pair, "graph"), Graph)


@pytest.mark.parametrize("key", [1, "abc", None, ("a", "b"), ("a", 1, "b"), frozenset("abc")])
def test_edge_types_are_three_strings(key):
    with pytest.raises(GraphError, match=r"keys of graph must be \(source type, edge type, destination type\)"):
        graphs({key: PAIR}, "graph")
    assert list(graphs({("a", "to", "b"): PAIR}, "graph")) == [("a", "to", "b")]


class Lazy:
    """Features of which slices are something."""

    dtype = np.dtype(np.float32)

    def __init__(self, given, shape=(3, 4)):
        self.given, self.shape = given, shape

    def __getitem__(self, rows):
        return self.given


@pytest.mark.parametrize(
    "features",
    [
        Lazy(None), Lazy([["a"] * 4] * 3), Lazy([[1], [1, 2]]), Lazy(masked(X)), Lazy(X, (3.5, 4)), Lazy(X, (-3, 4)),
        Lazy(X, (3,)),
    ],
)  # fmt: skip
def test_lazy_features(model, features):
    with pytest.raises(GraphError, match="features|x1"):
        model.inference(PAIR, features, WEIGHTS)


def test_operations_by_themselves():
    grid = nk.Grid(np.int64(4), bits=2, scale=0.5)
    codes = nk.quantize(X, grid)
    for values in ("a", [[1], [1, 2]], None, masked(X), X.astype(complex), X[0], NoArray()):
        with pytest.raises(GraphError, match="values"):
            nk.quantize(values, grid)
    for weights in ("a", masked(WEIGHTS), WEIGHTS * 1j):
        with pytest.raises(GraphError, match="edge_weight"):
            nk.spmm(PAIR, codes, edge_weight=weights)
    for columns in (4.0, True, 0, "4"):
        with pytest.raises(ValueError, match="columns of a grid"):
            nk.Grid(columns, bits=2, scale=0.5)


@pytest.mark.parametrize("half_grid", [False, True])
@pytest.mark.parametrize("zeros", [0, 60])
def test_numbers_that_grow_beyond_float32_are_told(half_grid, zeros):
    """A row's own scale must be finite, of features that are coded and of those that are looked up."""
    row = {"granularity": "row", "bits": 8, "alpha": 1.0, "half_grid": half_grid, "range_qmax": 255, "divisor": 1.0}
    builder, columns = PlanBuilder(), 4 + zeros
    doubled = builder.add("combine", 0, coefficients=[4.0]) if not zeros else 0
    coded = builder.quantize(doubled, {**row, "shift": 0.0}, columns)
    model = builder.model(["features"], builder.linear(coded, RNG, columns, 3, 8))
    x = np.hstack([X, np.zeros((3, zeros), np.float32)])
    assert np.isfinite(model(x)[0]).all()
    x[1, :2] = -3.3e38, 3.3e38
    with pytest.raises(GraphError, match="numbers within the model grow beyond float32; make the features smaller"):
        model(x)


@pytest.mark.parametrize("columns", [3, 16, 21, 64])
@pytest.mark.parametrize("place", [0, -1])
def test_results_that_grow_beyond_float32_are_told(columns, place):
    builder = PlanBuilder()
    model = builder.model(["features"], builder.add("combine", 0, coefficients=[4.0]))
    x = np.ones((70, columns), np.float32)
    assert (model(x)[0] == 4).all()
    x[place, place] = 3e38
    with pytest.raises(GraphError, match="numbers within the model grow beyond float32; make the features smaller"):
        model(x)
