"""Functions of graphs against DGL's, edges in the order of their ids."""

import dgl
import dgl.function as fn
import numpy as np
import pytest
import torch

from numba_kernels import Graph, GraphError
from numba_kernels.arrays import FUNCTIONS

from .arrays import floats, ints


def kernel_graph(graph):
    indptr, indices, edge_ids = (part.numpy() for part in graph.adj_tensors("csc"))
    sizes = graph.batch_num_nodes().numpy() if graph.is_homogeneous else None
    return Graph(indptr, indices, graph.num_src_nodes(), edge_ids if len(edge_ids) else None, batch_sizes=sizes)


def close(got, expected):
    expected = expected.numpy()
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(got, expected, 3e-6, 3e-6)


def call(name, *args, **kwargs):
    (result,) = FUNCTIONS[name](*args, **kwargs)
    return result


@pytest.fixture(params=["shuffled", "in order", "bipartite", "no edges"])
def graph(request):
    rng = np.random.default_rng(0)
    ends = rng.integers(0, 20, (2, 60))  # some nodes have no edges
    if request.param == "in order":
        ends = ends[:, np.lexsort(ends)]
    if request.param == "no edges":
        ends = ends[:, :0]
    ends = tuple(torch.from_numpy(ends.copy()))
    if request.param == "bipartite":
        return dgl.heterograph({("a", "to", "b"): ends}, {"a": 25, "b": 22})
    return dgl.graph(ends, num_nodes=25)


def test_ends_and_rows_by_edge(graph):
    packed = kernel_graph(graph)
    for got, expected in zip(FUNCTIONS["edges"](packed), graph.edges()):
        close(got, expected)
    source, destination = floats(packed.num_src, 2, 3), ints(packed.num_dst)
    close(call("take_source", packed, source), torch.from_numpy(source)[graph.edges()[0]])
    close(call("take_destination", packed, destination), torch.from_numpy(destination)[graph.edges()[1]])
    close(call("in_degrees", packed), graph.in_degrees())
    close(call("out_degrees", packed), graph.out_degrees())


def test_parts_of_graphs_are_those_of_dgl():
    graph = dgl.graph(tuple(torch.from_numpy(np.random.default_rng(0).integers(0, 20, (2, 60)))), num_nodes=25)
    packed, nodes, edges = kernel_graph(graph), torch.tensor([7, 3, 19, 0, 12, 11, 5, 1]), torch.arange(0, 60, 7)
    part = graph.subgraph(nodes)
    *ends, ids = FUNCTIONS["edges_between"](packed, nodes.numpy(), nodes.numpy())
    order = part.edata[dgl.EID].argsort()
    for got, expected in zip((*ends, ids), (*part.edges(), part.edata[dgl.EID])):
        close(got, expected[order])
    part = graph.edge_subgraph(edges)
    *ends, kept, count = FUNCTIONS["relabel"](*(end[edges].numpy() for end in graph.edges()))
    for got, expected in zip((*ends, kept), (*part.edges(), part.ndata[dgl.NID])):
        close(got, expected)
    assert count == part.num_nodes()
    with pytest.raises(GraphError, match="indices from 0 to 25 where there are 25"):
        FUNCTIONS["edges_between"](packed, np.array([0, 25]), np.array([0]))


def test_paths_of_edges_are_those_of_dgl():
    rng = np.random.default_rng(0)
    kinds = {("a", "ab", "b"): (9, 12), ("b", "bc", "c"): (12, 5), ("c", "ca", "a"): (5, 9)}
    edges = {kind: tuple(torch.from_numpy(rng.integers(0, n, 25)) for n in counts) for kind, counts in kinds.items()}
    graph = dgl.heterograph(edges, {"a": 9, "b": 12, "c": 5})
    first, *others = (kernel_graph(graph[kind]) for kind in kinds)
    ends, way = FUNCTIONS["distinct_edges"](first), ["ab"]
    for other, etype in zip((None, *others), (None, "bc", "ca")):
        if other is not None:
            ends, way = FUNCTIONS["follow_edges"](*ends, other), [*way, etype]
        expected = dgl.metapath_reachable_graph(graph, way)
        assert set(zip(*(end.tolist() for end in ends))) == set(zip(*(end.tolist() for end in expected.edges())))
        assert len(ends[0]) == expected.num_edges()


