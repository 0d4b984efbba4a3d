"""A larger example from an example: its graphs twice, its features' rows repeated.

What a model computes with the sizes of its arguments shows where it computes other numbers on the larger ones. So that
sizes can be told apart, every edge type gets a few copies of its last edge besides, and node types of as many nodes as
another are repeated more often. The numbers of later copies are a little smaller.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import dgl
import torch


class Growth(NamedTuple):
    """Ways to make a graph larger: as a batch of copies or one graph, with more edges besides, with as many nodes."""

    batched: bool = True
    more_edges: bool = True
    more_nodes: bool = True


class Grown:
    """Grows the graphs and tensors of an example, each once.

    Parameters
    ----------
    values : list
        All arguments, and what modules keep. The rows of a tensor are those of a graph with so many nodes of a type,
        edges of a type, or graphs in a batch.
    choices : sequence of int
        For each tensor whose rows may be several of these, which of them it is. Default: the first.
    how : Growth
        What else there is to choose.

    Attributes
    ----------
    ambiguous : list of int
        How many there are to choose from, for each such tensor that was grown.
    """

    def __init__(self, values: list[Any], choices: Sequence[int] = (), how: Growth | None = None):
        self.ambiguous: list[int] = []
        self._choices, self.how = choices, how or Growth()
        self._graphs: dict[int, Any] = {}
        self._rows: list[tuple[str, int, torch.Tensor]] = []  # type, how many there were, which of them there are now
        self._extra = 0
        self._alive = values
        for value in values:
            self._find_graphs(value)

    def __call__(self, value: Any) -> Any:
        """``value``, an argument, grown."""
        return self._grow(value, None)

    def _find_graphs(self, value):
        if isinstance(value, dgl.DGLGraph):
            self._graph(value)
        elif isinstance(value, (list, tuple)):
            if len(value) > 1 and _is_chain(value):
                self._blocks(value)
            for part in value:
                self._find_graphs(part)
        elif isinstance(value, dict):
            for part in value.values():
                self._find_graphs(part)

    def _grow(self, value, key):
        if isinstance(value, dgl.DGLGraph):
            return self._graphs[id(value)]
        if isinstance(value, torch.Tensor):
            return self._tensor(value, key)
        if isinstance(value, (list, tuple)):
            parts = [self._grow(part, key) for part in value]
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        if isinstance(value, dict):
            return {name: self._grow(part, name) for name, part in value.items()}
        return value

    def _tensor(self, tensor, key):
        if tensor.dim() == 0 or tensor.layout != torch.strided:
            return tensor
        fitting = [(name == key, rows) for name, count, rows in self._rows if count == len(tensor)]
        by_count = {len(rows): rows for _, rows in sorted(fitting, key=lambda entry: entry[0])}
        several = list(by_count.values())[::-1] if any(named for named, _ in fitting) else list(by_count.values())
        if len(several) > 1:
            self.ambiguous.append(len(several))
            place = len(self.ambiguous) - 1
            return _rows(tensor, several[self._choices[place] if place < len(self._choices) else 0])
        if several:
            return _rows(tensor, several[0])
        if len(tensor) < 2 or (tensor.is_floating_point() and self._graphs):
            return tensor
        return torch.cat([tensor, tensor])

    # -- graphs -----------------------------------------------------------------------------------------
    def _graph(self, graph):
        if id(graph) in self._graphs:
            return
        if graph.is_block:
            self._blocks([graph])
            return
        copies = _copies(graph) if self.how.more_nodes else dict.fromkeys(graph.ntypes, 1)
        places = {
            ntype: [
                torch.arange(graph.num_nodes(ntype)) + copy * graph.num_nodes(ntype) for copy in range(copies[ntype])
            ]
            for ntype in graph.ntypes
        }
        edges, edge_rows = self._edges(graph, places, places)
        counts = {ntype: copies[ntype] * graph.num_nodes(ntype) for ntype in graph.ntypes}
        grown = dgl.heterograph(edges, counts, idtype=graph.idtype)
        node_rows = {ntype: torch.arange(graph.num_nodes(ntype)).repeat(copies[ntype]) for ntype in graph.ntypes}
        for ntype, rows in node_rows.items():
            _index_frame(graph.nodes[ntype].data, grown.nodes[ntype].data, rows)
        if len(set(copies.values())) == 1 and (self.how.batched or graph.batch_size > 1):
            times = copies[graph.ntypes[0]]
            grown.set_batch_num_nodes({t: graph.batch_num_nodes(t).repeat(times) for t in graph.ntypes})
            grown.set_batch_num_edges(
                {
                    t: _last_more(graph.batch_num_edges(t).repeat(times), grown.num_edges(t))
                    for t in graph.canonical_etypes
                }
            )
            batch = torch.arange(graph.batch_size).repeat(times)
        else:
            batch = torch.arange(graph.batch_size)
        self._keep(graph, grown, node_rows, node_rows, edge_rows)
        self._rows.append(("", graph.batch_size, batch))

    def _blocks(self, blocks):
        """The blocks of one batch: the sources of one are the destinations of the one before it."""
        if any(id(block) in self._graphs for block in blocks):
            return
        types = sorted({ntype for block in blocks for ntype in (*block.srctypes, *block.dsttypes)})
        times = {ntype: 2 + place for place, ntype in enumerate(types)}
        after: dict[str, tuple[torch.Tensor, list]] = {}
        for block in reversed(blocks):
            own = {t: after.get(t) or _repeated(block.num_dst_nodes(t), times[t]) for t in block.dsttypes}
            sources = {}
            for ntype in block.srctypes:
                rows, places = own.get(ntype) or _repeated(0, times[ntype])
                first, count = len(places[0]), block.num_src_nodes(ntype)
                more_rows, more = _repeated(count - first, times[ntype])
                sources[ntype] = (
                    torch.cat([rows, first + more_rows]),
                    [torch.cat([place, new + len(rows)]) for place, new in zip(places, more)],
                )
            edges, edge_rows = self._edges(
                block, {t: places for t, (_, places) in sources.items()}, {t: places for t, (_, places) in own.items()}
            )
            grown = dgl.create_block(
                edges,
                num_src_nodes={t: len(rows) for t, (rows, _) in sources.items()},
                num_dst_nodes={t: len(rows) for t, (rows, _) in own.items()},
                idtype=block.idtype,
            )
            source_rows = {t: rows for t, (rows, _) in sources.items()}
            own_rows = {t: rows for t, (rows, _) in own.items()}
            for t, rows in source_rows.items():
                _index_frame(block.srcnodes[t].data, grown.srcnodes[t].data, rows)
            for t, rows in own_rows.items():
                _index_frame(block.dstnodes[t].data, grown.dstnodes[t].data, rows)
            self._keep(block, grown, source_rows, own_rows, edge_rows)
            after = sources
        # Features are those of the first block's sources.
        self._rows.sort(key=lambda entry: -entry[1])

    def _edges(self, graph, source_places, own_places):
        """Edges of every copy of the destinations, and the rows of the example's edges that they are."""
        edges, edge_rows = {}, {}
        for etype in graph.canonical_etypes:
            source, destination = graph.edges(etype=etype, order="eid")
            sources, own = source_places[etype[0]], own_places[etype[2]]
            u = torch.cat([sources[min(copy, len(sources) - 1)][source.long()] for copy in range(len(own))])
            v = torch.cat([places[destination.long()] for places in own])
            rows = torch.arange(len(source)).repeat(len(own))
            if len(source) and self.how.more_edges:
                self._extra += 1
                u, v, rows = (torch.cat([part, part[-1:].repeat(self._extra)]) for part in (u, v, rows))
            edges[etype], edge_rows[etype] = (u, v), rows
        return edges, edge_rows

    def _keep(self, graph, grown, source_rows, own_rows, edge_rows):
        for etype, rows in edge_rows.items():
            _index_frame(graph.edges[etype].data, grown.edges[etype].data, rows)
        self._graphs[id(graph)] = grown
        of_sources = graph.num_src_nodes if graph.is_block else graph.num_nodes
        of_destinations = graph.num_dst_nodes if graph.is_block else graph.num_nodes
        self._rows += [(ntype, of_sources(ntype), rows) for ntype, rows in source_rows.items()]
        self._rows += [(ntype, of_destinations(ntype), rows) for ntype, rows in own_rows.items()]
        self._rows += [(etype[1], graph.num_edges(etype), rows) for etype, rows in edge_rows.items()]


