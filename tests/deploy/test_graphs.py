"""Graphs prepared for kernels: what identifies one, and how long it is kept."""

import gc
import sys

import dgl
import dgl.nn
import numpy as np
import pytest
import torch
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.deploy import kernel_graph
from dgl_lowbit.graphs.cache import GraphCache
from tests.conftest import features, homogeneous
from tests.processes import in_threads


class ReadOut(nn.Module):
    def __init__(self, pooling):
        super().__init__()
        self.conv, self.pool, self.out = dgl.nn.GINConv(nn.Linear(5, 8), "sum"), pooling, nn.Linear(8, 3)

    def forward(self, g, feat):
        return self.out(self.pool(g, torch.relu(self.conv(g, feat))))


@pytest.mark.parametrize("pooling", [dgl.nn.SumPooling, dgl.nn.AvgPooling, dgl.nn.MaxPooling])
def test_sizes_of_a_batch_that_are_set_after_a_run_are_noticed(pooling):
    graph = dgl.rand_graph(12, 40)
    feat = features(graph, 5)
    model = lowbit.quantize(ReadOut(pooling()), lowbit.QuantConfig(8))
    lowbit.calibrate(model, graph, feat)
    packed = lowbit.freeze(model.eval())
    for sizes in ([12], [4, 8], [5, 0, 7], [12]):
        graph.set_batch_num_nodes(torch.tensor(sizes))
        graph.set_batch_num_edges(torch.tensor([40] + [0] * (len(sizes) - 1)))
        got = packed(graph, feat)
        assert got.shape == (len(sizes), 3)
        torch.testing.assert_close(got, model(graph, feat), rtol=1e-5, atol=1e-5)
    batch = dgl.batch([graph, dgl.rand_graph(3, 5)])
    assert packed(batch, features(batch, 5)).shape == (2, 3)
    sizes = torch.tensor([4, 8])
    graph.set_batch_num_nodes(sizes)
    first = packed(graph, feat)
    sizes.copy_(torch.tensor([8, 4]))
    torch.testing.assert_close(packed(graph, feat), model(graph, feat), rtol=1e-5, atol=1e-5)
    assert not torch.equal(packed(graph, feat), first)


def test_a_graph_is_prepared_once_until_it_changes():
    graph = homogeneous()
    first = kernel_graph(graph)
    assert kernel_graph(graph) is first
    assert graph.batch_size == 1 and graph.batch_num_nodes().tolist() == [40]
    second = kernel_graph(graph)  # DGL made the sizes of a batch of one
    assert kernel_graph(graph) is second and np.array_equal(second.indices, first.indices)
    graph.add_edges([0, 1], [2, 3])
    assert kernel_graph(graph).num_edges == first.num_edges + 2
    graph.remove_edges([0])
    assert kernel_graph(graph).num_edges == first.num_edges + 1


@pytest.mark.parametrize("formats", ["coo", "csr", "csc", ["coo", "csr"]])
def test_graphs_restricted_to_any_format_are_read(formats):
    graph = homogeneous()
    expected, got = kernel_graph(graph), kernel_graph(graph.formats(formats))
    assert np.array_equal(expected.in_degrees, got.in_degrees)
    for v in range(graph.num_nodes()):
        row = slice(expected.indptr[v], expected.indptr[v + 1])
        assert sorted(expected.indices[row]) == sorted(got.indices[row])


class Prepared:
    def __init__(self, nbytes):
        self.nbytes = nbytes


def test_what_is_kept_is_bounded_and_the_last_used_stays():
    cache, graphs = GraphCache(most_bytes=100), [homogeneous(seed) for seed in range(6)]
    for graph in graphs[:3]:
        cache.get(graph, lambda graph: Prepared(40))
    assert len(cache) == 2 and cache.nbytes == 80
    cache.get(graphs[1], pytest.fail)  # kept, and now used last
    cache.get(graphs[3], lambda graph: Prepared(40))
    cache.get(graphs[1], pytest.fail)
    large = cache.get(graphs[4], lambda graph: Prepared(1000))
    assert len(cache) == 1 and cache.get(graphs[4], pytest.fail) is large
    cache.get(graphs[5], lambda graph: Prepared(1))
    assert len(cache) == 1 and cache.nbytes == 1


def test_graphs_that_are_gone_are_not_kept():
    cache = GraphCache()
    cache.get(homogeneous(), lambda graph: Prepared(40))
    gc.collect()
    assert len(cache) == 0 and cache.nbytes == 0


def test_a_cache_is_shared_by_threads():
    graphs, before = [homogeneous(seed) for seed in range(6)], sys.getswitchinterval()
    cache = GraphCache(most_bytes=250)

    def work(seed):
        wrong = 0
        for n in np.random.default_rng(seed).integers(6, size=300):
            wrong += cache.get(graphs[n], lambda graph, n=n: np.full(50 + n, n, np.uint8))[0] != n
        return wrong

    sys.setswitchinterval(1e-6)
    try:
        assert in_threads(*(lambda seed=seed: work(seed) for seed in range(4))) == [0] * 4
    finally:
        sys.setswitchinterval(before)
    assert cache.nbytes == sum(kept[3] for kept in cache._kept.values()) <= 250


def test_what_runs_add_to_a_kept_graph_counts():
    cache, graph = GraphCache(), homogeneous()
    prepared = cache.get(graph, kernel_graph)
    before = cache.nbytes
    assert prepared.in_degrees.sum() == graph.num_edges() and prepared.degree_factor("out", -1, 0).all()
    assert cache.get(graph, kernel_graph) is prepared and cache.nbytes == prepared.nbytes > before
    del graph
    assert cache.nbytes == 0 and not len(cache)
