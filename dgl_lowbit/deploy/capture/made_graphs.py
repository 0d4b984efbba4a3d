"""Graphs that a forward makes itself: of tensors, or as parts of graphs that are known."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import dgl
import dgl.transforms
from dgl import DGLGraph, heterograph_index
from dgl.heterograph_index import HeteroGraphIndex


def places(captures: list) -> Iterator[tuple[Any, str, Any]]:
    """What makes graphs in DGL, in the end: owner, name, and what wraps the function."""
    yield heterograph_index, "create_unitgraph_from_coo", functools.partial(_of_tensors, captures)
    yield heterograph_index, "create_heterograph_from_relations", functools.partial(_of_relations, captures)
    yield HeteroGraphIndex, "reverse", functools.partial(_reverse, captures)
    for module in (dgl, dgl.transforms, dgl.transforms.functional):
        yield module, "metapath_reachable_graph", functools.partial(_reachable, captures)
    for name in ("edge_subgraph", "node_subgraph"):
        yield HeteroGraphIndex, name, functools.partial(_subgraph, captures, name)


def _reachable(captures, original):
    """The graph of what a path of edge types leads to."""

    def reachable(graph, metapath):
        capture = captures[-1]
        if capture.depth or not capture.knows(graph):
            return original(graph, metapath)
        relations = [graph[etype] for etype in metapath]
        return capture.call("reachable", lambda: original(graph, metapath), tuple(relations), {})

    return reachable


def _known(captures, index):
    """The capture that knows the graph of one edge type that has ``index`` inside; None without one."""
    capture = captures[-1]
    return capture if not capture.depth and capture.knows_index(index) and index.number_of_etypes() == 1 else None


def _graph(index):
    """A graph that has ``index`` inside."""
    if index.number_of_ntypes() == 1:
        return DGLGraph(index, ["_N"], ["_E"])
    return DGLGraph(index, ["_U", "_V"], ["_E"])


def _of_tensors(captures, original):
    def create(num_ntypes, num_src, num_dst, row, col, *args, **kwargs):
        index, capture = original(num_ntypes, num_src, num_dst, row, col, *args, **kwargs), captures[-1]
        if not capture.depth:
            capture.call("make_graph", lambda: _graph(index), (row, col, int(num_src), int(num_dst)), {})
        return index

    return create


def _of_relations(captures, original):
    def create(metagraph, relations, *args, **kwargs):
        index = original(metagraph, relations, *args, **kwargs)
        capture = _known(captures, relations[0]) if len(relations) == 1 else None
        if capture is not None:
            capture.also(_graph(relations[0]), _graph(index))
        return index

    return create


def _reverse(captures, original):
    def reverse(index):
        made, capture = original(index), _known(captures, index)
        if capture is not None:
            capture.call("reverse_graph", lambda: _graph(made), (capture.index(index),), {})
        return made

    return reverse


def _subgraph(captures, name, original):
    """A subgraph of some nodes, or of some edges; then all nodes are kept, or those at their ends."""

    def subgraph(index, chosen, *keeps):
        made, capture = original(index, chosen, *keeps), _known(captures, index)
        if capture is None:
            return made
        one, chosen_of = made.graph, (capture.index(index), *chosen, *keeps)
        _, nodes, edges = capture.call(
            name, lambda: (_graph(one), made.induced_nodes, made.induced_edges), chosen_of, {}
        )
        return SimpleNamespace(graph=one, induced_nodes=nodes, induced_edges=edges)

    return subgraph
