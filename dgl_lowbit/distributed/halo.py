"""Rows of the halo: which of them go to which worker, and how they go there."""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np

from numba_kernels.partition import PartitionGraph
from numba_kernels.run.halo import HaloCodes

from .partition import Partition, places_of
from .workers import Workers

# What workers agree on where they add up numbers of nodes within a run.
_TOTAL = 1


class Sent(NamedTuple):
    """What a worker has sent of the codes of one layer.

    Attributes
    ----------
    ntype : str
        Whose codes they are.
    columns, bits : int
    rows : int
        Rows sent, those that several workers read once for each.
    nbytes : int
        Bytes of them: codes without padding, powers of two of rows where there are any.
    """

    ntype: str
    columns: int
    bits: int
    rows: int
    nbytes: int

    @property
    def float_nbytes(self) -> int:
        """Bytes of the same rows in float32."""
        return 4 * self.rows * self.columns


class Halo:
    """What workers know of each other's rows, exchanged once for a graph.

    Attributes
    ----------
    graphs : PartitionGraph, or dict of them by type of edges
        This worker's part as kernels read it.
    """

    def __init__(self, partition: Partition, workers: Workers):
        self.partition, self.workers = partition, workers
        asked = {ntype: self._ask(ntype) for ntype in partition.counts}
        self._rows = {ntype: self._lists(ntype, *of_type) for ntype, of_type in asked.items()}
        workers.agree()
        graphs = {etype: self._graph(etype) for etype in partition.indptr}
        self.graphs = graphs if len(graphs) > 1 else next(iter(graphs.values()))

    def _ask(self, ntype):
        """Nodes that each worker reads of this one, and how many rows of the halo come from each."""
        halo, owners = self.partition.halo[ntype], self.partition.halo_owners[ntype]
        counts = np.bincount(owners, minlength=self.workers.size)
        asked = self.workers.exchange([part.view(np.uint8) for part in np.split(halo, np.cumsum(counts)[:-1])])
        return [part.view(np.int64) for part in asked], counts

    def _lists(self, ntype, asked, counts):
        """Inner rows that each worker reads, and how many rows of the halo come from each, in their order."""
        inner, problem = (
            self.partition.nodes[ntype].numpy(),
            f"a worker asks for nodes of type {ntype!r} that are not here",
        )
        return [places_of(inner, nodes, problem) for nodes in asked], counts

    def _graph(self, etype):
        part, (sources, targets) = self.partition, (self.partition.counts[etype[0]], self.partition.counts[etype[2]])
        indptr, indices = part.indptr[etype], part.indices[etype]
        degrees = np.diff(indptr)
        out = self.total(etype[0], np.bincount(indices, minlength=sources.count).astype(np.float64))
        facts = self.workers.all(np.array([degrees.max(initial=0), (degrees == 0).any()]))
        most, has_zero = facts.max(axis=0).tolist()
        out_degrees = out[: sources.inner].astype(np.int64)

        def total(numbers):
            self.workers.agree(_TOTAL)
            return self.total(etype[0], numbers)

        return PartitionGraph(indptr, indices, sources, targets, out_degrees, most, has_zero, total)

    def total(self, ntype: str, numbers: np.ndarray) -> np.ndarray:
        """What all workers know of the same nodes, added up, (count,) float64 as ``numbers``."""
        (rows, counts), nodes = self._rows[ntype], self.partition.counts[ntype]
        ends = nodes.inner + np.concatenate([[0], np.cumsum(counts)])
        known = [numbers[first:last].view(np.uint8) for first, last in zip(ends, ends[1:])]
        total = np.zeros(nodes.count)
        total[: nodes.inner] = numbers[: nodes.inner]
        for places, part in zip(rows, self.workers.exchange(known, [8 * len(places) for places in rows])):
            total[places] += part.view(np.float64)
        back = self.workers.exchange([total[places].view(np.uint8) for places in rows], (8 * counts).tolist())
        total[nodes.inner : ends[-1]] = np.concatenate(back).view(np.float64)
        return total

    def exchange(self, codes: list[HaloCodes]) -> None:
        """Send rows of ``codes`` to the workers that read them, and put theirs: what kernels call between stages."""
        self.workers.agree(_number_of(codes))
        lists = [self._rows[part.nodes.name] for part in codes]
        parts, sizes = [], []
        for worker in range(self.workers.size):
            taken = [part.take(rows[worker]).ravel() for part, (rows, _) in zip(codes, lists)]
            parts.append(np.concatenate(taken))
            sizes.append(sum(part.row_bytes * int(counts[worker]) for part, (_, counts) in zip(codes, lists)))
        received = self.workers.exchange(parts, sizes)
        firsts = [part.nodes.inner for part in codes]
        for worker, message in enumerate(received):
            start = 0
            for n, (part, (_, counts)) in enumerate(zip(codes, lists)):
                stop = start + part.row_bytes * int(counts[worker])
                part.put(message[start:stop].reshape(-1, part.row_bytes), firsts[n])
                start, firsts[n] = stop, firsts[n] + int(counts[worker])
        for part, (rows, _) in zip(codes, lists):
            sent = sum(map(len, rows))
            numbers = part.grid.columns, part.grid.bits, sent, sent * part.row_bytes
            self.partition.sent.append(Sent(part.nodes.name, *numbers))


def _number_of(codes):
    """A number that tells exchanges of different values apart."""
    described = [(part.value, part.nodes.name, part.grid.columns, part.grid.bits, part.row_bytes) for part in codes]
    return zlib.crc32(repr(described).encode())
