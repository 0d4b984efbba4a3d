"""Runs of partitions that exchange rows of codes, against runs of the whole graph, to the bit."""

import threading

import numpy as np
import pytest

from numba_kernels import Graph, GraphError
from numba_kernels.partition import PartitionGraph, PartitionNodes
from tests.numba_kernels.test_some_nodes import Draw, model_of

WORKERS = 3


def local_edges(draw, inner):
    """The edges into inner nodes, in the order of their targets."""
    order = np.argsort(draw.ends[1], kind="stable")
    return order[np.isin(draw.ends[1][order], inner)]


class Cut:
    """A graph cut among workers, threads of this process, and what they say to each other."""

    def __init__(self, draw, owner):
        self.draw, self.owner, self.barrier = draw, owner, threading.Barrier(WORKERS, timeout=600)
        self.inner = [np.flatnonzero(owner == worker) for worker in range(WORKERS)]
        edges = [local_edges(draw, inner) for inner in self.inner]
        self.halo = [np.setdiff1d(draw.ends[0][part], inner) for part, inner in zip(edges, self.inner)]
        self.edges, self.said, self.sizes = edges, [None] * WORKERS, []

    def say(self, worker, what):
        """What all workers say."""
        self.said[worker] = what
        self.barrier.wait()
        said = list(self.said)
        self.barrier.wait()
        return said

    def graph(self, worker):
        draw, inner, halo, edges = self.draw, self.inner[worker], self.halo[worker], self.edges[worker]
        local, count = np.concatenate([inner, halo]), len(inner) + len(halo) + 1
        while count == len(edges):
            count += 1
        nodes = PartitionNodes("_N", len(inner), count)
        place = np.zeros(draw.nodes, np.int64)
        place[local] = np.arange(len(local))
        into = np.bincount(draw.ends[1], minlength=draw.nodes)
        indptr = np.concatenate([[0], np.cumsum(into[inner])])
        out = np.bincount(draw.ends[0], minlength=draw.nodes)[inner]

        def total(numbers):
            whole = np.zeros(draw.nodes)
            for other, part in enumerate(self.say(worker, numbers)):
                ids = np.concatenate([self.inner[other], self.halo[other]])
                whole[ids] += part[: len(ids)]
            return np.concatenate([whole[local], np.zeros(count - len(local))])

        return PartitionGraph(
            indptr, place[draw.ends[0][edges]], nodes, nodes, out, into.max(), bool((into == 0).any()), total
        )

    def exchange(self, worker):
        def exchanged(codes):
            said = self.say(worker, codes)
            for n, mine in enumerate(codes):
                rows = []
                for node in self.halo[worker]:
                    other = self.owner[node]
                    rows.append(said[other][n].take(np.searchsorted(self.inner[other], [node])))
                rows = np.concatenate([*rows, np.empty((0, mine.row_bytes), np.uint8)])
                mine.put(rows, len(self.inner[worker]))
                self.sizes.append((mine.grid.columns, mine.row_bytes))
            self.barrier.wait()

        return exchanged

    def run(self, models, **changes):
        results = [None] * WORKERS

        def work(worker):
            draw, edges = self.draw, self.edges[worker]
            arguments = draw.x[self.inner[worker]], draw.weights[edges], draw.on_edges[edges], draw.types[edges]
            try:
                given = {"batch_size": 3, "exchange": self.exchange(worker), **changes}
                results[worker] = models[worker].inference(self.graph(worker), *arguments, **given)[0]
            except Exception as error:
                results[worker] = error
                self.barrier.abort()

        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(WORKERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        faults = [result for result in results if isinstance(result, Exception)]
        faults.sort(key=lambda fault: isinstance(fault, threading.BrokenBarrierError))
        if faults:
            raise faults[0]
        return results


FAST = ("both", "plain"), ("normed", "left")
SLOW = ("max", "left"), ("attend", "both"), ("typed", "edges")
STYLES = [*FAST, *(pytest.param(styles, marks=pytest.mark.slow) for styles in SLOW)]


@pytest.mark.parametrize("styles", STYLES, ids=str)
def test_partitions_give_the_rows_of_the_whole_graph(styles):
    rng = np.random.default_rng(len(styles[0]))
    draw, models = Draw(rng, 40, 120), [model_of(np.random.default_rng(1), styles) for _ in range(WORKERS)]
    (whole,) = models[0](*draw.arguments())
    cut = Cut(draw, rng.integers(WORKERS, size=40))
    for inner, part in zip(cut.inner, cut.run(models)):
        np.testing.assert_array_equal(part, whole[inner])
    assert set(cut.sizes) == {(8, 2)}  # 2-bit codes without padding


def test_a_worker_without_nodes_takes_part():
    rng = np.random.default_rng(0)
    draw, models = Draw(rng, 20, 60), [model_of(np.random.default_rng(1), ("both", "left")) for _ in range(WORKERS)]
    (whole,) = models[0](*draw.arguments())
    cut = Cut(draw, rng.integers(WORKERS - 1, size=20))
    for inner, part in zip(cut.inner, cut.run(models)):
        np.testing.assert_array_equal(part, whole[inner])
    assert len(cut.inner[-1]) == 0


def test_what_a_partition_cannot_do_is_refused():
    rng = np.random.default_rng(0)
    draw, model = Draw(rng, 20, 60), model_of(rng, ("both",))
    cut = Cut(draw, np.zeros(20, np.int64))
    graph, arguments = cut.graph(0), (draw.weights, draw.on_edges, draw.types)
    with pytest.raises(GraphError, match="call inference with an exchange"):
        model(graph, np.zeros((graph.num_src, 12), np.float32), *arguments)
    with pytest.raises(GraphError, match="19 rows of x1 are others than its inner nodes, 20 of type '_N'"):
        model.inference(graph, draw.x[:19], *arguments, exchange=print)
    with pytest.raises(GraphError, match="expected rows of 20 targets and degrees of 20 sources, got 19 and 20"):
        nodes = graph.source_nodes
        PartitionGraph(graph.indptr[:20], graph.indices[: graph.indptr[19]], nodes, nodes, np.zeros(20), 1, False)
    whole = Graph(graph.indptr[:21], graph.indices)
    with pytest.raises(GraphError, match="the graph is a whole one"):
        model.inference(whole, draw.x, *arguments, exchange=print)
