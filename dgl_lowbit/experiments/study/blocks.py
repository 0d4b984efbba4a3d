"""Training on blocks in the ways that studies compare, and how far sums over sampled neighbours are from whole ones."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import dgl
import torch
import torch.nn.functional as F

from ...nn.neighbours import Neighbours
from ...nn.watching import watching_sums
from ...quant.evaluation import evaluating
from ...training import BanditSampler, Fitted, fit, predict

BATCH = 512
# Batches that errors of sums are means over.
_BATCHES = 4


class Way(NamedTuple):
    """A way to train: with which sampler, none for the whole graph, and whether with a history."""

    sampler: Any = None
    history: bool = False


WAYS = {
    "whole": Way(),
    "sampled": Way(dgl.dataloading.NeighborSampler),
    "history": Way(dgl.dataloading.NeighborSampler, history=True),
    "bandit": Way(BanditSampler),
    "labor": Way(dgl.dataloading.LaborSampler),
}


def fit_on_blocks(model, graph, config, blocks: dict, options: dict) -> tuple[Fitted, dict[str, float]]:
    """Fit a fresh model in the way that ``blocks`` say, and the figures of it.

    Parameters
    ----------
    model : torch.nn.Module
        Float, not trained.
    graph : DGLGraph
    config : QuantConfig
    blocks : dict
        ``way``, one of :data:`WAYS`, and ``fanouts``.
    options : dict
        Of :func:`dgl_lowbit.fit`.

    Returns
    -------
    Fitted
    dict
        ``memory``, bytes of the history as a part of those of float32, and those of :func:`sums_on_blocks`.
    """
    way = WAYS[blocks["way"]]
    if way.sampler is None:
        return fit(model, graph, config, **options), {}
    sampler = way.sampler(blocks["fanouts"])
    for layer in model.modules():
        if hasattr(layer, "set_allow_zero_in_degree"):  # LABOR may draw none of a node's neighbours
            layer.set_allow_zero_in_degree(True)
    fitted = fit(model, graph, config, sampler=sampler, batch_size=BATCH, history=way.history, **options)
    figures = sums_on_blocks(fitted.model, graph, sampler, way.history, options["seed"])
    if way.history:
        rows = fitted.history.messages
        figures["memory"] = sum(row["bytes"] for row in rows) / sum(row["float_bytes"] for row in rows)
    predict(fitted.model, graph)  # what it is frozen with
    return fitted, figures


def sums_on_blocks(model, graph, sampler, with_history: bool, seed: int) -> dict[str, float]:
    """What sums over neighbours on sampled blocks are like.

    ``sum_error`` is the mean ‖ẑ − z‖² as a part of the mean ‖z‖², over nodes and layers, and ``inputs`` how many nodes
    a batch reads features of. ẑ is the mean of the sampled messages times the degree; with a history the sum of the
    messages that the block has and of those, of all other neighbours, that were sent before the last step of Adam.
    Blocks are of all nodes.
    """
    torch.manual_seed(seed)
    dgl.seed(seed)
    graph, model = graph.long(), copy.deepcopy(model)
    before = _sent(model, graph, len(sampler.fanouts))
    _step(model, graph, len(sampler.fanouts))
    now, neighbours = _sent(model, graph, len(sampler.fanouts)), Neighbours(graph)
    error = norm = inputs = 0.0
    for nodes in torch.randperm(graph.num_nodes()).split(BATCH)[:_BATCHES]:
        read, _, blocks = sampler.sample_blocks(graph, nodes)
        inputs += len(read) / _BATCHES
        for block, sent, sent_before in zip(blocks, now, before):
            sources, targets = block.srcdata[dgl.NID], block.dstdata[dgl.NID]
            edges, count = neighbours.of(targets), len(targets)
            whole = neighbours.sums(edges, count, sent.__getitem__)
            if with_history:
                known = sent_before.clone()
                known[sources] = sent[sources]
                guess = neighbours.sums(edges, count, known.__getitem__)
            else:
                mean = dgl.ops.copy_u_mean(block, sent[sources])
                guess = mean * graph.in_degrees(targets).unsqueeze(1)
            error += (guess - whole).square().sum().item()
            norm += whole.square().sum().item()
    return {"sum_error": error / norm, "inputs": inputs}


def _sent(model, graph, layers):
    """What all nodes send in each layer."""
    with evaluating(model), torch.no_grad(), watching_sums() as sums:
        model([graph] * layers, graph.ndata["feat"])
    return [part.sent for part in sums]


def _step(model, graph, layers):
    """A step of training on the whole graph."""
    optimizer, mask = torch.optim.Adam(model.parameters(), lr=0.01), graph.ndata["train_mask"]
    logits = model.train()([graph] * layers, graph.ndata["feat"])
    F.cross_entropy(logits[mask], graph.ndata["label"][mask]).backward()
    optimizer.step()
