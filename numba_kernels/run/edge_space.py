"""Array functions on edges, block by block: what is computed of a row an edge stays in the cache.

A *group* is a row of calls that begin by taking rows of nodes to the edges of one graph and go on row by row, up to
sums over the edges of a node. It runs on the edges of some destinations at a time, in the order of the graph's
compressed rows, so that arrays of a row an edge are never whole unless something else reads them. Threads share the
blocks, whose results do not depend on each other.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..arrays import FUNCTIONS
from ..arrays.rows import RULES, is_by_rows
from ..graph import Graph
from ..once import once
from ..plan.ops.call import data_of

BLOCK_EDGES = 8192
TAKES = ("take_source", "take_destination", "edge_dot")


class NotByRowsError(Exception):
    """A call that turns out to need more than its own row; the group then runs call by call."""


class EdgeBlock:
    """The edges of destinations ``first`` to below ``last`` of a graph, as array functions read a graph."""

    edge_ids = None  # its edges are in the order of its rows

    def __init__(self, graph: Graph, first: int, last: int):
        self.graph, self.first, self.last = graph, first, last
        self.num_src, self.num_dst, self.batch_size = graph.num_src, graph.num_dst, graph.batch_size
        self.start, stop = int(graph.indptr[first]), int(graph.indptr[last])
        self.num_edges, self.indptr = stop - self.start, graph.indptr[first : last + 1] - self.start
        self.places = slice(self.start, stop) if graph.edge_ids is None else graph.edge_ids[self.start : stop]

    @once
    def targets(self) -> np.ndarray:
        """The row, of those of this block, that each edge is reduced into."""
        return np.repeat(np.arange(self.last - self.first), np.diff(self.indptr))

    @once
    def edges(self) -> tuple:
        """Source and destination of each edge."""
        indices = self.graph.indices[self.start : self.start + self.num_edges]
        return indices.astype(np.int64), self.targets + self.first


def blocks_of(graph: Graph) -> list[EdgeBlock]:
    """All edges of a graph, destination by destination, about as many at a time."""
    goals = np.arange(BLOCK_EDGES, graph.num_edges, BLOCK_EDGES)
    bounds = np.unique([0, *np.searchsorted(graph.indptr, goals), graph.num_dst])
    return [EdgeBlock(graph, int(first), int(last)) for first, last in zip(bounds[:-1], bounds[1:])]


class EdgeGroup:
    """Calls that run together on the edges of one graph.

    Parameters
    ----------
    graph : int
        The graph's value in the plan.
    """

    def __init__(self, graph):
        self.graph, self.ops = graph, []
        self.by_edge, self.by_node = set(), set()  # what it makes

    def takes(self, op) -> bool:
        """Whether a call can be part of the group, after those that are."""
        if op.name != "call" or isinstance(op.spec["out"], tuple):
            return False
        function, read = op.spec["function"], set(data_of(op.spec))
        if read & self.by_node:
            return False
        if function in RULES:
            return bool(read & self.by_edge)
        if _taking(op)[1] != self.graph:
            return False
        words = [part for part in (*op.spec["args"], *op.spec["kwargs"].values()) if isinstance(part, str)]
        if function in TAKES:
            return "e" not in words and not read & self.by_edge
        return function in ("reduce_edges", "edge_softmax") and "src" not in words and bool(read & self.by_edge)

    def add(self, op) -> None:
        """Make a call part of the group."""
        self.ops.append(op)
        (self.by_node if op.spec["function"] == "reduce_edges" else self.by_edge).add(op.writes[0])

    def run(self, readers: list, needed: set, threads: int) -> dict:
        """Results of the group that are ``needed``, by value; ``readers`` reads for each of its calls.

        Raises
        ------
        NotByRowsError
            When calls need more than their own rows.
        """
        graph = readers[0].graphs[self.graph]
        if not isinstance(graph, Graph) or graph.num_edges == 0:
            raise NotByRowsError
        first, *others = blocks_of(graph)
        chunks, results = self._of_block(first, readers, is_checked=True), {}
        for value in needed:
            rows = graph.num_edges if value in self.by_edge else graph.num_dst
            results[value] = np.empty((rows, *chunks[value].shape[1:]), chunks[value].dtype)

        def store(block, chunks):
            for value, whole in results.items():
                whole[block.places if value in self.by_edge else slice(block.first, block.last)] = chunks[value]

        store(first, chunks)
        if threads > 1 and len(others) > 1:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(lambda block: store(block, self._of_block(block, readers)), others))
        else:
            for block in others:
                store(block, self._of_block(block, readers))
        return results

    def _of_block(self, block, readers, is_checked=False):
        """All results on the edges of a block; whether rows are enough is checked of one block, as all are alike."""
        chunks = {}
        for op, reader in zip(self.ops, readers):
            function = FUNCTIONS[op.spec["function"]]
            args, kwargs = op.operation.arguments(op.spec, _BlockReader(reader, self.graph, block, chunks))
            if function.name in RULES:
                rows = [chunks[value] for value in data_of(op.spec) if value in self.by_edge]
                args, rows = _in_block(args, rows, block)
                if is_checked and not is_by_rows(function.name, args, kwargs, rows):
                    raise NotByRowsError
            (chunk,) = function.within(reader.room, args, kwargs)
            if op.writes[0] in self.by_edge and (chunk.ndim == 0 or len(chunk) != block.num_edges):
                raise NotByRowsError
            chunks[op.writes[0]] = chunk
        return chunks


def _in_block(tree, rows, block):
    """Arguments with the rows of this block of arrays that have a row an edge, and all that have."""
    if isinstance(tree, list):
        parts = []
        for part in tree:
            part, rows = _in_block(part, rows, block)
            parts.append(part)
        return parts, rows
    known = not isinstance(tree, np.ndarray) or any(tree is row for row in rows)
    if known or tree.ndim != rows[0].ndim or len(tree) != block.graph.num_edges:
        return tree, rows
    chunk = tree[block.places]
    return chunk, [*rows, chunk]


class _BlockReader:
    """What calls of a group read on one block."""

    def __init__(self, reader, graph, block, chunks):
        self._reader, self._chunks, self.constant = reader, chunks, reader.constant
        self.graphs = {**reader.graphs, graph: block}

    def array(self, value) -> np.ndarray:
        return self._chunks[value] if value in self._chunks else self._reader.array(value)

    def shape(self, value) -> tuple:
        return self._chunks[value].shape if value in self._chunks else self._reader.shape(value)


def grouped(ops: list) -> list:
    """Calls in an order that they can run in, those of one group as an EdgeGroup, others by themselves."""
    group = next((EdgeGroup(graph) for op, graph in map(_taking, ops) if EdgeGroup(graph).takes(op)), None)
    if group is None:
        return list(ops)
    before: list = []
    after: list = []
    made_after: set = set()
    for op in ops:
        if made_after.isdisjoint(op.reads) and group.takes(op):
            group.add(op)
        elif (made_after | group.by_edge | group.by_node).isdisjoint(op.reads):
            before.append(op)
        else:
            after.append(op)
            made_after.update(op.writes)
    return [*grouped(before), group, *grouped(after)]


def _taking(op):
    """A call, and what it is called with first, where that is a value of the plan."""
    args = op.spec.get("args") or [op.spec.get("kwargs", {}).get("graph")]
    return op, args[0].get("value") if isinstance(args[0], dict) else None
