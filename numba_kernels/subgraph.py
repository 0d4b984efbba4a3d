"""The part of a graph that results of some nodes follow from, and the nodes whose results others change."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .graph import HUB_EDGES, Graph
from .jit import launcher
from .layout import AHEAD
from .once import once


class Subgraph(Graph):
    """Some nodes of a graph, and all edges into those of them that are fewer than some number of edges away.

    What a node has of the whole graph it keeps: its degrees, and the order of its edges. Weights and types of edges are
    given for all edges of the whole graph. Into the outermost nodes there are no edges here.

    Parameters
    ----------
    whole : Graph
    nodes : (n,) int32
        The nodes by their number there, those asked for first, then by how many edges they are away.
    ends : list of int
        How many of them are at most 0, 1, … edges away.
    indptr, fetched : (n + 1,) int64, (E + AHEAD,) int32
        The edges between them, by their places here; zeros follow.
    types : int
        How often each node is there as a source, once for each type of edges.
    """

    def __init__(self, whole: Graph, nodes, ends, indptr, fetched, types: int = 1) -> None:
        self._whole, self.nodes, self.ends, self.indptr, self.fetched = whole, nodes, ends, indptr, fetched
        self.num_dst, self.num_src, self.num_edges = len(nodes), types * len(nodes), len(fetched) - AHEAD
        self.edge_ids, self.is_block, self.batch_starts = None, False, np.array([0, len(nodes)], np.int64)
        self.max_in_degree, self.has_zero_in_degree = whole.max_in_degree, whole.has_zero_in_degree
        self.num_hubs = int((self.in_degrees >= HUB_EDGES).sum()) if whole.num_hubs else 0
        self._arrays, self._typed = {}, {}

    @property
    def whole(self) -> Graph:
        return self._whole

    @once
    def edges_there(self) -> np.ndarray:
        """The number of each edge in the whole graph, (E,) int64."""
        inner = self.nodes[: self.ends[-2]] if len(self.ends) > 1 else self.nodes[:0]
        before = self.whole.indptr[inner] - self.indptr[: len(inner)]
        places = np.repeat(before, self.in_degrees[: len(inner)]) + np.arange(self.num_edges)
        return places if self.whole.edge_ids is None else self.whole.edge_ids[places]

    def within(self, hops: int) -> int:
        """How many nodes are at most ``hops`` edges away."""
        return self.ends[min(hops, len(self.ends) - 1)]

    def by_edge(self, values: np.ndarray) -> np.ndarray:
        return values[self.edges_there]

    def degree_factor(self, side: str, power: float, plus: int, of_15_bits: bool = False) -> np.ndarray:
        key = "factor", side, power, plus, of_15_bits
        if key not in self._arrays:
            self._arrays[key] = self.whole.degree_factor(side, power, plus, of_15_bits)[self.nodes]
        return self._arrays[key]

    def normed(self, edge_weight) -> np.ndarray:
        return self.whole.normed(edge_weight)

    def _of_types(self, indices, count):
        fetched = np.zeros_like(self.fetched)
        fetched[: self.num_edges] = indices
        return Subgraph(self.whole, self.nodes, self.ends, self.indptr, fetched, count)


class Search:
    """Nodes in the order in which they are found; ``indptr`` and ``indices`` say where edges lead from each.

    Use it in a ``with`` block: the array of a mark a node is the graph's, and is lent to one search at a time.
    """

    def __init__(self, graph: Graph, indptr: np.ndarray, indices: np.ndarray):
        self._graph, self._indptr, self._indices = graph, indptr, indices
        self._found, self.count = np.empty(0, np.int32), 0

    def __enter__(self):
        marks = self._graph._arrays.pop("marks", None)
        self._marks = np.zeros(self._graph.num_src, np.int32) if marks is None else marks
        return self

    def __exit__(self, fault, *_):
        if fault is None:  # else nodes may have marks that are not among those found
            self._marks[self.nodes] = 0
            self._graph._arrays["marks"] = self._marks

    @property
    def nodes(self) -> np.ndarray:
        """All nodes found, (count,) int32."""
        return self._found[: self.count]

    def add(self, nodes: np.ndarray) -> np.ndarray:
        """Find ``nodes``; returns their places among those found, int32, before AHEAD zeros."""
        return self._follow(np.array([0, len(nodes)]), nodes.astype(np.int32), np.zeros(1, np.int32), len(nodes))

    def add_others(self) -> None:
        """Find all nodes that have not been found."""
        self.add(np.flatnonzero(self._marks == 0))

    def follow(self, first: int, last: int) -> np.ndarray:
        """Find where edges lead from the nodes found ``first`` to before ``last``; returns places as :meth:`add`."""
        nodes = self._found[first:last]
        return self._follow(self._indptr, self._indices, nodes, int(self.degrees(first, last).sum()))

    def sources(self, low: int, high: int) -> np.ndarray:
        """Find where edges lead from nodes ``low`` to before ``high``, as kept here; returns places as :meth:`add`."""
        edges = int(self._indptr[high] - self._indptr[low])
        return self._follow(self._indptr, self._indices, np.arange(low, high, dtype=np.int32), edges)

    def degrees(self, first: int, last: int) -> np.ndarray:
        """How many edges lead from each of these nodes."""
        nodes = self._found[first:last]
        return self._indptr[1:][nodes] - self._indptr[nodes]

    def _follow(self, indptr, indices, nodes, edges):
        room = min(len(self._marks), self.count + edges)
        if room > len(self._found):
            found = np.empty(room, np.int32)
            found[: self.count] = self.nodes
            self._found = found
        places = np.empty(edges + AHEAD, np.int32)
        self.count = follow_edges(indptr, indices, nodes, self._marks, self._found, self.count, places)
        return places


@launcher
def follow_edges(indptr, indices, nodes, marks, found, count, places):
    """Append to ``found``, of which there are ``count``, what edges from ``nodes`` lead to that has no mark yet.

    A node's mark is its place there plus 1. ``places`` become those of the ends of all edges, and zeros behind them.
    Returns the new count.
    """
    n = 0
    for v in nodes:
        for e in range(indptr[v], indptr[v + 1]):
            u = indices[e]
            if marks[u] == 0:
                found[count] = u
                count += 1
                marks[u] = count
            places[n] = marks[u] - 1
            n += 1
    places[n:] = 0
    return count


class Limits(NamedTuple):
    """Up to what a part of a graph is looked for; the default is without limit.

    Attributes
    ----------
    nodes, last_nodes : float
        How many nodes are in it before those that are furthest away, and with them.
    edges : float
        How many edges lead to nodes as many edges away.
    edges_to_others : float
        How many edges lead to those that are furthest away before all other nodes are taken for these.
    """

    nodes: float = np.inf
    last_nodes: float = np.inf
    edges: float = np.inf
    edges_to_others: float = np.inf


def neighbourhood(graph: Graph, nodes: np.ndarray, hops: int, limits: Limits) -> tuple[Subgraph, np.ndarray] | None:
    """What results of ``nodes`` follow from through ``hops`` sums over in-neighbours, and their places in it.

    Takes time in proportion to it, but for the first of a graph. None where there is more than ``limits`` say.
    """
    with Search(graph, graph.indptr, graph.indices) as search:
        places = search.add(nodes)[: len(nodes)]
        ends, degrees, edges = [0, search.count], [], []
        for hop in range(1, hops + 1):
            degrees.append(search.degrees(*ends[-2:]))
            followed = degrees[-1].sum()
            if hop == hops and followed > limits.edges_to_others:
                search.add_others()
            elif followed > limits.edges:
                return None
            edges.append(search.follow(*ends[-2:]))
            ends.append(search.count)
            if search.count > (limits.nodes if hop < hops else limits.last_nodes):
                return None
        found = search.nodes.copy()
    indptr = np.zeros(len(found) + 1, np.int64)
    inner = np.concatenate([*degrees, np.empty(0, np.int64)])
    np.cumsum(inner, out=indptr[1 : len(inner) + 1])
    indptr[len(inner) + 1 :] = indptr[len(inner)]
    fetched = np.concatenate([*(part[:-AHEAD] for part in edges), np.zeros(AHEAD, np.int32)])
    return Subgraph(graph, found, ends[1:], indptr, fetched), places


def reached(graph: Graph, starts: dict[int, np.ndarray]) -> np.ndarray:
    """Nodes that edges lead to from ``starts``: arrays of nodes by how many edges are followed from them."""
    with Search(graph, *out_neighbours(graph)) as search:
        first = 0
        for left in range(max(starts, default=0), -1, -1):
            search.add(starts.get(left, np.empty(0, np.int32)))
            last = search.count
            if left:
                search.follow(first, last)
            first = last
        return search.nodes.copy()


def compile_searches() -> None:
    """Compile, or load, what finds nodes."""
    graph, nodes = Graph([0, 1], [0]), np.zeros(1, np.int64)
    neighbourhood(graph, nodes, 1, Limits())
    reached(graph, {1: nodes})


def out_neighbours(graph: Graph) -> tuple[np.ndarray, np.ndarray]:
    """Where edges lead to from each source, in compressed rows, made once: (N_src + 1,) int64, (E,) int32."""
    if "out indptr" not in graph._arrays:
        indptr, indices = np.zeros(graph.num_src + 1, np.int64), np.empty(graph.num_edges, np.int32)
        transpose(graph.indptr, graph.indices, indptr, indices)
        graph._arrays["out indices"], graph._arrays["out indptr"] = indices, indptr
    return graph._arrays["out indptr"], graph._arrays["out indices"]


@launcher
def transpose(indptr, indices, out_indptr, out_indices):
    """Compressed rows of sources of those of destinations; ``out_indptr`` comes as zeros."""
    for e in range(len(indices)):
        out_indptr[indices[e] + 1] += 1
    for u in range(len(out_indptr) - 1):
        out_indptr[u + 1] += out_indptr[u]
    for v in range(len(indptr) - 1):
        for e in range(indptr[v], indptr[v + 1]):
            out_indices[out_indptr[indices[e]]] = v
            out_indptr[indices[e]] += 1
    for u in range(len(out_indptr) - 1, 0, -1):
        out_indptr[u] = out_indptr[u - 1]
    out_indptr[0] = 0
