"""Compressed rows of in-neighbours, and what becomes of them: checked and copied, hubs found, sparse matrices read."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .errors import GraphError
from .given import given_array
from .jit import launcher
from .layout import AHEAD
from .mapped import mapped_array

# In-degree from which the edges of one node are summed in parts, by several threads.
HUB_EDGES = 32768
# Tasks a kernel's work is cut into.
BLOCKS = 64
# Numbers of an array that are converted and checked at a time.
CHUNK = 1 << 22


class Hubs(NamedTuple):
    """Nodes of very many in-neighbours, and the parts their edges are cut into."""

    nodes: np.ndarray  # (H,) int64, ascending
    first_parts: np.ndarray  # (H + 1,) int64
    starts: np.ndarray  # (parts,) int64, edges
    stops: np.ndarray


class Copies(NamedTuple):
    """What is kept of edges that were checked, and what was seen on the way."""

    indptr: np.ndarray  # (N_dst + 1,) int64
    fetched: np.ndarray  # (E + AHEAD,) int32, indices and zeros
    edge_ids: np.ndarray | None  # (E,) int64
    max_in_degree: int
    zero_degrees: int  # nodes of in-degree 0
    hubs: int


def checked_copies(indptr, indices, edge_ids, num_src: int, folder=None) -> Copies:
    """Check compressed rows, and edge ids if there are any, and copy them, some at a time.

    The arrays may be mapped from files, and of any type of integers; no more of them than ``CHUNK`` is converted at
    once. The copies stand in unnamed files of ``folder``, where one is named: what was checked cannot change any more.

    Raises
    ------
    GraphError
        When they describe no graph.
    """
    nodes, edges, facts = len(indptr) - 1, len(indices), np.zeros(3, np.int64)
    if edge_ids is not None and edge_ids.shape != (edges,):
        _refuse_ids(edge_ids.shape, edges)
    rows, fetched = mapped_array(folder, nodes + 1, np.int64), mapped_array(folder, edges + AHEAD, np.int32)
    rows[0] = 0
    rises = int(indptr[0]) == 0 and all(copy_rows(part, rows, at, facts) for at, part in chunks(indptr, overlap=1))
    if not rises or rows[-1] != edges:
        raise GraphError(
            "indptr must rise from 0 to the number of edges, one step a destination node; indptr and indices are those "
            "of graph.adj_tensors('csc'), not sources and destinations of edges."
        )
    for at, part in chunks(indices):
        if not copy_indices(part, num_src, fetched, at):
            raise GraphError(
                f"indices must name one of {num_src} source nodes, got {indices.min()} … {indices.max()}; where "
                "sources are others than the destinations, pass Graph(indptr, indices, num_src)."
            )
    fetched[edges:] = 0
    ids = None if edge_ids is None else mapped_array(folder, edges, np.int64)
    if ids is not None:
        seen = np.zeros(-(-edges // 8), np.uint8)
        if not all(copy_ids(part, seen, ids, at) for at, part in chunks(edge_ids)):
            _refuse_ids(edge_ids.shape, edges)
    return Copies(rows, fetched, ids, *facts.tolist())


def _refuse_ids(shape, edges):
    raise GraphError(
        f"edge_ids must be the places of {edges} edges, from 0 on, each once, got an array of shape {shape}."
    )


def chunks(array: np.ndarray, overlap: int = 0):
    """Parts of an array as int64, each beginning ``overlap`` before the one before ended, and where they begin."""
    for at in range(0, max(len(array) - overlap, 0), CHUNK):
        yield at, np.ascontiguousarray(array[at : at + CHUNK + overlap], np.int64)


@launcher
def copy_rows(indptr, new, at, facts):
    """Copy the ends of rows ``at`` and after; whether they rise.

    ``facts`` are the largest in-degree, the number of nodes of in-degree 0, and the number of hubs.
    """
    for v in range(len(indptr) - 1):
        degree = indptr[v + 1] - new[at + v]
        if degree < 0:
            return False
        facts[0] = max(facts[0], degree)
        facts[1] += degree == 0
        facts[2] += degree >= HUB_EDGES
        new[at + v + 1] = indptr[v + 1]
    return True


@launcher
def copy_indices(indices, num_src, new, at):
    """Copy sources to ``at`` and after; whether there are such nodes."""
    for e in range(len(indices)):
        index = indices[e]
        if index < 0 or index >= num_src:
            return False
        new[at + e] = index
    return True


@launcher
def copy_ids(edge_ids, seen, new, at):
    """Copy edge ids to ``at`` and after; whether they are among those of ``new`` and in no bit of ``seen``."""
    for e in range(len(edge_ids)):
        number = edge_ids[e]
        if number < 0 or number >= len(new):
            return False
        bit = np.uint8(1 << (number & 7))
        if seen[number >> 3] & bit:
            return False
        seen[number >> 3] |= bit
        new[at + e] = number
    return True


@launcher
def count_into(indices, counts):
    """Add to ``counts`` how often each index is there."""
    for e in range(len(indices)):
        counts[indices[e]] += 1


def find_hubs(indptr, in_degrees):
    nodes = np.flatnonzero(in_degrees >= HUB_EDGES)
    parts = [np.arange(indptr[node], indptr[node + 1], HUB_EDGES) for node in nodes]
    starts = np.concatenate([*parts, np.empty(0, np.int64)]).astype(np.int64)
    ends = np.repeat(indptr[nodes + 1], [len(part) for part in parts])
    first_part = np.cumsum([0, *(len(part) for part in parts)])
    return Hubs(nodes, first_part, starts, np.minimum(starts + HUB_EDGES, ends))


def work_bounds(indptr, hubs: Hubs | None, edge_cost: int, row_cost: int, first: int, last: int) -> np.ndarray:
    """Blocks of rows ``first`` to before ``last`` of about as much work each, (B + 1,) int64.

    Of a hub no more than HUB_EDGES edges count. Found by bisection, without an array of the rows' size.
    """
    spared = np.zeros(1, np.int64)
    if hubs is not None:
        spared = np.cumsum([0, *(indptr[hubs.nodes + 1] - indptr[hubs.nodes] - HUB_EDGES)])

    def work(rows):
        before = 0 if hubs is None else np.searchsorted(hubs.nodes, rows)
        return edge_cost * (indptr[rows] - spared[before]) + row_cost * rows

    goals = np.linspace(work(first), work(last), BLOCKS + 1)[1:-1]
    low, high = np.full(len(goals), first, np.int64), np.full(len(goals), last, np.int64)
    while (low < high).any():  # the first rows before which there is as much
        middle = (low + high) // 2
        is_less = (work(middle) < goals) & (low < high)
        low, high = np.where(is_less, middle + 1, low), np.where(is_less, high, middle)
    return np.unique([first, *low, last]).astype(np.int64)


def entries(matrix):
    """Rows and columns of the entries of a sparse matrix of scipy, in its order, and its shape.

    Compressed formats are read here: scipy does not look where their arrays point.
    """
    kind, shape = getattr(matrix, "format", None), tuple(getattr(matrix, "shape", ()))
    if len(shape) != 2:
        raise GraphError(f"a sparse matrix that is a graph has two dimensions, got shape {shape}.")
    if kind not in ("csr", "csc"):
        try:
            if kind == "bsr":
                matrix.check_format(full_check=True)
            coo = matrix.tocoo()
        except ValueError as error:
            raise GraphError(f"the entries of a sparse matrix cannot be read: {error}") from error
        return *(integers(part, "the places of entries of the matrix") for part in (coo.row, coo.col)), shape
    indptr, indices = integers(matrix.indptr, "indptr of the matrix"), integers(matrix.indices, "indices of the matrix")
    lines = shape[kind == "csc"]
    if indptr.shape != (lines + 1,) or indptr[0] != 0 or indptr[-1] > len(indices) or (np.diff(indptr) < 0).any():
        raise GraphError(
            f"indptr of the matrix must rise from 0 to the number of entries, one step for each of {lines}."
        )
    line, other = np.repeat(np.arange(lines), np.diff(indptr)), indices[: indptr[-1]]
    return (line, other, shape) if kind == "csr" else (other, line, shape)


def batch_starts(sizes, nodes):
    if sizes is None:
        return np.array([0, nodes], np.int64)
    sizes = integers(sizes, "batch_sizes")
    if sizes.ndim != 1 or (sizes < 0).any() or (sizes > nodes).any() or sizes.sum() != nodes:
        raise GraphError(f"batch_sizes must add up to {nodes} nodes, got {sizes.sum()} in {sizes.size} graphs.")
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def integers(values, name):
    return given_array(values, name, "iu").astype(np.int64, copy=False)


def degrees_dtype(edges: int):
    """The type that counts of edges are kept in."""
    return np.int32 if edges < 2**31 else np.int64
