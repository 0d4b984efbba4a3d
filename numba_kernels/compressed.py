"""Compressed rows of in-neighbours, and what becomes of them: checked and copied, hubs found, sparse matrices read."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .errors import GraphError
from .given import given_array
from .jit import launcher

# In-degree from which the edges of one node are summed in parts, by several threads.
HUB_EDGES = 32768
# What may be wrong with edges.
BAD_INDPTR, BAD_INDEX, BAD_ID = 1, 2, 3
NO_IDS = np.empty(0, np.int64)


class Hubs(NamedTuple):
    """Nodes of very many in-neighbours, and the parts their edges are cut into."""

    nodes: np.ndarray  # (H,) int64, ascending
    first_parts: np.ndarray  # (H + 1,) int64
    starts: np.ndarray  # (parts,) int64, edges
    stops: np.ndarray


@launcher
def copy_edges(indptr, indices, edge_ids, num_src, new_indptr, new_indices, new_ids, seen, facts):
    """Check compressed rows, and edge ids if there are any, and copy them; returns what is wrong, 0 for nothing.

    ``facts`` becomes the largest in-degree, the number of nodes of in-degree 0, and the number of hubs. Zeros follow
    the indices.
    """
    if indptr[0] != 0 or indptr[len(indptr) - 1] != len(indices):
        return BAD_INDPTR
    new_indptr[0] = 0
    for v in range(len(indptr) - 1):
        degree = indptr[v + 1] - indptr[v]
        if degree < 0:
            return BAD_INDPTR
        facts[0] = max(facts[0], degree)
        facts[1] += degree == 0
        facts[2] += degree >= HUB_EDGES
        new_indptr[v + 1] = indptr[v + 1]
    for e in range(len(indices)):
        index = indices[e]
        if index < 0 or index >= num_src:
            return BAD_INDEX
        new_indices[e] = index
    new_indices[len(indices) :] = 0
    for e in range(len(edge_ids)):
        number = edge_ids[e]
        if number < 0 or number >= len(edge_ids) or seen[number]:
            return BAD_ID
        seen[number] = True
        new_ids[e] = number
    return 0


def find_hubs(indptr, in_degrees):
    nodes = np.flatnonzero(in_degrees >= HUB_EDGES)
    parts = [np.arange(indptr[node], indptr[node + 1], HUB_EDGES) for node in nodes]
    starts = np.concatenate([*parts, np.empty(0, np.int64)]).astype(np.int64)
    ends = np.repeat(indptr[nodes + 1], [len(part) for part in parts])
    first_part = np.cumsum([0, *(len(part) for part in parts)])
    return Hubs(nodes, first_part, starts, np.minimum(starts + HUB_EDGES, ends))


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
