"""Small random graphs and features."""

from __future__ import annotations

import zlib

import dgl
import numpy as np
import torch

ENDS = (("user", "follows", "user"), ("user", "clicks", "item"), ("item", "clicked-by", "user"))


class Draw:
    """Draws graphs of about ``nodes`` nodes, and what lies on them.

    Each drawing depends on the seed and its own arguments alone, not on what was drawn before.
    """

    def __init__(self, seed: int, nodes: int):
        self.seed, self.nodes = seed, nodes

    def _random(self, *key):
        return np.random.default_rng([self.seed, zlib.crc32(repr(key).encode())])

    def rows(self, *shape: int) -> torch.Tensor:
        """Normal float32."""
        return torch.from_numpy(self._random("rows", shape).standard_normal(shape, dtype=np.float32))

    def positive(self, *shape: int) -> torch.Tensor:
        """Uniform float32 in [0.1, 1)."""
        return torch.from_numpy(self._random("positive", shape).uniform(0.1, 1, shape).astype(np.float32))

    def integers(self, high: int, *shape: int) -> torch.Tensor:
        return torch.from_numpy(self._random("integers", high, shape).integers(high, size=shape))

    def feat(self, *columns: int) -> torch.Tensor:
        """A row a node."""
        return self.rows(self.nodes, *columns)

    def graph(self, nodes: int | None = None, degree: int = 4, loops: bool = True, key: str = "") -> dgl.DGLGraph:
        """Distinct edges in no order, about ``degree`` a node, and a loop at each node."""
        nodes = self.nodes if nodes is None else nodes
        edges = self._random("graph", nodes, degree, loops, key).choice(nodes * nodes, nodes * degree, replace=False)
        source, destination = edges // nodes, edges % nodes
        source, destination = source[source != destination], destination[source != destination]
        ends = np.arange(nodes if loops else 0)
        return dgl.graph((np.append(source, ends), np.append(destination, ends)), num_nodes=nodes)

    def undirected(self, nodes: int | None = None, degree: int = 3) -> dgl.DGLGraph:
        """Both directions of every edge, no loops."""
        return dgl.to_bidirected(self.graph(nodes, degree, loops=False))

    def batch(self, graphs: int | None = None, nodes: int | None = None, **columns) -> dgl.DGLGraph:
        """Graphs of different sizes, or of ``nodes`` nodes each; ``columns`` are widths of node features."""
        count = self.nodes // 12 if graphs is None else graphs
        sizes = [nodes or int(n) for n in self._random("batch", count).integers(9, 16, count)]
        batch = dgl.batch([self.graph(n, 3, key=str(i)) for i, n in enumerate(sizes)])
        for name, width in columns.items():
            batch.ndata[name] = self.rows(batch.num_nodes(), width)
        return batch

    def blocks(self, layers: int, graph: dgl.DGLGraph | None = None) -> list:
        """Whole neighbourhoods of some nodes, as samplers hand them over."""
        graph = self.graph(4 * self.nodes, 2, key="blocks") if graph is None else graph
        seeds, blocks = {t: torch.arange(max(graph.num_nodes(t) // 12, 3)) for t in graph.ntypes}, []
        for _ in range(layers):
            frontier = dgl.in_subgraph(graph, seeds)
            block = dgl.to_block(frontier, seeds)
            for etype in block.canonical_etypes:
                for name, column in frontier.edges[etype].data.items():
                    if name != dgl.EID:
                        block.edges[etype].data[name] = column[block.edges[etype].data[dgl.EID]]
            seeds = {t: block.srcnodes[t].data[dgl.NID] for t in graph.ntypes}
            blocks.insert(0, block)
        return blocks

    def sampled(self, layers: int, columns: int) -> tuple:
        """Blocks and the features of the first one's sources."""
        blocks = self.blocks(layers)
        return blocks, self.rows(blocks[0].num_src_nodes(), columns)

    def relations(self, types: int, nodes: int | None = None, **options) -> dgl.DGLGraph:
        """A homogeneous graph whose edges have a type and a norm."""
        graph = self.graph(nodes, **options)
        graph.edata[dgl.ETYPE] = self.integers(types, graph.num_edges())
        graph.edata["norm"] = self.positive(graph.num_edges(), 1)
        return graph

    def hetero(self, ends=ENDS, **columns) -> dgl.DGLGraph:
        """By default, users who follow users and click items; ``columns`` are widths of node features.

        ``ends`` are canonical edge types; a type and one that leads back have different edges.
        """
        types = dict.fromkeys(end for source, _, destination in ends for end in (source, destination))
        sizes = {ntype: self.nodes + 11 * i for i, ntype in enumerate(types)}
        edges = {}
        for source, relation, destination in ends:
            count = 3 * sizes[destination]
            pairs = self._random(relation).choice(sizes[source] * sizes[destination], count, replace=False)
            targets = np.append(pairs % sizes[destination], np.arange(sizes[destination]))
            sources = np.append(pairs // sizes[destination], np.arange(sizes[destination]) % sizes[source])
            edges[source, relation, destination] = (sources, targets)
        graph = dgl.heterograph(edges, sizes)
        for name, width in columns.items():
            for ntype in graph.ntypes:
                graph.nodes[ntype].data[name] = self.rows(sizes[ntype], width)
        return graph

    def by_type(self, graph: dgl.DGLGraph, columns: int) -> dict:
        """A row for each source node, by type."""
        return {t: self.rows(graph.num_src_nodes(t), columns) for t in graph.srctypes}
