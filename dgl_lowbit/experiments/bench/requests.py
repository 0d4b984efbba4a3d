"""Requests: models that meet a new graph with every call, small graphs and sampled blocks."""

from __future__ import annotations

import warnings

import dgl
import dgl.nn
import torch
import torch.nn.functional as F
from torch import nn

from ...calibration import calibrate
from ...config import QuantConfig
from ...convert import quantize
from ...deploy.freeze import freeze
from .work import SYNTHETIC, ThreeLayers, Work, skewed_graph

_GRAPHS = (1, 32, 256)
_SEEDS = (1, 100, 1000)
_NODES, _EDGES, _GRAPH_FEATS, _GRAPH_CLASSES = 25, 60, 32, 10
_FANOUT = 10


class GraphClassifier(nn.Module):
    """GIN (arXiv:1810.00826) 32-64-64-64 with MLPs of two layers, sums over the nodes of a graph, 10 classes."""

    def __init__(self, hidden=64):
        super().__init__()
        widths = [_GRAPH_FEATS, hidden, hidden]
        mlps = [nn.Sequential(nn.Linear(w, hidden), nn.ReLU(), nn.Linear(hidden, hidden)) for w in widths]
        self.convs = nn.ModuleList([dgl.nn.GINConv(mlp, "sum") for mlp in mlps])
        self.pool, self.output = dgl.nn.SumPooling(), nn.Linear(hidden, _GRAPH_CLASSES)

    def forward(self, graph, feat):
        h = feat
        for conv in self.convs:
            h = F.relu(conv(graph, h))
        return self.output(self.pool(graph, h))


def graph_works(bits: tuple, seed: int = 0) -> list[Work]:
    """A classifier of graphs that meets new graphs of 25 nodes: one a call, and batches of them."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count):
        ends = torch.randint(_NODES, (count, 2, _EDGES), generator=generator) + _NODES * torch.arange(count).view(
            -1, 1, 1
        )
        source, target = torch.cat([ends, ends.flip(1)], 2).unbind(1)
        graph = dgl.graph((source.flatten(), target.flatten()), num_nodes=count * _NODES)
        if count > 1:  # as dgl.batch says it, which takes longer than all that is timed
            graph.set_batch_num_nodes(torch.full((count,), _NODES))
            graph.set_batch_num_edges(torch.full((count,), 2 * _EDGES))
        return graph, torch.randn(graph.num_nodes(), _GRAPH_FEATS, generator=generator)

    torch.manual_seed(seed)
    model, example = GraphClassifier().eval(), draw(32)
    return [
        _fresh(f"GIN, {count} new graph{'s' * (count > 1)}", "25 nodes", model, example, bits,
               lambda count=count: draw(count))
        for count in _GRAPHS
    ]  # fmt: skip


def block_works(name: str, bits: tuple, seed: int = 0) -> list[Work]:
    """A three-layer SAGE that meets new blocks, sampled from a synthetic graph with fan-out 10, of so many seeds."""
    graph = skewed_graph(*SYNTHETIC[name], seed).long()
    torch.manual_seed(seed)
    dgl.seed(seed)
    feat = torch.randn(graph.num_nodes(), 128)
    sampler = dgl.dataloading.NeighborSampler([_FANOUT] * 3)

    def draw(count):
        seeds = torch.randperm(graph.num_nodes())[:count]
        inputs, _, blocks = sampler.sample_blocks(graph, seeds)
        return blocks, feat[inputs]

    model = _OnBlocks(lambda i, o: dgl.nn.SAGEConv(i, o, "mean")).eval()
    example = draw(100)
    return [
        _fresh(f"SAGE, new blocks of {count}", name, model, example, bits, lambda count=count: draw(count))
        for count in _SEEDS
    ]


class _OnBlocks(ThreeLayers):
    def forward(self, blocks, feat):
        h = feat
        for i, (layer, block) in enumerate(zip(self.layers, blocks)):
            h = layer(block, F.relu(h) if i else h)
        return h


def _fresh(label, graph, model, example, bits, draw):
    work = Work(label, graph, fresh=draw, functions={"DGL float32": model})
    for b in bits:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            low = quantize(model, QuantConfig(b))
            calibrate(low, *example)
            work.functions[f"INT{b}"] = freeze(low)
    return work
