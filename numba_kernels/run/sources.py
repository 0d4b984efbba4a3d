"""Sums over neighbours of codes that are too many to stay in memory: part after part of the destinations.

Codes stand in a file. What the destinations of a part read of it is brought together in memory first, in the order of
the file, and kernels read that instead: nothing is read from the file at random.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..subgraph import Search
from .memory import address_of

# Of an edge of a part: its place among the sources, and the number of a source, found and in order.
_EDGE_BYTES = 4 + 4 + 8


def parts(run, number: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows of a stage; while the caller has one, ``run.moved`` says where its sources stand.

    All rows where the states of sources take at most ``run.states.most_memory`` bytes, or stand in memory anyway.
    """
    rows, gathers = run.stage_rows[number], run.assembled.gathers[number]
    widths = widths_gathered(run.assembled, gathers)
    wanted = sum(run.graphs[graph].num_src * width for graph, width in widths.items())
    if run.states is None or wanted <= run.states.most_memory:
        yield 0, rows
        return
    edges = max(run.states.most_memory // sum(width + _EDGE_BYTES for width in widths.values()), 1)
    low = 0
    while low < rows:
        high = min(rows, *(_reached(run.graphs[graph].indptr, low, edges) for graph in gathers))
        run.moved = {}
        for graph, numbers in gathers.items():
            run.moved.update(_moved(run, graph, sorted(numbers), low, high))
        yield low, high
        run.moved = {}
        low = high


def widths_gathered(assembled, gathers: dict) -> dict:
    """Bytes that are read of each source, by graph."""
    return {graph: sum(assembled.buffers[n][1] for n in numbers) for graph, numbers in gathers.items()}


def _reached(indptr, low, edges):
    """The last row until which there are at most as many edges from ``low`` on, but one row in any case."""
    return max(int(np.searchsorted(indptr, indptr[low] + edges, side="right")) - 1, low + 1)


def _moved(run, graph, numbers, low, high):
    """Copies of what rows ``low`` to before ``high`` of a graph read, and addresses as if they were all there."""
    whole = run.graphs[graph]
    with Search(whole, whole.indptr, whole.indices) as search:
        places = search.sources(low, high)
        found = search.nodes.copy()
    order = np.argsort(found)
    moved = {graph: (places, address_of(places) - places.itemsize * int(whole.indptr[low]))}
    for number in numbers:
        size, row_bytes = run.assembled.buffers[number]
        states = run.arena.bytes_at(run.buffers[number], run.rows(size), row_bytes)
        copy = np.empty((len(found), row_bytes), np.uint8)
        copy[order] = states[found[order]]
        moved[graph, number] = copy, address_of(copy)
    return moved
