"""Edges that leave the graph they were learned on."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dgl
import torch
from torch import nn

from ..trees import mapped
from .gates import attach

_CHILD = "edges"


class OtherGraphWarning(UserWarning):
    """Edges were learned on one graph, and another came, which is used whole."""


class EdgeGate(nn.Module):
    """Lets a model see a graph without its dead edges: its child ``edges``, and its hook.

    While ``watched`` is a list, the graph is seen whole, and each layer's edge weights, 1 or 0, are put there.
    """

    mask: torch.Tensor
    watched: list | None
    _kept: Any
    _of: torch.Tensor | None

    def __init__(self, model: nn.Module, graph: dgl.DGLGraph, share: float):
        super().__init__()
        self.graph, self.watched = graph, None
        self._kept, self._of = None, None  # the graph that is left, and by which mask
        self.register_buffer("mask", torch.ones(graph.num_edges(), dtype=torch.bool, device=graph.device))
        self.layers = _weighted(model)
        self.least = int(self.protected(torch.zeros(len(self.mask), device=graph.device)).isinf().sum())
        if round(share * len(self.mask)) > len(self.mask) - self.least:
            raise ValueError(
                f"edges={share} of {len(self.mask)} cannot leave: loops and one in-edge of every node stay, "
                f"{self.least}; prune at most {1 - self.least / len(self.mask):.2f} of them."
            )
        attach(model, _CHILD, self)

    def forward(self, model, args, kwargs):
        return mapped((args, kwargs), self._seen)

    def _seen(self, part):
        return self.of(part) if isinstance(part, dgl.DGLGraph) and self.watched is None else part

    def of(self, graph: dgl.DGLGraph) -> dgl.DGLGraph:
        """``graph`` without its dead edges; one with others than were learned on as it is, with a warning."""
        if bool(self.mask.all()) or graph is self._kept:
            return graph
        if _is_same(graph, self.graph):
            return self.kept
        if not _is_same(graph, self.kept):
            warnings.warn(
                f"edges were pruned on a graph of {self.graph.num_edges()} edges, this one has {graph.num_edges()}; it "
                "is used whole. Pruner(…, edges=None) prunes what holds for every graph.",
                OtherGraphWarning, stacklevel=4,
            )  # fmt: skip
        return graph

    @property
    def kept(self) -> dgl.DGLGraph:
        """The graph of the edges that are alive, with all nodes and their data."""
        if self._of is None or not torch.equal(self._of, self.mask):
            self._of = self.mask.clone()
            alive = self.mask.nonzero().flatten().to(self.graph.idtype)
            self._kept = dgl.edge_subgraph(self.graph, alive, relabel_nodes=False)
            self._kept.edata.pop(dgl.EID)
        return self._kept

    def protected(self, scores: torch.Tensor) -> torch.Tensor:
        """``scores`` of edges, infinite where they stay: loops, and of a node without one its best living in-edge."""
        source, destination = self.graph.edges(order="eid")
        loops = source == destination
        has_loop = torch.zeros(self.graph.num_nodes(), dtype=torch.bool, device=loops.device)
        has_loop[destination[loops].long()] = True
        order = scores.masked_fill(~self.mask, -torch.inf).argsort(descending=True, stable=True)
        places, count = torch.arange(len(order), device=order.device), len(order)
        first = torch.full((len(has_loop),), count, device=order.device)
        first.scatter_reduce_(0, destination[order].long(), places, "amin")
        best = order[first[~has_loop & (first < count)]]
        stays = loops.index_fill(0, best, True)
        return scores.masked_fill(stays, torch.inf)

    @contextmanager
    def watching(self) -> Iterator[list]:
        """Within, layers see the whole graph and are given edge weights with gradients, which are put into the list."""
        hooks = [layer.register_forward_pre_hook(self._weigh, with_kwargs=True) for layer in self.layers]
        self.watched = []
        try:
            yield self.watched
        finally:
            self.watched = None
            for hook in hooks:
                hook.remove()

    def _weigh(self, layer, args, kwargs):
        weight = self.mask.float().requires_grad_()
        self.watched.append(weight)
        names = list(inspect.signature(layer.forward).parameters)
        given = dict(zip(names, args), **kwargs)
        given["edge_weight"] = weight if given.get("edge_weight") is None else given["edge_weight"] * weight
        return (), given


def _weighted(model):
    """The layers that send messages along edges, all of which must take weights of edges."""
    convolutions = [
        (name, module)
        for name, module in model.named_modules()
        if type(module).__module__.startswith("dgl.nn.pytorch.conv") or getattr(type(module), "float_class", None)
    ]
    convolutions = [(name, module) for name, module in convolutions if not isinstance(module, nn.Linear)]
    others = [n for n, m in convolutions if "edge_weight" not in inspect.signature(m.forward).parameters]
    if others or not convolutions:
        what = f"{', '.join(others)} takes none" if others else f"{type(model).__name__} holds none of dgl.nn"
        raise ValueError(
            f"edges are judged by weights that layers of dgl.nn take as edge_weight, but {what}; leave edges=None."
        )
    return [module for _, module in convolutions]


def _is_same(graph, other):
    """Whether two graphs have the same edges in the same order."""
    if graph is other:
        return True
    counts = [(g.num_nodes(), g.num_edges()) for g in (graph, other)]
    if graph.is_block or counts[0] != counts[1]:
        return False
    return all(torch.equal(a, b) for a, b in zip(graph.edges(order="eid"), other.edges(order="eid")))
