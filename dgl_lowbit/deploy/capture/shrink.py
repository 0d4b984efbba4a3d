"""A small example from a large one: some nodes, and the edges between them.

What a model computes does not depend on how large its example is; running it several times does.
"""

from __future__ import annotations

from typing import Any

import dgl
import torch

from .grow import Grown
from .recording import leaves

LARGE = 200_000  # edges from which on an example is made smaller
_SEEDS, _NEIGHBOURS = 256, 8


def is_large(values: list[Any]) -> bool:
    """Whether there is a graph with many edges among arguments, and none that is a block or in a batch."""
    graphs = [leaf for leaf in leaves(values) if isinstance(leaf, dgl.DGLGraph)]
    plain = all(not graph.is_block and graph.batch_size == 1 for graph in graphs)
    return plain and any(sum(map(graph.num_edges, graph.canonical_etypes)) > LARGE for graph in graphs)


class Shrunk(Grown):
    """As :class:`.grow.Grown`, but graphs become smaller: some nodes of each type and neighbours of theirs.

    Nodes that lose all their in-edges of a type get one, so that what was no node without in-edges stays none.
    """

    def _graph(self, graph):
        if id(graph) in self._graphs:
            return
        chosen = _chosen(graph)
        small = dgl.node_subgraph(graph, chosen)
        edge_rows = {etype: small.edges[etype].data[dgl.EID].long() for etype in small.canonical_etypes}
        edges, rows = {}, {}
        for etype in small.canonical_etypes:
            source, destination = small.edges(etype=etype, order="eid")
            lonely = (small.in_degrees(etype=etype) == 0) & (graph.in_degrees(chosen[etype[2]], etype=etype) > 0)
            more = lonely.nonzero().flatten().to(source)
            first = more if etype[0] == etype[2] else torch.zeros_like(more)
            edges[etype] = torch.cat([source, first]), torch.cat([destination, more])
            rows[etype] = torch.cat([edge_rows[etype], torch.zeros(len(more), dtype=torch.long)])
        counts = {ntype: len(nodes) for ntype, nodes in chosen.items()}
        made = dgl.heterograph(edges, counts, idtype=graph.idtype)
        for ntype, nodes in chosen.items():
            for key, column in graph.nodes[ntype].data.items():
                made.nodes[ntype].data[key] = column[nodes.long()]
        self._keep(graph, made, chosen, chosen, rows)

    def _tensor(self, tensor, key):
        known = tensor.dim() and any(count == len(tensor) for _, count, _ in self._rows)
        return super()._tensor(tensor, key) if known else tensor


def _chosen(graph):
    """Nodes of each type: some, evenly spread, and some of their in-neighbours."""
    seeds = {ntype: _spread(graph.num_nodes(ntype)).to(graph.idtype) for ntype in graph.ntypes}
    found = {ntype: [nodes] for ntype, nodes in seeds.items()}
    for etype in graph.canonical_etypes:
        sources, _ = graph.in_edges(seeds[etype[2]], etype=etype)
        found[etype[0]].append(sources[_spread(len(sources), _SEEDS * _NEIGHBOURS)])
    return {ntype: torch.cat(parts).unique() for ntype, parts in found.items()}


def _spread(count, most=_SEEDS):
    return torch.arange(0, count, max(1, -(-count // most)))
