import numpy as np
import pytest
import scipy.sparse

from numba_kernels import Graph, GraphError, PackedModel, Plan
from numba_kernels.graph import HUB_EDGES, row_bounds


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 2], [0]), "rise from 0 to the number of edges"),
        (([0, 2, 1, 3], [0, 0, 0]), "rise from 0"),
        (([1, 2], [0, 0]), "rise from 0"),
        (([0, 1], [1]), "name one of 1 source nodes"),
        (([0, 1], [-1]), "name one of 1 source nodes"),
        (([[0, 1]], [0]), "must be 1-D"),
        (([0, 1.0], [0]), "indptr must hold integers, got float64"),
        (([0, 1], [0.5]), "indices must hold integers"),
        (([0, 1], [0], 2**31), "num_src must be a whole number, from 0 to 2,147,483,647"),
    ],
)
def test_broken_arrays_are_refused(arguments, message):
    with pytest.raises(GraphError, match=message):
        Graph(*arguments)


def test_a_block_needs_its_destinations_among_its_sources():
    inputs = [{"name": n, "kind": n, "value": v, "optional": False} for v, n in enumerate(("graph", "features"))]
    ops = [{"op": "destination", "in": [1, 0], "out": 2}, {"op": "relu", "in": [2], "out": 3}]
    model = PackedModel(Plan(inputs, ops, [3], {}))
    with pytest.raises(GraphError, match="a block has its 2 destinations among its sources, of which there are 1 rows"):
        model(Graph([0, 0, 0], [], num_src=1, is_block=True), np.ones((1, 3), np.float32))


def test_of_refuses_what_is_no_graph():
    with pytest.raises(GraphError, match="scipy.sparse matrix"):
        Graph.of("cora")


@pytest.mark.parametrize("kind", ["coo", "csr", "csc"])
def test_scipy_matrices_read_as_dgl_reads_them(kind):
    rows, columns, data = [0, 2, 2, 1], [1, 0, 3, 3], [1.0, 2.0, 3.0, 4.0]
    matrix = scipy.sparse.coo_matrix((data, (rows, columns)), shape=(3, 4)).asformat(kind)
    graph = Graph.of(matrix)
    assert (graph.num_src, graph.num_dst) == (3, 4)
    assert graph.in_degrees.tolist() == [1, 1, 0, 2] and graph.out_degrees.tolist() == [1, 1, 2]
    # weights in the order of the matrix's own entries
    weights = graph.edge_weights(matrix.tocoo().data)
    dense = np.zeros((4, 3))
    for v in range(4):
        for e in range(graph.indptr[v], graph.indptr[v + 1]):
            dense[v, graph.indices[e]] = weights[e]
    np.testing.assert_array_equal(dense, matrix.toarray().T)


def test_blocks_cover_every_row_once_and_balance_edges():
    degrees = np.r_[np.full(1000, 2), 5000, np.full(1000, 2)]
    graph = Graph(np.r_[0, np.cumsum(degrees)], np.zeros(degrees.sum(), int))
    bounds = graph.bounds(edge_cost=1, row_cost=1)
    assert bounds[0] == 0 and bounds[-1] == 2001 and (np.diff(bounds) > 0).all()
    edges = np.diff(graph.indptr[bounds])
    assert np.sort(edges)[-2] < 300
    for rows in (0, 1, 63, 64, 65, 1000):
        bounds = row_bounds(rows)
        assert bounds[0] == 0 and bounds[-1] == rows and (np.diff(bounds) >= 0).all()


def test_edges_of_hubs_are_cut_into_parts():
    degrees = np.array([3, HUB_EDGES, 0, 2 * HUB_EDGES + 5, HUB_EDGES - 1])
    hubs = Graph(np.r_[0, np.cumsum(degrees)], np.zeros(degrees.sum(), int)).hubs
    assert hubs.nodes.tolist() == [1, 3] and hubs.first_parts.tolist() == [0, 1, 4]
    assert hubs.starts.tolist() == [3, *(3 + HUB_EDGES * np.arange(1, 4))]
    assert (hubs.stops - hubs.starts).tolist() == [HUB_EDGES] * 3 + [5]


def test_edge_weights_are_checked():
    graph = Graph([0, 1, 2], [1, 0])
    with pytest.raises(GraphError, match=r"shape \(2,\), got \(3,\)"):
        graph.edge_weights([1, 2, 3])
    with pytest.raises(GraphError, match="NaN or infinity"):
        graph.edge_weights([1, np.nan])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0], [2], 2), "destinations must name one of 2 nodes, got 2 … 2"),
        (([0], [-1], 2), "destinations must name one of 2 nodes, got -1 … -1"),
        (([2], [0], 2), "indices must name one of 2 source nodes"),
        (([0, 1], [0], 2), r"as many, got shapes \(2,\) and \(1,\)"),
        (([[0]], [[0]], 2), "must be 1-D"),
        (([0.5], [0], 2), "sources must hold integers, got float64"),
        (([0], [0], 2, 2**31), "num_dst must be a whole number, from 0 to"),
        (([0], [0], -1), "num_dst must be a whole number, from 0 to"),
    ],
)
def test_edges_that_describe_no_graph_are_refused(arguments, message):
    with pytest.raises(GraphError, match=message):
        Graph.from_edges(*arguments)
