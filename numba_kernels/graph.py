"""A graph as kernels read it: in-neighbours of every destination, checked once."""

from __future__ import annotations

import numpy as np

from .compressed import (
    BLOCKS,
    Hubs,
    batch_starts,
    checked_copies,
    count_into,
    degrees_dtype,
    entries,
    find_hubs,
    integers,
    work_bounds,
)
from .compressed import HUB_EDGES as HUB_EDGES
from .errors import GraphError
from .fixed_point import degree_norm
from .given import REAL, given_array, whole_number
from .once import once


class Graph:
    """In-neighbours in compressed rows.

    Parameters
    ----------
    indptr : (N_dst + 1,) integers
        Sources of destination v stand at ``indices[indptr[v]:indptr[v + 1]]``.
    indices : (E,) integers
        Source nodes; an edge that stands twice counts twice.
    num_src : int, optional
        Number of source nodes. Default: N_dst, one set of nodes.
    edge_ids : (E,) integers, optional
        Where the weight of each edge stands in an ``edge_weight`` array. Default: in the order of ``indices``.
    is_block : bool
        Whether the destinations are the first of the sources, as in a DGL block; between nodes of two types, the first
        of the sources of their own type.
    batch_sizes : (B,) integers, optional
        Number of nodes of each of the graphs this one is a batch of. Default: one graph.
    folder : path-like, optional
        Of a disk with room: what is kept, 4 bytes an edge and 8 a node, stands there, in files without names that are
        gone with the graph. Default: in memory. The arrays above may be mapped from files either way, of any type of
        integers: they are read some at a time.

    Raises
    ------
    GraphError
        When the arrays do not describe a graph.
    OSError
        When there is no such folder, or it has no room.

    Examples
    --------
    >>> graph = Graph([0, 1, 3], [1, 0, 1])
    >>> graph.num_dst, graph.num_edges, graph.in_degrees.tolist(), graph.out_degrees.tolist()
    (2, 3, [1, 2], [1, 2])
    """

    def __init__(
        self, indptr, indices, num_src=None, edge_ids=None, is_block=False, batch_sizes=None, folder=None
    ) -> None:
        indptr, indices = given_array(indptr, "indptr", "iu"), given_array(indices, "indices", "iu")
        if indptr.ndim != 1 or indices.ndim != 1 or len(indptr) < 1:
            raise GraphError(f"indptr and indices must be 1-D, got shapes {indptr.shape} and {indices.shape}.")
        self.num_dst, self.num_edges = len(indptr) - 1, len(indices)
        # Source nodes fit an index.
        self.num_src = whole_number(self.num_dst if num_src is None else num_src, "num_src", 0, 2**31 - 1)
        if not isinstance(is_block, (bool, np.bool_)):
            raise GraphError(f"is_block must be True or False, got {is_block!r}.")
        ids = None if edge_ids is None else given_array(edge_ids, "edge_ids", "iu")
        copies = checked_copies(indptr, indices, ids, self.num_src, folder)
        # Behind the sources stand AHEAD zeros, to be fetched.
        self.indptr, self.fetched, self.edge_ids = copies.indptr, copies.fetched, copies.edge_ids
        self.max_in_degree, self.num_hubs = copies.max_in_degree, copies.hubs
        self.has_zero_in_degree = copies.zero_degrees > 0
        self.is_block = bool(is_block)
        self.batch_starts = batch_starts(batch_sizes, self.num_dst)
        # By what they are; kept, whichever thread made them first, as kernels may read them.
        self._arrays: dict[object, np.ndarray] = {}
        self._typed: dict[int, tuple] = {}

    @property
    def indices(self) -> np.ndarray:
        """Source nodes, (E,) int32; AHEAD zeros follow in memory."""
        return self.fetched[: self.num_edges]

    @property
    def batch_size(self) -> int:
        """How many graphs this one is a batch of."""
        return len(self.batch_starts) - 1

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays that are kept."""
        found = (vars(self).get(name) for name in ("in_degrees", "out_degrees", "hubs"))
        parts = self.indptr, self.fetched, self.edge_ids, self.batch_starts, *self._arrays.values(), *found
        typed = [graph for _, graph in [*self._typed.values()]]
        return sum(part.nbytes for part in (*parts, *typed) if part is not None)

    @once
    def in_degrees(self) -> np.ndarray:
        """(N_dst,) int32; int64 where there are 2^31 edges or more."""
        degrees = np.empty(self.num_dst, degrees_dtype(self.num_edges))
        return np.subtract(self.indptr[1:], self.indptr[:-1], out=degrees, casting="same_kind")

    @once
    def out_degrees(self) -> np.ndarray:
        """(N_src,) int32; int64 where there are 2^31 edges or more."""
        counts = np.zeros(self.num_src, degrees_dtype(self.num_edges))
        count_into(self.indices, counts)
        return counts

    @property
    def edges(self) -> np.ndarray:
        """Source and destination of every edge, (2, E) int64, in the order of edge ids."""
        if "edges" not in self._arrays:
            ends = np.array([self.indices, np.repeat(np.arange(self.num_dst), self.in_degrees)], np.int64)
            ordered = np.zeros_like(ends)
            ordered[:, slice(None) if self.edge_ids is None else self.edge_ids] = ends
            self._arrays.setdefault("edges", ordered)
        return self._arrays["edges"]

    @property
    def targets(self) -> np.ndarray:
        """The row that reductions by destination make of each edge, (E,) int64, in the order of edge ids."""
        return self.edges[1]

    @property
    def edges_by_source(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids of edges in the order of their sources, and where those of each source begin, (N_src + 1,)."""
        if "by source" not in self._arrays:
            self._arrays.setdefault("by source", np.argsort(self.edges[0], kind="stable"))
        return self._arrays["by source"], np.concatenate([[0], np.cumsum(self.out_degrees)])

    @once
    def hubs(self) -> Hubs:
        """Nodes of very many in-neighbours."""
        return find_hubs(self.indptr, self.in_degrees)

    @property
    def num_hub_parts(self) -> int:
        """How many parts the edges of hubs are cut into."""
        return len(self.hubs.starts)

    def hub_parts_within(self, nodes: int) -> int:
        """Of how many parts are the edges of hubs among the first nodes."""
        return int(self.hubs.first_parts[np.searchsorted(self.hubs.nodes, nodes)])

    def address(self, name: str) -> int:
        """Where an array stands: indptr, indices, edge_ids (0 for none), batch_starts, or one of :class:`Hubs`."""
        array = getattr(self.hubs, name) if name in Hubs._fields else getattr(self, name)
        return 0 if array is None else array.__array_interface__["data"][0]

    def factor_address(self, side: str, power: float, plus: int, of_15_bits: bool = False) -> int:
        """Where :meth:`degree_factor` stands."""
        return self.degree_factor(side, power, plus, of_15_bits).__array_interface__["data"][0]

    @classmethod
    def from_scipy(cls, matrix) -> Graph:
        """From a sparse matrix whose entry (u, v) is an edge u → v, as ``dgl.from_scipy`` reads it.

        Raises
        ------
        GraphError
            When rows and columns of its entries are not those of a matrix of its shape.
        """
        sources, destinations, (num_src, num_dst) = entries(matrix)
        if len(destinations) and (destinations.min() < 0 or destinations.max() >= num_dst):
            raise GraphError(
                f"the matrix has {num_dst} columns, and entries in columns {destinations.min()} … {destinations.max()}."
            )
        return cls.from_edges(sources, destinations, num_src, num_dst)

    @classmethod
    def from_edges(cls, sources, destinations, num_src: int, num_dst: int | None = None) -> Graph:
        """From the two ends of every edge, (E,) integers each; weights stand in the same order.

        Raises
        ------
        GraphError
            When they are not among ``num_src`` and ``num_dst`` nodes, by default as many.

        Examples
        --------
        >>> graph = Graph.from_edges([1, 0, 1], [0, 1, 1], 2)
        >>> graph.indptr.tolist(), graph.indices.tolist()
        ([0, 1, 3], [1, 0, 1])
        """
        num_dst = whole_number(num_src if num_dst is None else num_dst, "num_dst", 0, 2**31 - 1)
        sources, destinations = integers(sources, "sources"), integers(destinations, "destinations")
        if sources.ndim != 1 or sources.shape != destinations.shape:
            raise GraphError(
                f"sources and destinations must be 1-D and as many, got shapes {sources.shape} and "
                f"{destinations.shape}."
            )
        if len(destinations) and (destinations.min() < 0 or destinations.max() >= num_dst):
            raise GraphError(
                f"destinations must name one of {num_dst} nodes, got {destinations.min()} … {destinations.max()}."
            )
        order = np.argsort(destinations, kind="stable")
        indptr = np.concatenate([[0], np.cumsum(np.bincount(destinations, minlength=num_dst))])
        return cls(indptr, sources[order], num_src=num_src, edge_ids=order)

    @classmethod
    def of(cls, graph, folder=None) -> Graph:
        """``graph`` itself, or what a scipy.sparse matrix or a pair (indptr, indices) describes, kept in ``folder``.

        Raises
        ------
        GraphError
            For anything else.
        """
        if isinstance(graph, Graph):
            return graph
        if hasattr(graph, "tocoo"):
            return cls.from_scipy(graph)
        if isinstance(graph, (tuple, list)) and len(graph) == 2:
            indptr, indices = graph
            return cls(indptr, indices, folder=folder)
        raise GraphError(
            "a graph is a numba_kernels.Graph (beside DGL a DGLGraph), a scipy.sparse matrix or a pair (indptr, "
            f"indices), got {type(graph).__name__}."
        )

    def bounds(self, edge_cost: int, row_cost: int) -> np.ndarray:
        """Blocks of destinations of about as much work each, (B + 1,) int64."""
        key = "bounds", edge_cost, row_cost
        if key not in self._arrays:
            bounds = self.bounds_between(0, self.num_dst, edge_cost, row_cost)
            self._arrays.setdefault(key, bounds)
        return self._arrays[key]

    def bounds_between(self, low: int, high: int, edge_cost: int, row_cost: int) -> np.ndarray:
        """As :meth:`bounds`, of destinations from ``low`` to before ``high``."""
        hubs = self.hubs if self.num_hubs else None
        return work_bounds(self.indptr, hubs, edge_cost, row_cost, low, high)

    def by_type(self, edge_types, count: int) -> Graph:
        """This graph with each source node once for each of ``count`` types, reached by the edges of that type.

        Parameters
        ----------
        edge_types : (E,) integers
            Below ``count``, in the order of edge ids.

        Raises
        ------
        GraphError
            When they are not.
        """
        types = integers(edge_types, "edge types")
        if types.shape != (self.whole.num_edges,):
            raise GraphError(f"edge types must have shape ({self.whole.num_edges},), got {types.shape}.")
        known, graph = self._typed.get(count, (None, None))
        if known is None or not np.array_equal(known, types):
            ordered = self.by_edge(types)
            if len(ordered) and (ordered.min() < 0 or ordered.max() >= count):
                raise GraphError(f"edge types must be from 0 to {count - 1}, got {ordered.min()} to {ordered.max()}.")
            graph = self._of_types(self.indices + ordered * self.num_src, count)
            if self.whole is self:
                self._typed[count] = types.copy(), graph
        return graph

    def _of_types(self, indices, count):
        return Graph(self.indptr, indices, count * self.num_src, self.edge_ids)

    @property
    def whole(self) -> Graph:
        """The graph that this one is a part of, whose edges have weights and types; by default itself."""
        return self

    def by_edge(self, values: np.ndarray) -> np.ndarray:
        """Rows of ``values``, which has one for each edge by its id, in the order of ``indices``."""
        return values if self.edge_ids is None else values[self.edge_ids]

    def normed(self, edge_weight) -> np.ndarray:
        """Weights over the roots of their sums at both ends, (E,) float32 in the order of edge ids.

        Raises
        ------
        GraphError
            Unless there is one positive number for each edge.
        """
        weights = self.edge_weights(edge_weight).astype(np.float32)
        if (weights <= 0).any():
            raise GraphError("edge_weight must be positive to be normalised.")
        targets = np.repeat(np.arange(self.num_dst), self.in_degrees)
        out = self._sums_by_source(weights).astype(np.float32)
        into = np.bincount(targets, weights, self.num_dst).astype(np.float32)
        weights = weights * (out[self.indices] ** np.float32(-0.5) * into[targets] ** np.float32(-0.5))
        if self.edge_ids is None:
            return weights
        ordered = np.empty_like(weights)
        ordered[self.edge_ids] = weights
        return ordered

    def _sums_by_source(self, weights):
        return np.bincount(self.indices, weights, self.num_src)

    def degree_factor(self, side: str, power: float, plus: int, of_15_bits: bool = False) -> np.ndarray:
        """(degree + plus)^power for power −1, −½ or ½, (N,) float32, or what 15 bits hold; degrees of 0 count as 1."""
        key = "factor", side, power, plus, of_15_bits
        if key not in self._arrays:
            degrees = self.out_degrees if side == "out" else self.in_degrees
            if of_15_bits:
                return self._arrays.setdefault(key, degree_norm(degrees, power, plus))
            degrees = np.maximum(degrees.astype(np.float32) + np.float32(plus), np.float32(1))
            degrees = degrees if power == -1 else np.sqrt(degrees)
            self._arrays.setdefault(key, degrees if power == 0.5 else np.float32(1) / degrees)
        return self._arrays[key]

    def edge_weights(self, edge_weight) -> np.ndarray:
        """Weights in the order of ``indices``, (E,) int8 where they are given so, else float32.

        Raises
        ------
        GraphError
            Unless there is one finite number for each edge.
        """
        weights, edges = given_array(edge_weight, "edge_weight", REAL), self.whole.num_edges
        if weights.shape not in ((edges,), (edges, 1)):
            raise GraphError(f"edge_weight must have shape ({edges},), got {weights.shape}.")
        weights = self.by_edge(weights.reshape(-1))
        weights = np.ascontiguousarray(weights, np.int8 if weights.dtype == np.int8 else np.float32)
        if not np.isfinite(weights).all():
            raise GraphError("edge_weight holds NaN or infinity.")
        return weights


def row_bounds(rows: int) -> np.ndarray:
    """Blocks of as many rows each, (B + 1,) int64."""
    return np.linspace(0, rows, min(BLOCKS, max(rows, 1)) + 1).astype(np.int64)
