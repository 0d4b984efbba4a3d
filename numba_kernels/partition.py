"""A partition of a graph, as one of several workers holds it: its inner nodes, and the halo around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .errors import GraphError
from .graph import Graph


@dataclass(frozen=True)
class PartitionNodes:
    """Nodes of one type that a worker has rows of.

    Attributes
    ----------
    name : str
        The type.
    inner : int
        How many it computes; they come first.
    count : int
        How many rows stand in memory: inner nodes, then the halo, sources of edges into inner nodes that other workers
        compute, then what is left unused. No other type of nodes, and no type of edges, has as many, so that the number
        says whose rows they are.
    """

    name: str
    inner: int
    count: int


class PartitionGraph(Graph):
    """In-neighbours of a partition's inner nodes, by edges of one type.

    What nodes have of the whole graph comes from there: how many edges lead out of them, the largest in-degree, and
    whether there are nodes that receive nothing. Halo nodes receive nothing here; other workers compute them.

    Parameters
    ----------
    indptr : (inner + 1,) integers
        Sources of the target v stand at ``indices[indptr[v]:indptr[v + 1]]``; all of them, as in the whole graph.
    indices : (E,) integers
        Sources, by their places here.
    sources, targets : PartitionNodes
    out_degrees : (inner,) integers
        Of the sources among inner nodes, in the whole graph.
    max_in_degree : int
        Of the whole graph.
    has_zero_in_degree : bool
        Whether the whole graph has targets that receive nothing.
    total : callable, optional
        ``total(numbers)`` adds up what all workers know of the same sources: a float64 array of a number for each of
        ``sources.count`` rows. All workers call it in the same order. Only normed edge weights need it.

    Raises
    ------
    GraphError
        When the arrays do not describe a graph.
    """

    def __init__(
        self, indptr, indices, sources, targets, out_degrees, max_in_degree, has_zero_in_degree, total=None
    ) -> None:
        rows = np.append(indptr, np.full(targets.count - targets.inner, indptr[-1]))
        super().__init__(rows, indices, sources.count)
        if len(rows) != targets.count + 1 or len(out_degrees) != sources.inner:
            raise GraphError(
                f"expected rows of {targets.inner} targets and degrees of {sources.inner} sources, got "
                f"{len(indptr) - 1} and {len(out_degrees)}."
            )
        self.source_nodes, self.target_nodes = sources, targets
        self.max_in_degree, self.has_zero_in_degree = int(max_in_degree), bool(has_zero_in_degree)
        self.total: Callable | None = total
        degrees = np.zeros(sources.count, np.int64)
        degrees[: sources.inner] = out_degrees
        vars(self)["out_degrees"] = degrees

    def _sums_by_source(self, weights):
        if self.total is None:
            raise GraphError("weights of edges are normed by sums over the whole graph; give the graph a total.")
        return self.total(super()._sums_by_source(weights))

    def _of_types(self, indices, count):
        typed = _TypedPartitionGraph(self.indptr, indices, count * self.num_src)
        typed.source_nodes, typed.target_nodes = self.source_nodes, self.target_nodes
        typed.max_in_degree, typed.has_zero_in_degree = self.max_in_degree, self.has_zero_in_degree
        return typed


class _TypedPartitionGraph(Graph):
    """A partition's graph with each source once for each type of edges."""

    def degree_factor(self, side, power, plus, of_15_bits=False):
        if side == "out":
            raise GraphError("degrees of sources by type of edges are not known of a partition; run the whole graph.")
        return super().degree_factor(side, power, plus, of_15_bits)


def whole_graph(graph: PartitionGraph | Graph) -> bool:
    """Whether a graph is no worker's part of one."""
    return not isinstance(graph, (PartitionGraph, _TypedPartitionGraph))
