"""What numbers decide: graphs made of arrays, and arrays whose shapes say how many rows matrices have.

How a run is laid out follows from its graphs and shapes. These are therefore computed ahead of it, each by a run of
what leads to it, and are then given.
"""

from __future__ import annotations

import numpy as np

from ...graph import Graph, GraphError
from .registry import Operation, operation


class _Ahead(Operation):
    is_ahead = True
    reads_sources = None

    def check(self, plan, op, *values):
        for value in values:
            plan.expect(value, "array")
        plan.define(op["out"], self.kind, None)

    def reference(self, plan, op, *values):
        return self.make(*values)


@operation("ahead")
class ArrayAhead(_Ahead):
    """An array, as it is."""

    kind = "array"

    def make(self, array):
        return array


@operation("make_graph")
class MakeGraph(_Ahead):
    """The graph of edges from ``source`` to ``destination``, integers (E,), and of so many nodes at either end."""

    kind = "graph"

    def asks_for(self, source, destination, num_src, num_dst):
        return 8 * sum(int(count.max(initial=0)) for count in (num_src, num_dst))

    def make(self, source, destination, num_src, num_dst):
        ends, counts = (source, destination), (num_src, num_dst)
        if any(array.dtype != np.int64 for array in (*ends, *counts)):
            raise GraphError(f"a graph is made of whole numbers, got {source.dtype} and {destination.dtype}.")
        if source.ndim != 1 or source.shape != destination.shape or any(count.size != 1 for count in counts):
            shapes = ", ".join(str(array.shape) for array in (*ends, *counts))
            raise GraphError(
                f"a graph is made of sources, destinations, and two numbers of nodes, got shapes {shapes}."
            )
        num_src, num_dst = (int(count.reshape(())) for count in counts)
        if any(len(end) and not 0 <= end.min() <= end.max() < count for end, count in zip(ends, (num_src, num_dst))):
            raise GraphError(f"a graph is made of edges between nodes that it has not, of {num_src} and {num_dst}.")
        order = np.argsort(destination, kind="stable")
        indptr = np.concatenate([[0], np.cumsum(np.bincount(destination, minlength=num_dst))])
        return Graph(indptr, source[order], num_src, edge_ids=order)
