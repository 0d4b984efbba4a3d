"""What a layer's nodes sent last, as packed codes, so that blocks sum over whole neighbourhoods.

A block has some of the in-neighbours of its targets. Those whose rows the step computes, sampled for whatever target,
are summed as they are; for all others stand the codes that they sent when they were last computed. In the backward pass
a row gets, beside the gradients of the targets at hand, those that its other out-neighbours had when these were last
targets. The idea is that of VQ-GNN (arXiv:2110.14363), which has codewords in the place of codes.
"""

from __future__ import annotations

import weakref

import dgl
import dgl.function as fn
import torch
from dgl import DGLError

from ..quant.scaled import scaled
from .kept_rows import KeptGradients, KeptRows
from .ops import TorchOps, _of_degrees

_kept: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # by layer


def kept_messages(layer) -> KeptMessages | None:
    """What is kept of the messages of ``layer``; None for most layers."""
    return _kept.get(layer) if _kept else None


class Neighbours:
    """The edges of a graph, by target and by source.

    Parameters
    ----------
    graph : DGLGraph
        Of one type of nodes and of edges.
    """

    def __init__(self, graph: dgl.DGLGraph):
        self.num_nodes = graph.num_nodes()
        self.by_target, self.by_source = ([part.long() for part in graph.adj_tensors(k)[:2]] for k in ("csc", "csr"))
        self._places = torch.full((self.num_nodes,), -1, device=graph.device)

    def split(self, lists, rows: torch.Tensor, others: torch.Tensor) -> tuple:
        """Edges of ``rows`` to ``others``, places in both, and to nodes that are none of these: places, and node ids.

        ``lists`` are :attr:`by_target` or :attr:`by_source`.
        """
        indptr, indices = lists
        first, counts = indptr[rows], indptr[rows + 1] - indptr[rows]
        owner = torch.arange(len(rows), device=rows.device).repeat_interleave(counts)
        nodes = indices[torch.arange(len(owner), device=rows.device) + (first - counts.cumsum(0) + counts)[owner]]
        self._places[others] = torch.arange(len(others), device=rows.device)
        places = self._places[nodes]
        self._places[others] = -1
        is_inside = places >= 0
        return (owner[is_inside], places[is_inside]), (owner[~is_inside], nodes[~is_inside])

    def sums(self, owner: torch.Tensor, nodes: torch.Tensor, count: int, values) -> torch.Tensor:
        """Sums of ``values(of nodes)``, (nodes, columns), for each of ``count`` owners."""
        chosen = torch.zeros(self.num_nodes, dtype=torch.bool, device=nodes.device)
        chosen[nodes] = True
        chosen = chosen.nonzero().flatten()
        self._places[chosen] = torch.arange(len(chosen), device=nodes.device)
        block = dgl.create_block((self._places[nodes], owner), num_src_nodes=len(chosen), num_dst_nodes=count)
        self._places[chosen] = -1
        rows = values(chosen)
        return dgl.ops.copy_u_sum(block, rows) if len(nodes) else rows.new_zeros(count, rows.shape[1])


class KeptMessages:
    """Codes of the messages of one layer's nodes, and of the gradients of their sums.

    Parameters
    ----------
    neighbours : Neighbours
    columns, bits : int
        Of messages; gradients have as many.
    device : torch.device
    """

    def __init__(self, neighbours: Neighbours, columns: int, bits: int, device):
        self.neighbours = neighbours
        self.messages = KeptRows(neighbours.num_nodes, columns, bits, device)
        self.gradients = KeptGradients(neighbours.num_nodes, columns, bits, device)
        self.filled = 0  # how often all messages were kept

    def attach(self, layer) -> None:
        """Let ``layer`` keep its messages here."""
        _kept[layer] = self

    @staticmethod
    def detach(layer) -> None:
        """Let ``layer`` keep no messages."""
        _kept.pop(layer, None)

    def keep(self, rows: torch.Tensor | slice, codes) -> torch.Tensor:
        """Keep ``codes``, a row for each of ``rows``; returns their zero point.

        Raises
        ------
        DGLError
            For codes that are not known to be whole numbers.
        """
        whole = codes.whole()
        if whole is None:
            raise DGLError("a history keeps the codes of all source nodes; pass features of these, not a pair.")
        numbers, zero_point, powers = whole
        self.messages.write(rows, numbers, None if powers is None else (4 * powers.flatten().log2()).round())
        return zero_point

    def sums_of_others(self, owner, nodes, count: int, zero_point: torch.Tensor) -> torch.Tensor:
        """Sums of the centred codes of ``nodes``, as they are kept, for each of ``count`` owners."""

        def centered(chosen):
            codes, powers = self.messages.read(chosen)
            return (codes - zero_point) * powers

        return self.neighbours.sums(owner, nodes, count, centered)

    def gradients_of_others(self, sources: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Sums of the kept gradients over the out-neighbours of ``sources`` that are not among ``targets``.

        Times the share that makes as much of them, in the mean, as the batch lacks: it computes the edges between
        sources and targets, misses those from others to targets, and has those from sources to others instead, of
        which there are more where there are more sources than targets.
        """
        nodes, s, t = self.neighbours.num_nodes, len(sources), len(targets)
        _, (owner, others) = self.neighbours.split(self.neighbours.by_source, sources, targets)
        share = t * (nodes - s) / max(s * (nodes - t), 1)
        return share * self.neighbours.sums(owner, others, s, self.gradients.values)


class HistoryOps(TorchOps):
    """:class:`TorchOps` that sum over whole neighbourhoods on blocks of the graph whose messages are kept.

    On the graph itself, in evaluation, all messages are kept anew.

    Parameters
    ----------
    kept : KeptMessages
    gradients : int
        As of :class:`TorchOps`.
    """

    def __init__(self, kept: KeptMessages, gradients: int = 32):
        super().__init__(gradients)
        self.kept = kept

    def aggregate(self, graph, codes, edge_weight=None, self_codes=None, norm=None):
        if edge_weight is not None:
            raise DGLError("a history has no weights of edges outside a block; train without it, or without weights.")
        if not graph.is_block:
            if not torch.is_grad_enabled() and graph.num_nodes() == self.kept.neighbours.num_nodes:
                self.kept.keep(slice(None), codes)
                self.kept.filled += 1
            return super().aggregate(graph, codes, edge_weight, self_codes, norm)
        sources, targets = (_ids(frame) for frame in (graph.srcdata, graph.dstdata))
        neighbours = self.kept.neighbours
        zero_point = self.kept.keep(sources, codes)
        inside, outside = neighbours.split(neighbours.by_target, targets, sources)
        block = dgl.create_block(inside[::-1], num_src_nodes=len(sources), num_dst_nodes=len(targets))
        sent = codes.centered.view_as(codes.centered)
        received = self.reduce(block, type(codes)(sent, codes.scale), None, fn.sum("m", "neigh"), scaled=False)
        total = received + self.kept.sums_of_others(*outside, len(targets), zero_point)
        if sent.requires_grad:
            sent.register_hook(lambda grad: grad + self.kept.gradients_of_others(sources, targets))
            received.register_hook(lambda grad: self.kept.gradients.put(targets, grad.float()))
        if self_codes is not None:
            total = total + self_codes.centered
        total = scaled(total.to(codes.centered.dtype), codes.scale)
        after = _of_degrees(norm, codes)
        return total if after is None else total * after.unsqueeze(1)


def _ids(frame):
    """Ids that nodes of a block have in the graph."""
    if dgl.NID not in frame:
        raise DGLError("a history needs blocks that know the ids of their nodes, as those of DGL's samplers do.")
    return frame[dgl.NID].long()