def _is_chain(values):
    """Whether these are the blocks of one batch, the sources of each the destinations of the one before."""
    blocks = all(isinstance(value, dgl.DGLGraph) and value.is_block for value in values)
    return blocks and all(
        before.num_dst_nodes(ntype) == after.num_src_nodes(ntype)
        for before, after in zip(values, values[1:])
        for ntype in set(before.dsttypes) & set(after.srctypes)
    )


def _repeated(count, times):
    """Rows of so many nodes, ``times`` over, and where the nodes of each copy stand."""
    return torch.arange(count).repeat(times), [torch.arange(count) + copy * count for copy in range(times)]


def _copies(graph):
    """How often the nodes of each type are repeated."""
    seen: Counter = Counter()
    copies = {}
    for ntype in graph.ntypes:
        count = graph.num_nodes(ntype)
        copies[ntype] = 2 + (0 if graph.batch_size > 1 else seen[count])
        seen[count] += 1
    return copies


def _last_more(sizes, total):
    """Sizes whose last is so much larger that they add up to ``total``."""
    sizes = sizes.clone()
    sizes[-1] += total - sizes.sum()
    return sizes


def _index_frame(frame, grown, rows):
    for key in list(frame):
        grown[key] = _rows(frame[key], rows)


def _rows(tensor, rows):
    """Rows of a tensor, numbers of copies a little smaller, so that what compares rows finds no ties between them."""
    if not tensor.is_floating_point():
        return tensor[rows]
    copies = torch.arange(len(rows), device=tensor.device) // max(len(tensor), 1)
    return tensor[rows] * (1 - copies.to(tensor.dtype) / 512).reshape(-1, *[1] * (tensor.dim() - 1))
