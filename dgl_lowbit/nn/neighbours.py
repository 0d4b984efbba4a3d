"""The edges of a graph among nodes of a block, be they sampled or not."""

from __future__ import annotations

from typing import NamedTuple

import dgl
import torch
from dgl import DGLError


class Edges(NamedTuple):
    """Edges of some rows: the place of each among the rows, its other end, and its id in the graph; (E,) int64 each."""

    row: torch.Tensor
    other: torch.Tensor
    id: torch.Tensor

    def where(self, mask: torch.Tensor) -> Edges:
        """Those under a mask."""
        return Edges(*(part[mask] for part in self))


class Neighbours:
    """The edges of a graph of one type of nodes and of edges, by one of their ends.

    Parameters
    ----------
    graph : DGLGraph
    by : {"target", "source"}
    """

    def __init__(self, graph: dgl.DGLGraph, by: str = "target"):
        parts = graph.adj_tensors("csc" if by == "target" else "csr")
        self.indptr, self.indices, self.ids = (part.long() for part in parts)
        self.num_nodes = graph.num_nodes()
        self._places = torch.full((self.num_nodes,), -1, device=graph.device)

    def of(self, rows: torch.Tensor) -> Edges:
        """The edges of ``rows``, ids of nodes; the other end of each is the id of a node."""
        first, counts = self.indptr[rows], self.indptr[rows + 1] - self.indptr[rows]
        row = torch.arange(len(rows), device=rows.device).repeat_interleave(counts)
        places = torch.arange(len(row), device=rows.device) + (first - counts.cumsum(0) + counts)[row]
        return Edges(row, self.indices[places], self.ids[places])

    def split(self, edges: Edges, others: torch.Tensor) -> tuple[Edges, Edges]:
        """Edges whose other end is one of ``others``, as its place among these, and all that are left."""
        self._places[others] = torch.arange(len(others), device=others.device)
        places = self._places[edges.other]
        self._places[others] = -1
        is_inside = places >= 0
        return edges._replace(other=places).where(is_inside), edges.where(~is_inside)

    def sums(self, edges: Edges, count: int, values) -> torch.Tensor:
        """Sums of ``values(nodes)``, a row a node, over the other ends of the edges of each of ``count`` rows."""
        met = torch.zeros(self.num_nodes, dtype=torch.bool, device=edges.other.device)
        met[edges.other] = True
        nodes = met.nonzero().flatten()
        inside, _ = self.split(edges, nodes)
        rows = values(nodes)
        if not len(nodes):
            return rows.new_zeros(count, rows.shape[1])
        block = dgl.create_block((inside.other, inside.row), num_src_nodes=len(nodes), num_dst_nodes=count)
        return dgl.ops.copy_u_sum(block, rows)


def ids_of(block: dgl.DGLGraph, who: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids in the graph of the sources and of the targets of a block, int64.

    Raises
    ------
    DGLError
        When it does not know them; ``who`` asks.
    """
    frames = block.srcdata, block.dstdata
    if any(dgl.NID not in frame for frame in frames):
        raise DGLError(f"{who} needs blocks that know the ids of their nodes, as those of DGL's samplers do.")
    source, target = (frame[dgl.NID].long() for frame in frames)
    return source, target
