"""Degrees of graphs, and what layers make of them, kept while DGL's graphs live."""

from __future__ import annotations

import dgl
import torch

from .graphs import GraphCache

_kept = GraphCache()
# Columns of nodes with their degrees, as blocks have them of the graph that they are sampled from.
_COLUMNS = {"in": "degree_in", "out": "degree_out"}


def with_degrees(graph: dgl.DGLGraph) -> dgl.DGLGraph:
    """``graph``, whose blocks know the degrees that their nodes have in it; the frames of the argument stay."""
    graph = graph.local_var()
    graph.ndata[_COLUMNS["in"]], graph.ndata[_COLUMNS["out"]] = graph.in_degrees(), graph.out_degrees()
    return graph


def most_messages(graph: dgl.DGLGraph) -> int:
    """The largest in-degree, 0 where there is no node."""
    return int(_ends(graph)[1])


def leaves_out_nodes(graph: dgl.DGLGraph) -> bool:
    """Whether a node receives no message."""
    return bool(_ends(graph)[0] == 0)


def power_of_degrees(like: torch.Tensor, graph: dgl.DGLGraph, side: str, power: float, plus: int = 0) -> torch.Tensor:
    """(degree + plus)^power of each node, degrees of 0 counting as 1, in the dtype of ``like``; not to be written to.

    Nodes of a block sampled from :func:`with_degrees` have the degrees of that graph.

    Parameters
    ----------
    like : torch.Tensor
    graph : DGLGraph
    side : str
        "in" or "out".
    power : float
        −1, −½ or ½.
    plus : int
        Default: 0.
    """

    def made():
        nodes = graph.srcdata if side == "out" else graph.dstdata
        degrees = nodes.get(_COLUMNS[side]) if graph.is_block else None
        if degrees is None:
            degrees = graph.out_degrees() if side == "out" else graph.in_degrees()
        degrees = (degrees.to(like) + plus).clamp_(min=1)
        if power == -1:
            return degrees.reciprocal_()
        return degrees.sqrt_() if power == 0.5 else degrees.sqrt_().reciprocal_()

    return _of(graph, (side, power, plus, like.dtype, like.device), made)


def _ends(graph):
    """Smallest and largest in-degree; of no node as if it were 1 and 0."""

    def made():
        degrees = graph.in_degrees()
        return torch.stack(degrees.aminmax()).cpu() if len(degrees) else torch.tensor([1, 0])

    return _of(graph, "ends", made)


def _of(graph, name, make):
    known = _kept.get(graph, _nothing_yet)
    if name not in known:
        with torch.inference_mode(False):  # gradients cannot be made of what was made in it
            known[name] = make()
    return known[name]


def _nothing_yet(graph):
    return {}
