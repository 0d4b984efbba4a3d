"""What a pruner is given, checked before any work."""

from __future__ import annotations

import dgl
import torch
from torch import nn

from .gates import Gate
from .graphs import EdgeGate

CRITERIA = ("fisher", "random")
# Nodes of the graph on which it is tried which channels are tied.
_TRIED_NODES = 256


def features_of(graph, feat):
    if not isinstance(graph, dgl.DGLGraph) or len(graph.canonical_etypes) != 1:
        raise ValueError("Pruner takes a DGLGraph of one edge type.")
    feat = graph.ndata.get("feat") if feat is None else feat
    if not isinstance(feat, torch.Tensor) or feat.dim() != 2 or not feat.is_floating_point():
        raise ValueError('the graph needs features, (N, D) floats, as ndata["feat"]; or pass them as feat=.')
    return feat


def small_example(graph, feat):
    """Some nodes of a graph, and of features numbers that are all different."""
    count = min(graph.num_nodes(), _TRIED_NODES)
    nodes = torch.arange(count, dtype=graph.idtype, device=graph.device)
    part = dgl.add_self_loop(dgl.remove_self_loop(dgl.node_subgraph(graph, nodes)))
    drawn = torch.Generator().manual_seed(0)
    return part, torch.rand(count, feat.shape[1], generator=drawn).to(feat)


def check(model, shares, start, stop, every, regrow, criterion):
    if not isinstance(model, nn.Module):
        raise ValueError(f"Pruner takes a torch.nn.Module, got {type(model).__name__}.")
    given = {name: share for name, share in shares.items() if share is not None}
    if not given:
        raise ValueError("nothing is to be pruned; give features=, channels= or edges=, the shares that leave.")
    if isinstance(model, nn.Sequential) and set(given) != {"channels"}:
        raise ValueError(
            f"{type(model).__name__} calls whatever it holds as a layer, also what a pruner puts there; make it part "
            "of a module whose forward calls it."
        )
    for name, share in given.items():
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
            raise ValueError(f"{name} is the share that leaves, above 0 and below 1, got {share!r}.")
    for name, number, least in (("start", start, 0), ("stop", stop, start), ("every", every, 1)):
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise ValueError(f"{name} must be a whole number, at least {least}, got {number!r}.")
    if not 0 <= regrow < 1:
        raise ValueError(f"regrow is a share, from 0 to below 1, got {regrow!r}.")
    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be one of {', '.join(CRITERIA)}, got {criterion!r}.")
    names = {name for name, module in model.named_modules() if isinstance(module, (Gate, EdgeGate))}
    if names:
        raise ValueError("the model has a pruner already; squeeze it, or detach that.")
    if any(getattr(module, "is_low_bit", False) for module in model.modules()):
        raise ValueError("the model is low-bit already; prune the float model, squeeze it, then quantize it.")
