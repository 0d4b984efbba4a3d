"""What a worker holds of a graph: the nodes it computes, the edges into them, and what stands at their other ends."""

from __future__ import annotations

from collections.abc import Callable

import dgl
import numpy as np
import torch
from dgl import DGLError, DGLGraph

from numba_kernels.partition import PartitionNodes


class Partition:
    """A worker's part of a graph: inner nodes, all edges into them, and the halo, other workers' nodes they come from.

    :meth:`of` makes it of a ``DistGraph``, :meth:`load` of the files that ``dgl.distributed.partition_graph`` wrote,
    :meth:`split` of a graph in memory; nodes and edges have the numbers that they have there.

    Parameters
    ----------
    nodes : dict of str to (n,) int64 array
        Inner nodes, in ascending order, of every type of the graph.
    edges : dict of (str, str, str) to three (E,) int64 arrays
        Sources, targets and numbers of all edges into them, of every type of the graph.
    owner : callable
        ``owner(ntype, nodes)`` is which worker computes nodes, an array of its numbers.
    rank, workers : int
        Which worker this one is, and of how many.

    Attributes
    ----------
    nodes : dict of str to (n,) int64 tensor
        Inner nodes: the order of features of a type, and of results.
    edges : dict of (str, str, str) to (E,) int64 tensor
        Edges into them: the order of what is given for edges, such as weights.
    sent : list of Sent
        What the last run has sent, an entry for each of its exchanges of codes.

    Raises
    ------
    DGLError
        Where the arrays do not fit each other.
    """

    def __init__(self, nodes: dict, edges: dict, owner: Callable, rank: int, workers: int):
        if not 0 <= rank < workers:
            raise DGLError(f"worker {rank} is none of {workers}.")
        self.rank, self.workers, self.sent = rank, workers, []
        self._inner = {ntype: np.asarray(ids, np.int64) for ntype, ids in sorted(nodes.items())}
        if any((np.diff(ids) <= 0).any() for ids in self._inner.values()):
            raise DGLError("inner nodes must be given in ascending order, each once.")
        arrays = {etype: [np.asarray(part, np.int64) for part in parts] for etype, parts in sorted(edges.items())}
        self.halo, self.halo_owners = {}, {}
        for ntype, inner in self._inner.items():
            met = [sources for etype, (sources, _, _) in arrays.items() if etype[0] == ntype]
            halo = np.setdiff1d(np.concatenate([*met, np.empty(0, np.int64)]), inner)
            owners = np.asarray(owner(ntype, halo), np.int64)
            if ((owners < 0) | (owners >= workers) | (owners == rank)).any():
                raise DGLError(f"nodes of type {ntype!r} have no owner among the {workers} workers.")
            order = np.argsort(owners, kind="stable")
            self.halo[ntype], self.halo_owners[ntype] = halo[order], owners[order]
        self._edges, self.indptr, self.indices = {}, {}, {}
        for etype, (sources, targets, ids) in arrays.items():
            order = np.lexsort((ids, targets))
            places = places_of(self._inner[etype[2]], targets[order], f"targets of {etype} are no inner nodes")
            counts = np.bincount(places, minlength=len(self._inner[etype[2]]))
            self.indptr[etype] = np.concatenate([[0], np.cumsum(counts)])
            self.indices[etype], self._edges[etype] = self._local(etype[0], sources[order]), ids[order]
        self.counts = self._count_rows()
        self.nodes = {ntype: torch.from_numpy(ids) for ntype, ids in self._inner.items()}
        self.edges = {etype: torch.from_numpy(ids) for etype, ids in self._edges.items()}
        self.ready: tuple = None, None  # what is exchanged once, and between which workers

    def _local(self, ntype, ids):
        """Places of nodes here: inner ones first, then the halo by owners."""
        inner, halo = self._inner[ntype], self.halo[ntype]
        places = np.searchsorted(inner, ids)
        is_inner = places < len(inner)
        is_inner[is_inner] = inner[places[is_inner]] == ids[is_inner]
        order = np.argsort(halo)
        places[~is_inner] = len(inner) + order[np.searchsorted(halo[order], ids[~is_inner])]
        return places

    def _count_rows(self):
        """Nodes by type, each of a number of rows that nothing else here has."""
        taken, found = {1, *(len(ids) for ids in self._edges.values())}, {}
        for ntype, inner in self._inner.items():
            count = len(inner) + len(self.halo[ntype])
            while count in taken:
                count += 1
            taken.add(count)
            found[ntype] = PartitionNodes(ntype, len(inner), count)
        return found

    @classmethod
    def split(cls, graph: DGLGraph, parts, rank: int, workers: int) -> Partition:
        """The part of a graph that a worker computes, where ``parts`` says which worker computes each node.

        Parameters
        ----------
        graph : DGLGraph
        parts : (N,) integer tensor, or a dict of them by type of nodes
        rank, workers : int

        Returns
        -------
        Partition

        Raises
        ------
        DGLError
            Where there is not a worker for each node.
        """
        parts = parts if isinstance(parts, dict) else {graph.ntypes[0]: parts}
        owners = {ntype: np.asarray(owner) for ntype, owner in parts.items()}
        for ntype in graph.ntypes:
            shape = getattr(owners.get(ntype), "shape", None)
            if shape != (graph.num_nodes(ntype),):
                raise DGLError(
                    f"parts must say which worker computes each of {graph.num_nodes(ntype)} nodes of type {ntype!r}, "
                    f"got {'nothing' if shape is None else f'shape {shape}'}."
                )
            others = owners[ntype][(owners[ntype] < 0) | (owners[ntype] >= workers)]
            if others.size:
                raise DGLError(f"parts of {ntype!r} must be workers from 0 to {workers - 1}, got {others[0]}.")
        nodes = {ntype: np.flatnonzero(owners[ntype] == rank) for ntype in graph.ntypes}
        edges = {}
        for etype in graph.canonical_etypes:
            sources, targets, ids = (part.numpy() for part in graph.edges(form="all", etype=etype))
            kept = owners[etype[2]][targets] == rank
            edges[etype] = sources[kept], targets[kept], ids[kept]
        return cls(nodes, edges, lambda ntype, ids: owners[ntype][ids], rank, workers)

    @classmethod
    def load(cls, part_config, rank: int) -> Partition:
        """The part with number ``rank`` of what ``dgl.distributed.partition_graph`` wrote; a worker for each part.

        Parameters
        ----------
        part_config : path-like
            The JSON file.
        rank : int

        Returns
        -------
        Partition

        Raises
        ------
        DGLError
            Where the part does not hold all edges into its nodes.
        """
        graph, _, _, book, *_ = dgl.distributed.load_partition(str(part_config), rank)
        return cls._of_book(graph, book, rank, rank, np.arange(book.num_partitions()))

    @classmethod
    def of(cls, graph: dgl.distributed.DistGraph, rank: int, machines) -> Partition:
        """The part of a ``DistGraph`` that a worker computes.

        Where several workers are on one machine, they share the nodes of its partition, in the order of their ranks.

        Parameters
        ----------
        graph : dgl.distributed.DistGraph
        rank : int
            Of this worker.
        machines : (workers,) integers
            The partition that each worker is at.

        Returns
        -------
        Partition

        Raises
        ------
        DGLError
            Where a partition has no worker.
        """
        book = graph.get_partition_book()
        return cls._of_book(graph.local_partition, book, rank, int(book.partid), np.asarray(machines))

    @classmethod
    def _of_book(cls, graph, book, rank, part, machines):
        missing = np.setdiff1d(np.arange(book.num_partitions()), machines)
        if len(missing):
            raise DGLError(f"partitions {missing.tolist()} have no worker; there are {len(machines)} workers.")

        def owner(ntype, ids):
            parts, owners = book.nid2partid(torch.from_numpy(ids), ntype).numpy(), np.empty(len(ids), np.int64)
            for number in np.unique(parts):
                first, ranks = int(book.partid2nids(int(number), ntype)[0]), np.flatnonzero(machines == number)
                share = -(-len(book.partid2nids(int(number), ntype)) // len(ranks))
                chosen = parts == number
                owners[chosen] = ranks[(ids[chosen] - first) // share]
            return owners

        nodes = {}
        for ntype in book.ntypes:
            ids = np.sort(book.partid2nids(part, ntype).numpy())
            nodes[ntype] = ids[owner(ntype, ids) == rank]
        ids = book.map_to_per_ntype(graph.ndata[dgl.NID])[1].numpy()
        indptr, indices, eids = (array.numpy() for array in graph.adj_tensors("csc"))
        targets, number = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr)), graph.edata[dgl.EID].numpy()[eids]
        etypes, numbers = (array.numpy() for array in book.map_to_per_etype(torch.from_numpy(number)))
        edges = {}
        for place, etype in enumerate(book.canonical_etypes):
            kept = np.flatnonzero(etypes == place)
            source, target = ids[indices[kept]], ids[targets[kept]]
            mine = np.isin(target, nodes[etype[2]])
            edges[etype] = source[mine], target[mine], numbers[kept][mine]
        return cls(nodes, edges, owner, rank, len(machines))


def places_of(known: np.ndarray, ids: np.ndarray, problem: str) -> np.ndarray:
    """Where ``ids`` stand among what is ``known``, in ascending order.

    Raises
    ------
    DGLError
        That says the ``problem`` where one is not among it.
    """
    places = np.searchsorted(known, ids)
    if len(ids) and (not len(known) or (known[np.minimum(places, len(known) - 1)] != ids).any()):
        raise DGLError(f"{problem}; the parts of the workers are not those of one graph.")
    return places
