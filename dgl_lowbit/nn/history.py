"""What a layer's nodes sent last, as packed codes, so that blocks sum over whole neighbourhoods.

A block has some of the in-neighbours of its targets. Those whose rows the step computes, sampled for whatever target,
are summed as they are; for all others stand the codes that they sent when they were last computed. In the backward pass
what these do not take, those that were drawn take for them. The idea is that of VQ-GNN (arXiv:2110.14363), which has
codewords in the place of codes.
"""

from __future__ import annotations

import weakref

import dgl
import dgl.function as fn
import torch
from dgl import DGLError

from ..quant.quantized import Quantized
from ..quant.scaled import scaled
from .kept_rows import KeptRows
from .neighbours import Edges, Neighbours, ids_of
from .ops import TorchOps, _of_degrees
from .watching import summed

_kept: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # by layer


def kept_messages(layer) -> KeptMessages | None:
    """What is kept of the messages of ``layer``; None for most layers."""
    return _kept.get(layer) if _kept else None


class KeptMessages:
    """Codes of the messages of one layer's nodes.

    Parameters
    ----------
    neighbours : Neighbours
    columns, bits : int
        Of messages.
    has_powers : bool
        Whether each node's codes have a power of two of their own.
    """

    def __init__(self, neighbours: Neighbours, columns: int, bits: int, has_powers: bool):
        self.neighbours, self.num_nodes = neighbours, neighbours.num_nodes
        self.rows = KeptRows(self.num_nodes, columns, bits, neighbours.indices.device, has_powers)
        self.filled = 0  # how often all messages were kept

    def attach(self, layer) -> None:
        """Let ``layer`` keep its messages here."""
        _kept[layer] = self

    def detach(self, layer) -> None:
        """Let ``layer`` keep no messages here; if it keeps them elsewhere by now, it goes on."""
        if _kept.get(layer) is self:
            del _kept[layer]

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
        self.rows.write(rows, numbers, powers)
        return zero_point

    def sums(self, edges: Edges, count: int, zero_point: torch.Tensor) -> torch.Tensor:
        """Sums of centred codes, as they are kept, over the edges of each of ``count`` targets."""

        def centered(nodes):
            codes, powers = self.rows.read(nodes)
            return codes - zero_point if powers is None else (codes - zero_point) * powers

        return self.neighbours.sums(edges, count, centered)


class HistoryOps(TorchOps):
    """:class:`TorchOps` that sum over whole neighbourhoods on blocks of the graph whose messages are kept.

    On the graph itself, in evaluation, all messages are kept anew.

    Parameters
    ----------
    history : KeptMessages
    gradients : int
        As of :class:`TorchOps`.
    """

    def __init__(self, history: KeptMessages, gradients: int = 32):
        super().__init__(gradients)
        self.history = history

    def aggregate(self, graph, codes, edge_weight=None, self_codes=None, norm=None):
        if edge_weight is not None:
            raise DGLError("a history has no weights of edges outside a block; train without it, or without weights.")
        if not graph.is_block:
            if not torch.is_grad_enabled() and graph.num_nodes() == self.history.num_nodes:
                self.history.keep(slice(None), codes)
                self.history.filled += 1
            return super().aggregate(graph, codes, edge_weight, self_codes, norm)
        summed(graph, codes)
        sources, targets = ids_of(graph, "a history")
        inside, outside = self.history.neighbours.split(self.history.neighbours.of(targets), sources)
        sent, count = codes.centered, len(targets)
        zero_point = self.history.keep(sources, codes)
        is_own = inside.other < count
        drawn = inside.where(~is_own)
        received = self._sum(drawn, sent, count)
        if received.requires_grad:
            numbers, missing = (torch.bincount(edges.row, minlength=count) for edges in (drawn, outside))
            share = (1 + missing / numbers.clamp_min(1)).unsqueeze(1).to(received)
            received.register_hook(lambda grad: grad * share)
        total = self._sum(inside.where(is_own), sent, count) + received
        total = total + self.history.sums(outside, count, zero_point)
        if self_codes is not None:
            total = total + self_codes.centered
        total = scaled(total.to(codes.centered.dtype), codes.scale)
        after = _of_degrees(norm, codes)
        return total if after is None else total * after.unsqueeze(1)

    def _sum(self, edges, sent, count):
        block = dgl.create_block((edges.other, edges.row), num_src_nodes=len(sent), num_dst_nodes=count)
        return self.reduce(block, Quantized(sent, sent.new_ones(())), None, fn.sum("m", "neigh"), scaled=False)
