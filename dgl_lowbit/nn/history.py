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
from .neighbours import Edges, Neighbours, ids_of
from .ops import TorchOps, _of_degrees
from .watching import summed

_kept: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # by layer


def kept_messages(layer) -> KeptMessages | None:
    """What is kept of the messages of ``layer``; None for most layers."""
    return _kept.get(layer) if _kept else None


class KeptMessages:
    """Codes of the messages of one layer's nodes, and of the gradients of their sums.

    Parameters
    ----------
    by_target, by_source : Neighbours
        The graph's, by each end.
    columns, bits : int
        Of messages; gradients have as many.
    device : torch.device
    """

    def __init__(self, by_target: Neighbours, by_source: Neighbours, columns: int, bits: int, device):
        self.by_target, self.by_source, self.num_nodes = by_target, by_source, by_target.num_nodes
        self.messages = KeptRows(self.num_nodes, columns, bits, device)
        self.gradients = KeptGradients(self.num_nodes, columns, bits, device)
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

    def sums(self, edges: Edges, count: int, zero_point: torch.Tensor) -> torch.Tensor:
        """Sums of centred codes, as they are kept, over the edges of each of ``count`` targets."""

        def centered(nodes):
            codes, powers = self.messages.read(nodes)
            return (codes - zero_point) * powers

        return self.by_target.sums(edges, count, centered)

    def gradients_of_others(self, sources: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Sums of the kept gradients over the out-neighbours of ``sources`` that are not among ``targets``.

        Times the share that makes as much of them, in the mean, as the batch lacks: it computes the edges between
        sources and targets, misses those from others to targets, and has those from sources to others instead, of
        which there are more where there are more sources than targets.
        """
        nodes, s, t = self.num_nodes, len(sources), len(targets)
        _, outside = self.by_source.split(self.by_source.of(sources), targets)
        share = t * (nodes - s) / max(s * (nodes - t), 1)
        return share * self.by_source.sums(outside, s, self.gradients.values)


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
            if not torch.is_grad_enabled() and graph.num_nodes() == self.kept.num_nodes:
                self.kept.keep(slice(None), codes)
                self.kept.filled += 1
            return super().aggregate(graph, codes, edge_weight, self_codes, norm)
        summed(graph, codes)
        sources, targets = ids_of(graph, "a history")
        inside, outside = self.kept.by_target.split(self.kept.by_target.of(targets), sources)
        block = dgl.create_block((inside.other, inside.row), num_src_nodes=len(sources), num_dst_nodes=len(targets))
        sent = codes.centered.view_as(codes.centered)
        zero_point = self.kept.keep(sources, codes)
        received = self.reduce(block, type(codes)(sent, codes.scale), None, fn.sum("m", "neigh"), scaled=False)
        total = received + self.kept.sums(outside, len(targets), zero_point)
        if sent.requires_grad:
            sent.register_hook(lambda grad: grad + self.kept.gradients_of_others(sources, targets))
            received.register_hook(lambda grad: self.kept.gradients.put(targets, grad.float()))
        if self_codes is not None:
            total = total + self_codes.centered
        total = scaled(total.to(codes.centered.dtype), codes.scale)
        after = _of_degrees(norm, codes)
        return total if after is None else total * after.unsqueeze(1)
