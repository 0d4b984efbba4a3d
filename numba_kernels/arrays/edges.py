"""Functions of graphs: rows of nodes taken by edge, reductions of edges by node, readouts.

Edges are in the order of their ids, the caller's. Sums run over the edges of a node in the order of the graph's
compressed rows, in float64.
"""

from __future__ import annotations

import numpy as np

from .indexing import checked_index
from .kinds import ARRAY, GRAPH, choice
from .promotion import floats, refuse_integers
from .registry import function
from .segments import REDUCES, reduce_segments

_REDUCE = choice(*REDUCES)
_ENDS = choice("dst", "src")


def _checked_rows(array, rows: int, what: str) -> np.ndarray:
    if array.ndim == 0 or len(array) != rows:
        raise ValueError(f"expected a row for each of {rows} {what}, got shape {array.shape}")
    return array


def _take(array, index):
    return np.take(array, index, axis=0, mode="clip")  # indices are the graph's, which are checked


def _reduced(graph, values, reduce, end):
    order, starts = (graph.edge_ids, graph.indptr) if end == "dst" else graph.edges_by_source
    return reduce_segments(values, starts, reduce, order)


@function(graph=GRAPH)
def edges(graph):
    return [*graph.edges]


@function(graph=GRAPH, sources=ARRAY, destinations=ARRAY)
def edges_between(graph, sources, destinations):
    """Edges from one choice of nodes to another: ends by their places among those, and ids, in the order of ids."""
    places = []
    for nodes, count, end in zip((sources, destinations), (graph.num_src, graph.num_dst), graph.edges):
        of_node = np.full(count, -1)
        of_node[checked_index(nodes, count).reshape(-1)] = np.arange(nodes.size)
        places.append(of_node[end])
    kept = np.flatnonzero((places[0] >= 0) & (places[1] >= 0))
    return [places[0][kept], places[1][kept], kept]


def _distinct(source, destination, graph):
    """Pairs of a node and a destination of the graph, each once, in the order of the two."""
    count = max(graph.num_dst, 1)
    return [*np.divmod(np.unique(source * count + destination), count)]


@function(graph=GRAPH)
def distinct_edges(graph):
    return _distinct(*graph.edges, graph)


@function(source=ARRAY, destination=ARRAY, graph=GRAPH)
def follow_edges(source, destination, graph):
    """Pairs of a source and of where an edge leads from its destination, each once, in the order of the two."""
    order, starts = graph.edges_by_source
    counts = np.diff(starts)[checked_index(destination, graph.num_src)]
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    reached = graph.edges[1][order[np.repeat(starts[destination], counts) + within]]
    return _distinct(np.repeat(source, counts), reached, graph)


@function(source=ARRAY, destination=ARRAY)
def relabel(source, destination):
    """Ends of edges by the places of their nodes, those nodes as they come first, sources before, and their number."""
    nodes, first, place = np.unique(np.concatenate([source, destination]), return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    ends = rank[place.reshape(-1)]
    return [ends[: len(source)], ends[len(source) :], nodes[order], np.array(len(nodes))]


@function(graph=GRAPH, input=ARRAY)
def take_source(graph, input):
    return _take(_checked_rows(input, graph.num_src, "source nodes"), graph.edges[0])


@function(graph=GRAPH, input=ARRAY)
def take_destination(graph, input):
    return _take(_checked_rows(input, graph.num_dst, "destination nodes"), graph.edges[1])


@function(graph=GRAPH, input=ARRAY, reduce=_REDUCE)
def reduce_edges(graph, input, reduce):
    values = _checked_rows(input, graph.num_edges, "edges")
    return _reduced(graph, refuse_integers("a mean", values) if reduce == "mean" else values, reduce, "dst")


@function(graph=GRAPH, input=ARRAY, norm_by=_ENDS)
def edge_softmax(graph, input, norm_by="dst"):
    scores = refuse_integers("edge_softmax", _checked_rows(input, graph.num_edges, "edges"))
    nodes = graph.targets if norm_by == "dst" else graph.edges[0]
    powers = np.exp(scores - _take(_reduced(graph, scores, "max", norm_by), nodes))
    return powers / _take(_reduced(graph, powers, "sum", norm_by), nodes)


@function(graph=GRAPH, lhs=ARRAY, rhs=ARRAY, lhs_target=choice("u", "v", "e"), rhs_target=choice("u", "v", "e"))
def edge_dot(graph, lhs, rhs, lhs_target="u", rhs_target="v"):
    take = {"u": take_source, "v": take_destination, "e": lambda graph, x: _checked_rows(x, graph.num_edges, "edges")}
    one, two = take[lhs_target](graph, lhs), take[rhs_target](graph, rhs)
    return np.einsum("...d,...d->...", *floats(*np.broadcast_arrays(one, two)))[..., None]


@function(graph=GRAPH)
def in_degrees(graph):
    return graph.in_degrees.astype(np.int64)


@function(graph=GRAPH)
def out_degrees(graph):
    return graph.out_degrees.astype(np.int64)


# -- batches of graphs ------------------------------------------------------------------------------------------------
@function(graph=GRAPH)
def batch_num_nodes(graph):
    return np.diff(graph.batch_starts)


@function(graph=GRAPH)
def batch_num_edges(graph):
    return np.diff(graph.indptr[graph.batch_starts])


@function(seglen=ARRAY, input=ARRAY, reduce=_REDUCE)
def segment_reduce(seglen, input, reduce="sum"):
    lengths = checked_index(seglen, len(input) + 1).reshape(-1)
    _checked_rows(input, int(lengths.sum()), "numbers of all segments")
    if reduce == "mean":
        refuse_integers("a mean", input)
    return reduce_segments(input, np.concatenate([[0], np.cumsum(lengths)]), reduce)


@function(seglen=ARRAY, input=ARRAY)
def segment_softmax(seglen, input):
    largest = np.repeat(segment_reduce(seglen, input, "max"), seglen, axis=0)
    powers = np.exp(refuse_integers("segment_softmax", input) - largest)
    return powers / np.repeat(segment_reduce(seglen, powers, "sum"), seglen, axis=0)


@function(graph=GRAPH, input=ARRAY)
def broadcast_nodes(graph, input):
    return np.repeat(_checked_rows(input, graph.batch_size, "graphs"), batch_num_nodes(graph), axis=0)


@function(graph=GRAPH, input=ARRAY)
def broadcast_edges(graph, input):
    return broadcast_nodes(graph, input)[graph.edges[1]]


@function(input=ARRAY, weight=ARRAY, seglen=ARRAY)
def segment_mm(input, weight, seglen):
    ends = np.cumsum(checked_index(seglen, len(input) + 1).reshape(-1))
    _checked_rows(input, int(ends[-1]) if len(ends) else 0, "numbers of all segments")
    parts = np.split(input, ends[:-1])
    return np.concatenate([np.matmul(part, matrix) for part, matrix in zip(parts, weight)])


@function(input=ARRAY, weight=ARRAY, index=ARRAY)
def gather_mm(input, weight, index):
    result = np.zeros((len(input), weight.shape[-1]), np.float32)
    for number in np.unique(checked_index(_checked_rows(index, len(input), "rows"), len(weight))):
        rows = np.flatnonzero(index == number)
        result[rows] = np.matmul(input[rows], weight[number])
    return result
