"""Which rows of a model's output are compared."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import torch
from dgl import DGLGraph

Parts = dict[Hashable, torch.Tensor]


def log_probabilities(output: Any, rows: Mapping) -> list[torch.Tensor]:
    """Of the ``rows`` of each tensor of an output, see :func:`rows_of`."""
    return [part[rows[key]].double().log_softmax(-1) for key, part in _parts(output).items()]


def rows_of(output: Any, nodes: Any, values: Iterable) -> dict:
    """An index of rows for each tensor of an output.

    Parameters
    ----------
    output : tensor, or a dict, tuple or list of tensors
    nodes : tensor or dict of tensors, optional
        As of :func:`dgl_lowbit.allocate`.
    values : iterable
        What the model was called with; graphs of it are searched for validation nodes where there are no ``nodes``.

    Raises
    ------
    ValueError
        For other outputs, for ``nodes`` that do not fit them, and where no row is left.
    """
    parts = _parts(output)
    nodes = _validation_nodes(values, parts) if nodes is None else nodes
    if not isinstance(nodes, Mapping):
        nodes = dict.fromkeys(parts, nodes)
    if unknown := nodes.keys() - parts.keys():
        raise ValueError(f"nodes has keys that the output has not: {', '.join(map(repr, unknown))}.")
    rows = {key: _index(nodes.get(key), part) for key, part in parts.items()}
    if not sum(len(part[rows[key]]) for key, part in parts.items()):
        raise ValueError("nodes chooses no row of the output, so that there is nothing to compare.")
    return rows


def _parts(output) -> Parts:
    """The tensors of an output by key, by number in a sequence."""
    if isinstance(output, Mapping):
        parts = dict(output)
    else:
        parts = dict(enumerate(output)) if isinstance(output, (tuple, list)) else {None: output}
    if not all(isinstance(part, torch.Tensor) for part in parts.values()):
        raise ValueError(f"an output is compared as tensors, by key or in a sequence; got {type(output).__name__}.")
    return parts


def _index(nodes, part):
    if nodes is None:
        return slice(None)
    try:
        index = torch.as_tensor(nodes)
        fits = index.dim() == 1 and part[index].dim() == part.dim()
    except (IndexError, TypeError, ValueError, RuntimeError):
        fits = False
    if not fits:
        raise ValueError(f"nodes must be a mask, or integers, of the {len(part)} rows of the output.")
    return index


def _validation_nodes(values, parts):
    """Masks of validation nodes in a graph that the output has rows of; None, all, without any."""
    for graph in values:
        if isinstance(graph, DGLGraph):
            types = {kind: kind for kind in graph.dsttypes}
            if len(graph.ntypes) == 1:
                types[None] = graph.ntypes[0]
            found = {key: graph.dstnodes[types[key]].data.get("val_mask") for key in parts if key in types}
            masks = {key: mask for key, mask in found.items() if _masks(mask, parts[key])}
            if masks:
                return {key: masks.get(key, torch.zeros(len(part), dtype=torch.bool)) for key, part in parts.items()}
    return None


def _masks(mask, part):
    return mask is not None and mask.dtype == torch.bool and mask.shape == part.shape[:1] and bool(mask.any())
