"""Degrees of graphs, and what layers make of them, kept while DGL's graphs live."""

from __future__ import annotations

import dgl
import torch

from .cache import GraphCache

_kept = GraphCache()
# Columns of nodes with their degrees, as blocks have them of the graph that they are sampled from.
_COLUMNS = {"in": "_lowbit_degree_in", "out": "_lowbit_degree_out"}


def with_degrees(graph: dgl.DGLGraph) -> dgl.DGLGraph:
    """``graph``, whose blocks know the degrees that their nodes have in it; the frames of the argument stay.

    On blocks that are sampled from it, a low-bit ``GraphConv(norm="both")`` sums in the mean over uniform draws to what
    it sums to on the graph: degrees are the graph's, and the sum over the k neighbours that were drawn of d is taken
    d/k times. On other blocks it sums as DGL's does, and what it sends and sums has other magnitudes the fewer are
    drawn; few bits cannot follow that, whose ranges are those of the whole graph. So do all other layers, those left in
    float32, and calls with edge weights, which may be normalised over what was drawn. Edges that a sampler's ``mask``
    never draws count as well: take them out of the graph. ``fit`` and ``train`` do all this themselves.

    Parameters
    ----------
    graph : DGLGraph
        Of one type of nodes and edges.

    Returns
    -------
    DGLGraph

    Raises
    ------
    ValueError
        For another graph.

    Examples
    --------
    >>> import dgl
    >>> graph = with_degrees(dgl.graph(([0, 1, 2], [3, 3, 3])))
    >>> block = dgl.to_block(dgl.sampling.sample_neighbors(graph, [3], 2), [3])
    >>> times_drawn(graph.ndata["_lowbit_degree_in"].float(), block)
    tensor([1.5000])
    """
    is_one = isinstance(graph, dgl.DGLGraph) and (graph.is_block or len(graph.ntypes) == len(graph.etypes) == 1)
    if not is_one:
        got = f"{graph.ntypes} and {graph.etypes}" if isinstance(graph, dgl.DGLGraph) else type(graph).__name__
        raise ValueError(f"with_degrees takes a DGLGraph of one type of nodes and edges, got {got}.")
    if graph.is_block:
        raise ValueError("with_degrees takes the graph that blocks are sampled from, got a block.")
    graph = graph.local_var()
    graph.ndata[_COLUMNS["in"]], graph.ndata[_COLUMNS["out"]] = graph.in_degrees(), graph.out_degrees()
    return graph


def without_degrees(graph: dgl.DGLGraph) -> dgl.DGLGraph:
    """``graph``, or where it is a block that knows degrees of its nodes, one that does not."""
    if _known(graph, "in") is None:
        return graph
    graph = graph.local_var()
    for frame in (graph.srcdata, graph.dstdata):
        for column in _COLUMNS.values():
            frame.pop(column, None)
    return graph


def keep_degrees(block: dgl.DGLGraph, graph) -> None:
    """Let ``block`` know the degrees that its nodes have in ``graph``, a DistGraph, whose blocks have no columns."""
    block.srcdata[_COLUMNS["out"]] = graph.out_degrees(block.srcdata[dgl.NID])
    block.dstdata[_COLUMNS["in"]] = graph.in_degrees(block.dstdata[dgl.NID])


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
        degrees = (degrees_of(graph, side, own).to(like) + plus).clamp_(min=1)
        if power == -1:
            return degrees.reciprocal_()
        return degrees.sqrt_() if power == 0.5 else degrees.sqrt_().reciprocal_()

    return _of(graph, (side, power, plus, own, like.dtype, like.device), made)


def degrees_of(graph: dgl.DGLGraph, side: str, own: bool = False) -> torch.Tensor:
    """Degrees, (N,), ``side`` "in" or "out"; as :func:`power_of_degrees` takes them."""
    known = None if own else _known(graph, side)
    if known is not None:
        return known
    return graph.out_degrees() if side == "out" else graph.in_degrees()


def times_drawn(like: torch.Tensor, graph: dgl.DGLGraph) -> torch.Tensor | None:
    """How many in-neighbours each node has for one that the block has, (N_dst,), in the dtype of ``like``.

    None where the graph is no block of :func:`with_degrees`.
    """
    known = _known(graph, "in")
    if known is None:
        return None

    def made():
        return known.to(like) / graph.in_degrees().to(like).clamp_(min=1)

    return _of(graph, ("drawn", like.dtype, like.device), made)


def _known(graph, side):
    """Degrees in the graph that a block is of, where it knows them."""
    if not graph.is_block:
        return None
    return (graph.srcdata if side == "out" else graph.dstdata).get(_COLUMNS[side])


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
