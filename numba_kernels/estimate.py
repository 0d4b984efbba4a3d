"""What a run takes, told before: from the program that it will run, and a small run of it."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np

from .arguments import is_graph
from .given import whole_number
from .graph import Graph, GraphError
from .layout import AHEAD
from .plan.widths import widths_of
from .run.runtime import checked
from .run.sources import widths_gathered

# Nodes of the graph whose run is measured.
_MEASURED = 1 << 17


class Estimate(NamedTuple):
    """What a run of a model layer by layer takes; bytes, and seconds.

    Attributes
    ----------
    features : int
        Read once, from a file or memory.
    graph : int
        Of the graph as it is kept.
    states : int
        Of all that stands between stages.
    sources : int
        Of the states that a sum over neighbours reads at random, the most.
    results : int
    memory : int
        Used by a run without a folder, and an ``out`` in memory; features not counted.
    memory_with_folder : int
        That a run with a folder and an ``out`` in a file needs to keep: what is in files is brought in and left as
        there is room.
    disk : int
        Of the folder and the result.
    seconds : float
        Of processor time, over the threads of the model; nothing is read from disk.
    """

    features: int
    graph: int
    states: int
    sources: int
    results: int
    memory: int
    memory_with_folder: int
    disk: int
    seconds: float

    def __str__(self) -> str:
        sizes = {name: f"{size / 2**30:.2f} GiB" for name, size in self._asdict().items() if name != "seconds"}
        return ", ".join([*(f"{name} {size}" for name, size in sizes.items()), f"{self.seconds:.0f} s"])


def estimate(model, graph, nodes, edges, batch_size: int, most_memory: int) -> Estimate:
    """See :meth:`numba_kernels.PackedModel.estimate`."""
    plan, executor, threads = model.plan, model._executor, checked(model.threads)
    if not {entry["kind"] for entry in plan.inputs if not entry["optional"]} <= {"graph", "features", "constant"}:
        raise GraphError("estimates are of models that take a graph of one set of nodes, and their features.")
    nodes, edges = _sizes(graph, nodes, edges)
    inputs = _inputs(model, _unmade(nodes, edges))
    run = executor._run_of(inputs, executor.room(inputs.values()))
    assembled = executor._assembled(run)
    states = sum(run.rows(size) * row_bytes for size, row_bytes in assembled.buffers)
    results = sum(4 * run.sizes[size] * columns for size, columns in assembled.outputs.values())
    sources = max(
        (
            nodes * sum(widths.values())
            for widths in (widths_gathered(assembled, gathers) for gathers in assembled.gathers)
        ),
        default=0,
    )
    widths = widths_of(plan)
    features, kept = 4 * nodes * sum(widths.values()), 8 * (nodes + 1) + 4 * (edges + AHEAD)
    degrees = 4 * nodes * (1 + len({op["side"] for op in plan.ops if "side" in op}))
    working = threads * assembled.program.scratch_size + 3 * 4 * batch_size * sum(widths.values()) + model.nbytes
    return Estimate(
        features, kept, states, sources, results,
        memory=kept + degrees + states + results + working,
        memory_with_folder=degrees + min(sources, most_memory) + working,
        disk=kept + states + results,
        seconds=_seconds(model, nodes, edges, batch_size),
    )  # fmt: skip


def _sizes(graph, nodes, edges):
    """Numbers of nodes and edges, without reading a graph."""
    if graph is not None and (nodes is not None or edges is not None):
        raise GraphError("give a graph, or nodes and edges.")
    if isinstance(graph, list) and graph and all(map(is_graph, graph)):  # the same for each block
        graph = graph[0]
    if isinstance(graph, (tuple, list)) and len(graph) == 2:
        indptr, indices = (np.asanyarray(part) for part in graph)
        return len(indptr) - 1, len(indices)
    if graph is not None:
        graph = Graph.of(graph)
        if graph.num_src != graph.num_dst:
            raise GraphError("estimates are of graphs of one set of nodes.")
        return graph.num_dst, graph.num_edges
    return whole_number(nodes, "nodes", 0, 2**31 - 1), whole_number(edges, "edges", 0)


def _inputs(model, graph):
    """Inputs by value of a run on a graph, with features that are all alike."""
    widths, blocks, inputs = widths_of(model.plan), model.blocks_read(), {}
    for entry in model.plan.inputs:
        value, kind = entry["value"], entry["kind"]
        if kind == "graph":
            inputs[value] = [graph] * blocks[value] if value in blocks else graph
        else:
            inputs[value] = _Alike(graph.num_dst, widths[value]) if kind == "features" else None
    return inputs


class _Alike:
    """Features of ones, made as they are read."""

    dtype, ndim = np.dtype(np.float32), 2

    def __init__(self, rows, columns):
        self.shape, self.nbytes = (rows, columns), 4 * rows * columns

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        return np.ones((len(range(*rows.indices(len(self)))), self.shape[1]), np.float32)


def _unmade(nodes, edges):
    """What is asked of a graph before its arrays are read."""
    graph = Graph([0], [])
    graph.num_src, graph.num_dst, graph.num_edges = nodes, nodes, edges
    graph.batch_starts = np.array([0, nodes], np.int64)
    return graph


def _seconds(model, nodes, edges, batch_size):
    """What a run takes in proportion to one on a random graph of fewer nodes, whose kernels are compiled."""
    few = min(nodes, _MEASURED)
    if few == 0:
        return 0.0
    rng, threads = np.random.default_rng(0), checked(model.threads)
    indptr = np.arange(few + 1) * max(edges, nodes) // nodes  # as many edges a node, and at least one
    graph = Graph(indptr, rng.integers(few, size=indptr[-1]))
    inputs = _inputs(model, graph)

    def once():
        start = time.process_time()
        model._executor.run(inputs, threads, batch_size)
        return (time.process_time() - start) / threads

    once()
    return once() * nodes / few
