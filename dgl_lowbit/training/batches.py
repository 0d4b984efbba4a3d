"""What a training step sees: the whole graph, or blocks sampled for some of its nodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import dgl
import torch

_NEEDED = ("feat", "label", "train_mask", "val_mask", "test_mask")
# Share of non-zeros up to which a product over them is faster than a dense one.
_SPARSE_UP_TO = 0.4


class Batch(NamedTuple):
    """A step's arguments: what the model is called with, the nodes of its logits, and which of them are labelled."""

    graph: Any
    feat: Any
    nodes: torch.Tensor | slice
    labelled: torch.Tensor


def check_graph(graph: dgl.DGLGraph) -> None:
    """Raise ValueError unless ``graph.ndata`` has what training reads."""
    missing = [key for key in _NEEDED if key not in graph.ndata]
    if missing:
        raise ValueError(f"graph.ndata lacks {', '.join(missing)}; load_graph shows what fit needs.")
    for key in ("train_mask", "val_mask", "test_mask"):
        if graph.ndata[key].dtype != torch.bool or not graph.ndata[key].any():
            raise ValueError(f"graph.ndata[{key!r}] must be a bool mask with at least one node.")


def whole_graph(graph: dgl.DGLGraph, sampler) -> Any:
    """What a model is called with to see the whole graph: the graph, or it once for each block of ``sampler``."""
    if sampler is None:
        return graph
    blocks = sampler.sample_blocks(graph, torch.zeros(1, dtype=graph.idtype, device=graph.device))[2]
    return [graph] * len(blocks)


def mostly_zero(feat: torch.Tensor) -> bool:
    """Whether so few of the features are not 0 that products over those are faster; judged by some rows."""
    if not (feat.is_cuda or torch.backends.mkl.is_available()):  # torch multiplies sparse matrices through MKL
        return False
    sample = feat[:: max(len(feat) // 1000, 1)]
    return feat.dim() == 2 and int(sample.count_nonzero()) <= _SPARSE_UP_TO * sample.numel()


def batches(graph: dgl.DGLGraph, feat, sampler, batch_size: int, with_others: bool) -> Iterator[Batch]:
    """The steps of an epoch over the labelled nodes; ``with_others`` adds as many nodes that are not."""
    train_mask = graph.ndata["train_mask"]
    if sampler is None:
        yield Batch(graph, feat, slice(None), train_mask)
        return
    labelled = train_mask.nonzero().flatten()
    others = (~train_mask).nonzero().flatten()
    labelled = labelled[torch.randperm(len(labelled))]
    others = others[torch.randperm(len(others))] if with_others else others[:0]
    for start in range(0, len(labelled), batch_size):
        chosen = labelled[start : start + batch_size]
        nodes = torch.cat([chosen, others[start : start + len(chosen)]]).to(graph.idtype)
        sources, nodes, blocks = sampler.sample_blocks(graph, nodes)
        yield Batch(blocks, feat[sources.long()], nodes.long(), train_mask[nodes.long()])
