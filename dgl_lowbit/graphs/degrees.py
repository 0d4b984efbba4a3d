"""Degrees of graphs, and what layers make of them, kept while DGL's graphs live."""

from __future__ import annotations

import dgl
import torch

from .cache import GraphCache

_kept = GraphCache()
# Columns of nodes with their degrees, as blocks have them of the graph that they are sampled from.
_COLUMNS = {"in": "_lowbit_degree_in", "out": "_lowbit_degree_out"}


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


def isolated(graph: dgl.DGLGraph, side: str) -> torch.Tensor | None:
    """Which nodes have no edge that leaves them, ``side`` "out", or enters them, "in", (N,) bool; None where all do."""

    def made():
        found = (graph.out_degrees() if side == "out" else graph.in_degrees()) == 0
        return found if found.any() else found[:0]

    found = _of(graph, ("isolated", side), made)
    return found if len(found) else None


def power_of_degrees(
    like: torch.Tensor, graph: dgl.DGLGraph, side: str, power: float, plus: int = 0, own: bool = False
) -> torch.Tensor:
    """(degree + plus)^power of each node, degrees of 0 counting as 1, in the dtype of ``like``; not to be written to.

    Nodes of a block sampled from :func:`with_degrees` have the degrees of that graph, unless ``own``.

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
    own : bool
        Whether degrees are those that nodes have in the block. Default: False.
    """

    def made():
        nodes = graph.srcdata if side == "out" else graph.dstdata
        degrees = nodes.get(_COLUMNS[side]) if graph.is_block and not own else None
        if degrees is None:
            degrees = graph.out_degrees() if side == "out" else graph.in_degrees()
        degrees = (degrees.to(like) + plus).clamp_(min=1)
        if power == -1:
            return degrees.reciprocal_()
        return degrees.sqrt_() if power == 0.5 else degrees.sqrt_().reciprocal_()

    return _of(graph, (side, power, plus, own, like.dtype, like.device), made)


def span_of_degrees(like: torch.Tensor, graph: dgl.DGLGraph) -> torch.Tensor:
    """Orthonormal columns that span {1, D^½ 1}, D the in-degrees, (N_dst, 2); (N_dst, 1) where all have one degree."""

    def made():
        roots = power_of_degrees(like, graph, "in", 0.5, own=True).double()
        ones, bent = torch.ones_like(roots), roots - roots.mean()
        columns = [ones] if bent.square().sum() <= 1e-9 * len(roots) else [ones, bent]
        return torch.stack([column / column.norm() for column in columns], 1).to(like)

    return _of(graph, ("span", like.dtype, like.device), made)


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
