"""Results kept from run to run, of which only what changes is computed again."""

from __future__ import annotations

import threading

import numpy as np

from ..given import checked_nodes
from ..graph import Graph, GraphError
from ..plan.reach import Reach
from ..subgraph import out_neighbours, reached
from .executor import Executor
from .part import node_count
from .runtime import renew_after_fork


class Kept:
    """The last results of an executor, kept up to date; threads that update them come one after the other."""

    def __init__(self, executor: Executor):
        self._executor, self._outputs, self._lock = executor, [], threading.Lock()
        renew_after_fork(self)

    def __reduce__(self):
        return Kept, (self._executor,)  # results stay

    def release(self) -> None:
        """Forget the results, so that the next run is whole."""
        with self._lock:
            self._outputs = []

    def renew(self) -> None:
        """In a forked process: forget results that another thread was writing."""
        if self._lock.locked():
            self._outputs, self._lock = [], threading.Lock()

    def update(self, inputs: dict, nodes, edges, threads: int) -> list[np.ndarray]:
        """Results for ``inputs``, after features of ``nodes``, and ``edges``, (sources, destinations), have changed.

        Without either, and the first time, all of them are computed.

        Raises
        ------
        GraphError
            For nodes that there are not, and where there are fewer than before.
        """
        with self._lock:
            self._update(inputs, nodes, edges, threads)
            return [output.copy() for output in self._outputs]

    def _update(self, inputs, nodes, edges, threads):
        reach = self._executor.reach
        if not self._outputs or (nodes is None and edges is None) or reach.hops is None:
            self._outputs = self._executor.run(self._executor.with_float32(inputs), threads)
        else:
            count, known = node_count(self._executor.plan.inputs, inputs), len(self._outputs[0])
            nodes, edges = checked_nodes([] if nodes is None else nodes, count, "changed"), _checked_edges(edges, count)
            if count < known:
                raise GraphError(
                    f"an update takes nodes that are added behind the others; there were {known}, now there are "
                    f"{count}: call update without saying what changed."
                )
            affected = changed_rows(reach, inputs[reach.graph], nodes, edges, known)
            self._write(affected, self._executor.run_at(affected, inputs, threads), count)

    def _write(self, rows, parts, count):
        for place, (output, part) in enumerate(zip(self._outputs, parts)):
            if len(output) != count:
                output = np.concatenate([output, np.empty((count - len(output), *output.shape[1:]), output.dtype)])
                self._outputs[place] = output
            output[rows] = part


def changed_rows(reach: Reach, graph: Graph, nodes, edges, known: int) -> np.ndarray:
    """Nodes of which results differ where features of ``nodes`` and ``edges`` do; those from ``known`` on are new."""
    out_indptr, out_indices = out_neighbours(graph)
    new, into_new = np.arange(known, graph.num_dst), graph.indices[graph.indptr[known] :]
    starts: dict[int, list] = {}
    for hops, changed in (
        (reach.features, [nodes, new]),
        (reach.targets, [edges[1], new, out_indices[out_indptr[known] :]]),
        (reach.sources, [edges[0], into_new]),
    ):
        if hops >= 0:
            starts.setdefault(hops, []).extend(changed)
    return reached(graph, {hops: np.concatenate(parts) for hops, parts in starts.items()})


def _checked_edges(edges, count):
    if edges is None:
        edges = [], []
    if not isinstance(edges, (tuple, list)) or len(edges) != 2:
        raise GraphError("changed_edges must be a pair of arrays (sources, destinations) of node numbers.")
    source, target = (checked_nodes(end, count, "changed_edges") for end in edges)
    if len(source) != len(target):
        raise GraphError(f"changed_edges must be as many sources as destinations, got {len(source)} and {len(target)}.")
    return source, target
