"""Nodes that pass unrounded in training, those of high in-degree more often (Degree-Quant, arXiv:2008.05000).

Who is called first, a model that ``quantize`` made or a layer by itself, draws for its whole forward. A node's chance
is a hash of the forward's seed, its type and its row, so that the rows that blocks share, the first ones, fare alike in
all of them, and nothing but the seed comes from torch's generator.
"""

from __future__ import annotations

import threading
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from dgl import DGLGraph
from torch import nn

from ..graphs.cache import GraphCache
from ..quant.evaluation import is_aside
from ..quant.recompute import is_recomputing
from ..quant.stochastic import chances, new_seed
from ..trees import leaves

# Column of nodes with their F(d), as blocks have it of the graph that they are sampled from.
DEGREE_RANK = "degree_rank"
_ranks_of_graphs = GraphCache()


def with_degree_ranks(graph: DGLGraph) -> DGLGraph:
    """``graph``, whose blocks will know the degrees that their nodes have in it; the frames of the argument stay.

    ``fit`` and ``train`` do this themselves. A loop of your own that samples blocks for a model under
    ``QuantConfig(protect=…)`` samples them from this graph.

    Parameters
    ----------
    graph : DGLGraph

    Returns
    -------
    DGLGraph
        With the column ``"degree_rank"`` for the nodes of each type, float32: the share of the nodes of that type, in
        the same graph of a batch, whose in-degree, over all edge types, is at most the node's.

    Examples
    --------
    >>> import dgl
    >>> with_degree_ranks(dgl.graph(([0, 1, 2], [1, 3, 3]))).ndata["degree_rank"].tolist()
    [0.5, 0.75, 0.5, 1.0]
    """
    graph = graph.local_var()
    for ntype, ranks in degree_ranks(graph).items():
        graph.nodes[ntype].data[DEGREE_RANK] = ranks
    return graph


def degree_ranks(graph: DGLGraph) -> dict[str, torch.Tensor]:
    """F(d) of the nodes of each type, (N,) float32; of a block of its source nodes, as far as it has edges to them."""
    return {ntype: _ranks(graph, ntype) for ntype in _counts(graph)}


def _ranks(graph, ntype):
    number = max(_counts(graph)[ntype])
    degrees = torch.zeros(number, dtype=torch.long, device=graph.device)
    for kind in graph.canonical_etypes:
        if kind[2] == ntype:
            received = graph.in_degrees(etype=kind)
            degrees[: len(received)] += received
    sizes = degrees.new_tensor([number]) if graph.is_block else graph.batch_num_nodes(ntype).long()
    owner = torch.arange(len(sizes), device=graph.device).repeat_interleave(sizes)
    places = degrees + owner * (graph.num_edges() + 1)  # ascending from graph to graph
    up_to = torch.searchsorted(places.sort().values, places, right=True) - (sizes.cumsum(0) - sizes)[owner]
    return up_to / sizes[owner]


def _counts(graph):
    """Numbers of rows that the nodes of each type have: of a block those of its sources, of which targets are first."""
    counts: dict[str, list[int]] = {ntype: [graph.num_src_nodes(ntype)] for ntype in graph.srctypes}
    for ntype in graph.dsttypes:
        counts.setdefault(ntype, []).append(graph.num_dst_nodes(ntype))
    return counts


class Protection:
    """The nodes that one forward leaves unrounded: a mask for each number of rows that nodes have.

    Parameters
    ----------
    protect : (float, float)
        (p_min, p_max): a node's probability is p_min + (p_max − p_min) · F(d).
    seed : torch.Tensor
        32 bits.
    """

    def __init__(self, protect: tuple[float, float], seed: torch.Tensor):
        self.protect, self.seed = protect, seed
        self.masks: dict[int, torch.Tensor] = {}

    def meet(self, graph: DGLGraph) -> None:
        """Draw for the nodes of ``graph``, but for those that have been drawn for."""
        for ntype, counts in _counts(graph).items():
            if any(count not in self.masks for count in counts):
                most = max(counts)
                mask = self.masks[most] if most in self.masks else self._drawn(graph, ntype, most)
                for count in counts:
                    self.masks.setdefault(count, mask[:count])

    def _drawn(self, graph, ntype, number):
        nodes = graph.srcnodes if ntype in graph.srctypes else graph.dstnodes
        known = nodes[ntype].data.get(DEGREE_RANK)
        ranks = _ranks_of_graphs.get(graph, degree_ranks)[ntype] if known is None else known
        least, most = self.protect
        seed = self.seed ^ zlib.crc32(ntype.encode())
        return chances(torch.Size([number]), seed, graph.device) < least + (most - least) * ranks


def protects(model: nn.Module) -> bool:
    """Whether forwards of ``model`` in training protect nodes."""
    configs = [getattr(getattr(module, "lowbit_hook", module), "config", None) for module in model.modules()]
    return any(getattr(config, "protect", None) is not None for config in configs)


class _Thread(threading.local):
    protection: Protection | None = None


_thread = _Thread()
_drawing: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # modules that have drawn


@contextmanager
def protecting(module: nn.Module, config: Any, given: Any) -> Iterator[None]:
    """The forward of ``module``, of ``config``, with the arguments ``given``: in training it protects nodes."""
    if config is None or config.protect is None or not module.training or is_aside():
        yield
        return
    is_first = not is_protecting()
    if is_first and is_recomputing():  # quantisers remember whom the first forward has drawn
        if module in _drawing:
            new_seed()  # what is drawn after it is then the same
        yield
        return
    if is_first:
        _drawing.add(module)
        _thread.protection = Protection(config.protect, new_seed())
    try:
        for leaf in leaves(given):
            if isinstance(leaf, DGLGraph):
                meet(leaf)
        yield
    finally:
        if is_first:
            _thread.protection = None


def is_protecting() -> bool:
    """Whether the thread is in a forward that protects nodes."""
    return _thread.protection is not None


def meet(graph: DGLGraph) -> None:
    """Let the forward under way protect nodes of ``graph``, where it does."""
    if _thread.protection is not None:
        _thread.protection.meet(graph)


def protected_rows(*numbers: int) -> torch.Tensor | None:
    """Which of so many rows, side by side, are those of protected nodes, (rows,) bool; None where none is."""
    masks = {} if _thread.protection is None else _thread.protection.masks
    return side_by_side([masks.get(number) for number in numbers], numbers)


def protected_messages(sources: Callable[[], torch.Tensor], nodes: int) -> torch.Tensor | None:
    """Which of the edges that leave ``sources()``, (E,), of so many ``nodes``, leave a protected one, (E,) bool."""
    mask = protected_rows(nodes)
    return None if mask is None else mask[sources().long()]


def side_by_side(masks: Sequence[torch.Tensor | None], numbers: Sequence[int]) -> torch.Tensor | None:
    """One mask of ``masks`` of so many rows each, where None protects none of them; None where all are."""
    known = [mask for mask in masks if mask is not None]
    if not known or len(masks) == 1:
        return masks[0] if known else None
    return torch.cat([known[0].new_zeros(n) if mask is None else mask for mask, n in zip(masks, numbers)])
