"""What tells one run of training from another, in words that a checkpoint keeps."""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import dgl
import numpy as np
import torch
from torch import nn

from ..nn import LowBitLayer
from ..nn.stored import is_store


def graph_identity(graph: dgl.DGLGraph) -> dict[str, Any]:
    """Numbers of nodes and edges of a graph, and a digest of its edges, features and labels, in plain values."""
    data = [graph.ndata[name] for name in ("feat", "label") if name in graph.ndata]
    return {"nodes": graph.num_nodes(), "edges": graph.num_edges(), "digest": _digest([*_edges(graph), *data])}


def content_of(graph: dgl.DGLGraph, feat) -> str:
    """What tells a graph that is trained on from others: its size, and a digest of its edges and data with ``feat``."""
    data = [graph.ndata[name] for name in ("label", "train_mask", "val_mask", "test_mask")]
    known, stored = ([], f", features {feat.digest()}") if is_store(feat) else ([feat], "")
    content = _digest([*_edges(graph), *known, *data])
    return f"{graph.num_nodes()} nodes, {graph.num_edges()} edges, content {content}{stored}"


def identity_of(model: nn.Module, content: str, teacher: nn.Module | None, **others: Any) -> dict[str, Any]:
    """Plain values by name: the config of each low-bit layer, the graph's ``content``, the teacher with its state.

    ``others`` are objects that take part, as samplers and transforms, described by what they are made of.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LowBitLayer)}
    state = {} if teacher is None else teacher.state_dict()
    return {
        "config": {name: layer.config.to_dict() for name, layer in layers.items() if layer.config is not None},
        "graph": content,
        "teacher": teacher and f"{type(teacher).__name__}, state {_digest([state[key] for key in sorted(state)])}",
        **{name: described(value) for name, value in others.items()},
    }


def blocks_of(sampler: Any, stand_for_whole: bool) -> Any:
    """What blocks of a run are told by: its sampler, and whether sums on them stand for whole neighbourhoods."""
    return [sampler, "sums stand for whole neighbourhoods"] if stand_for_whole else sampler


def differences(was: Any, now: Any, name: str) -> list[str]:
    """How two values of a setting differ, one sentence each; of dicts entry by entry."""
    if isinstance(was, dict) and isinstance(now, dict):
        keys = [*now, *(key for key in was if key not in now)]
        return [text for key in keys for text in differences(was.get(key), now.get(key), f"{name} of {key}")]
    return [] if was == now else [f"{name} was {was!r}, is {now!r}"]


def _edges(graph):
    """Sources and destinations of the edges of each type, in the order of their ids."""
    return [part for kind in graph.canonical_etypes for part in graph.edges(order="eid", etype=kind)]


def _digest(tensors):
    digest = hashlib.blake2b(digest_size=6)
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


_PLAIN = (bool, int, float, str, type(None))


def described(value: Any) -> Any:
    """Plain values; of a function or class its name, with the plain values and lists that an object is made of."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, functools.partial):
        parts = [value.func, *value.args, *value.keywords.items()]
        return f"partial({', '.join(map(str, described(parts)))})"
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, (list, tuple)):
        return [described(part) for part in value]
    if isinstance(value, dict):
        return {name: described(part) for name, part in value.items()}
    if hasattr(value, "__qualname__"):
        return value.__qualname__
    made_of = {
        name: described(part)
        for name, part in getattr(value, "__dict__", {}).items()
        if isinstance(part, (*_PLAIN, list, tuple)) and not name.startswith("_")
    }
    return f"{type(value).__name__}({', '.join(f'{name}={part}' for name, part in made_of.items())})"