@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
@pytest.mark.parametrize("reduce", ["sum", "mean", "max", "min"])
def test_reduce_edges(graph, reduce, shape):
    x = floats(graph.num_edges(), *shape)
    with graph.local_scope():
        graph.edata["x"] = torch.from_numpy(x)
        graph.update_all(fn.copy_e("x", "m"), getattr(fn, reduce)("m", "y"))
        expected = graph.dstdata["y"] if graph.num_edges() else torch.zeros(graph.num_dst_nodes(), *shape)
    close(call("reduce_edges", kernel_graph(graph), x, reduce), expected)


@pytest.mark.parametrize("shape", [(), (1,), (4, 1)])
@pytest.mark.parametrize("norm_by", ["dst", "src"])
def test_edge_softmax(graph, norm_by, shape):
    x = floats(graph.num_edges(), *shape) * 30
    if graph.num_edges():
        got = call("edge_softmax", kernel_graph(graph), x, norm_by)
        close(got, dgl.ops.edge_softmax(graph, torch.from_numpy(x), norm_by=norm_by))


@pytest.mark.parametrize(("lhs", "rhs"), [("u", "v"), ("u", "e"), ("e", "v")])
def test_edge_dot(graph, lhs, rhs):
    rows = {"u": graph.num_src_nodes(), "v": graph.num_dst_nodes(), "e": graph.num_edges()}
    one, two = floats(rows[lhs], 2, 3), floats(rows[rhs], 2, 3, seed=1)
    expected = dgl.ops.gsddmm(graph, "dot", torch.from_numpy(one), torch.from_numpy(two), lhs, rhs)
    close(call("edge_dot", kernel_graph(graph), one, two, lhs, rhs), expected)


def test_batches():
    graphs = [dgl.rand_graph(n, m) for n, m in ((4, 9), (3, 0), (6, 20))]
    batch = dgl.batch(graphs)
    packed = kernel_graph(batch)
    close(call("batch_num_nodes", packed), batch.batch_num_nodes())
    close(call("batch_num_edges", packed), batch.batch_num_edges())
    x = floats(3, 2)
    close(call("broadcast_nodes", packed, x), dgl.broadcast_nodes(batch, torch.from_numpy(x)))
    close(call("broadcast_edges", packed, x), dgl.broadcast_edges(batch, torch.from_numpy(x)))
    assert packed.nbytes > 16 * batch.num_edges()  # what is kept of edges is counted


@pytest.mark.parametrize("reduce", ["sum", "mean", "max", "min"])
def test_segments(reduce):
    lengths, x = np.array([3, 0, 1, 4, 0]), floats(8, 2)
    got = call("segment_reduce", lengths, x, reduce)
    close(got, torch.nan_to_num(dgl.ops.segment_reduce(torch.from_numpy(lengths), torch.from_numpy(x), reduce)))
    softmax = torch.cat([part.softmax(0) for part in torch.from_numpy(x).split(lengths.tolist())])
    close(call("segment_softmax", lengths, x), softmax)


def test_products_by_type():
    x, weight, lengths = floats(8, 3), floats(4, 3, 5, seed=1), np.array([3, 0, 1, 4])
    index = np.repeat(np.arange(4), lengths)
    expected = torch.from_numpy(np.einsum("nd,nde->ne", x, weight[index]))
    close(call("segment_mm", x, weight, lengths), expected)
    order = np.random.default_rng(0).permutation(8)
    close(call("gather_mm", x[order], weight, index[order]), expected[order])


def test_rows_that_do_not_fit(graph):
    packed, x = kernel_graph(graph), floats(99, 2)
    for name, args in {
        "take_source": (packed, x),
        "take_destination": (packed, x),
        "reduce_edges": (packed, x, "sum"),
        "edge_softmax": (packed, x),
        "broadcast_nodes": (packed, x),
        "segment_reduce": (np.array([3, 4]), x, "sum"),
        "segment_mm": (x, floats(2, 2, 2), np.array([3, 4])),
        "gather_mm": (x, floats(2, 2, 2), np.array([0, 1])),
    }.items():
        with pytest.raises(GraphError, match=rf"{name}\(.*float32 \(99, 2\).*\) .* expected a row for each of"):
            FUNCTIONS[name](*args)
    with pytest.raises(GraphError, match="indices from 2 to 2 where there are 2"):
        FUNCTIONS["gather_mm"](floats(1, 3), floats(2, 3, 3), np.array([2]))
