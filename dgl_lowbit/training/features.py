"""Features that training reads by rows: a tensor, or a store that decodes them."""

from __future__ import annotations

from typing import Any

import psutil
import torch

from ..nn.stored import is_store

# Bytes of float32 up to which all rows of a store are decoded to pass over a whole graph.
MOST_DECODED = 1 << 30


def decoded_bytes(store) -> int:
    """What all rows take in float32."""
    return 4 * store.shape[0] * store.shape[1]


def is_large(feat: Any) -> bool:
    """Whether no more than the rows of some nodes are decoded at a time."""
    return is_store(feat) and decoded_bytes(feat) > MOST_DECODED


def rows_of(feat, nodes: torch.Tensor):
    """Features of nodes, on the device of these."""
    return feat.fetch(nodes, nodes.device) if is_store(feat) else feat[nodes]


def all_rows(feat, device: torch.device):
    """Features of all nodes: those of a store are decoded, anew in each call."""
    return feat[:].to(device) if is_store(feat) else feat


def given_features(graph, feat, sampler):
    """What ``feat=`` names, or those of the graph; without a ``sampler`` a store is decoded once."""
    feat = graph.ndata["feat"] if feat is None else feat
    return feat if sampler is not None else all_rows(feat, graph.device)


def check_features(feat: Any, nodes: int) -> None:
    """Raise ValueError unless ``feat`` is a store or float tensor with a row for each node."""
    if isinstance(feat, dict):
        raise ValueError("feat is a dict; training reads graphs of one node type, so pass one store or tensor.")
    if not isinstance(feat, torch.Tensor) and not is_store(feat):
        raise ValueError(
            f"feat must be a FeatureStore, as dgl_lowbit.compress makes, or a tensor (N, D), got {type(feat).__name__}."
        )
    if not feat.dtype.is_floating_point:
        raise ValueError(f"feat must be in floating point, got {feat.dtype}; pass feat.float().")
    if feat.shape[0] != nodes:
        raise ValueError(f"feat must have a row for each of {nodes} nodes, got {feat.shape[0]} rows.")


def check_store(feat: Any, sampler, sparse, **passes: Any) -> None:
    """Raise ValueError where a store cannot be trained from: ``passes`` are options that pass over the whole graph."""
    if not is_store(feat):
        return
    takes = f"the features of the store take {decoded_bytes(feat) / 2**30:,.1f} GiB decoded"
    if sampler is None:
        room = psutil.virtual_memory().available
        if decoded_bytes(feat) > room:
            raise ValueError(
                f"{takes}, and {room / 2**30:,.1f} GiB of memory are free; pass sampler=, as "
                "dgl.dataloading.NeighborSampler([10, 10]), to decode rows of batches alone."
            )
        return
    if sparse:
        raise ValueError("sparse=True keeps features as floats, which a store is there to avoid; pass one of the two.")
    given = [f"{name}=" for name, value in passes.items() if value]
    if given and is_large(feat):
        raise ValueError(
            f"{takes}, too much for {', '.join(given)}, which passes over the whole graph; leave it out, or pass the "
            "features decoded."
        )
