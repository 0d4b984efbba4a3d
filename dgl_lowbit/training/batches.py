"""What a training step sees: the whole graph, or blocks sampled for some of its nodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import dgl
import torch

from ..nn.checks import check_is_graph
from .features import check_features, rows_of
from .sampling import fetched_ahead, sampled

_MASKS = ("train_mask", "val_mask", "test_mask")
_NEEDED = ("feat", "label", *_MASKS)


class Batch(NamedTuple):
    """A step's arguments: what the model is called with, the nodes of its logits, and which of them are labelled."""

    graph: Any
    feat: Any
    nodes: torch.Tensor | slice
    labelled: torch.Tensor


def check_graph(graph: dgl.DGLGraph, feat=None) -> None:
    """Raise ValueError unless ``graph`` is a DGLGraph of one node type whose ``ndata`` has what training reads.

    Features may be given as ``feat`` in the place of the graph's.
    """
    check_is_graph(graph, "training", ValueError)
    if len(graph.ntypes) > 1:
        raise ValueError(f"training reads graphs of one node type, got {graph.ntypes}; train with a loop of your own.")
    if feat is not None:
        check_features(feat, graph.num_nodes())
    check_names(graph.ndata, "graph.ndata", feat is None)
    for key in _MASKS:
        mask = graph.ndata[key]
        if mask.dtype != torch.bool:
            raise unfit(f"graph.ndata[{key!r}]", "a bool mask", mask.dtype, ".bool()")
        if not mask.any():
            raise ValueError(f"graph.ndata[{key!r}] must hold at least one node.")
    label = graph.ndata["label"]
    if label.dtype != torch.int64:
        raise unfit("graph.ndata['label']", "of whole numbers, int64", label.dtype, ".long()")
    is_used = graph.ndata["train_mask"] | graph.ndata["val_mask"] | graph.ndata["test_mask"]
    check_label(int(label[is_used].min()), "graph.ndata['label']")


def check_names(ndata, where: str, with_features: bool = True) -> None:
    """Raise ValueError unless ``ndata``, ``where`` it stands, has what training reads, in its dtypes and shapes."""
    missing = [key for key in _NEEDED if key not in ndata and (with_features or key != "feat")]
    if missing:
        raise ValueError(
            f"{where} lacks {', '.join(missing)}; it is to hold features 'feat' (N, D), classes 'label' (N,), and "
            "bool masks (N,) of the nodes to train, validate and test on."
        )
    label = ndata["label"]
    if with_features and not ndata["feat"].dtype.is_floating_point:
        raise unfit(f"{where}['feat']", "in floating point", ndata["feat"].dtype, ".float()")
    for key in _MASKS:
        shape = tuple(ndata[key].shape)
        if len(shape) != 1:
            raise unfit(f"{where}[{key!r}]", "a mask of shape (N,)", f"shape {shape}", "[:, 0], one of its splits")
    shape = tuple(label.shape)
    if len(shape) != 1:
        is_column = shape[1:].count(1) == len(shape) - 1
        instead = ".flatten()" if is_column else ".argmax(1)"
        raise unfit(f"{where}['label']", "of shape (N,)", f"shape {shape}", instead)


def check_label(lowest: int, where: str) -> None:
    """Raise ValueError when the ``lowest`` label under a mask is none."""
    if lowest < 0:
        raise ValueError(
            f"{where} must be a class from 0 on wherever a mask is set, got {lowest}; take nodes without a class out "
            "of the masks."
        )


def unfit(name: str, expected: str, got: object, instead: str) -> ValueError:
    """The error of data that is not as ``expected``, with what is to be written ``instead``."""
    return ValueError(f"{name} must be {expected}, got {got}; write {name} = {name}{instead}.")


def as_sampled(graph: dgl.DGLGraph, sampler) -> dgl.DGLGraph:
    """``graph``, with int64 ids where a ``sampler`` is to make blocks of it: DGL 1.1.3 crashes on several of int32."""
    return graph if sampler is None else graph.long()


def whole_graph(graph: dgl.DGLGraph, sampler) -> Any:
    """What a model is called with to see the whole graph: the graph, or it once for each block of ``sampler``."""
    if sampler is None:
        return graph
    graph = as_sampled(graph, sampler)
    blocks = sampler.sample_blocks(graph, torch.zeros(1, dtype=graph.idtype, device=graph.device))[2]
    return [graph] * len(blocks)


def batches(
    graph: dgl.DGLGraph, feat, sampler, batch_size: int, with_others: bool, num_workers: int = 0
) -> Iterator[Batch]:
    """The steps of an epoch over the labelled nodes; ``with_others`` adds as many nodes that are not.

    Features of a batch are fetched while the step before trains; ``close()`` the iterator if it is left early.
    """
    train_mask = graph.ndata["train_mask"]
    if sampler is None:
        yield Batch(graph, feat, slice(None), train_mask)
        return
    labelled = train_mask.nonzero().flatten()
    others = (~train_mask).nonzero().flatten()
    labelled = labelled[torch.randperm(len(labelled))]
    others = others[torch.randperm(len(others))] if with_others else others[:0]
    chosen = [
        torch.cat([some, others[start : start + len(some)]]).to(graph.idtype)
        for start, some in zip(range(0, len(labelled), batch_size), labelled.split(batch_size))
    ]

    def fetch(drawn):
        sources, nodes, blocks = drawn
        nodes = nodes.long()
        return Batch(blocks, rows_of(feat, sources.long()), nodes, train_mask[nodes])

    ahead = fetched_ahead if graph.device.type == "cpu" else map  # a GPU's streams belong to threads
    with sampled(graph, sampler, chosen, num_workers) as blocks:
        yield from ahead(fetch, blocks)
