"""Models whose channels are tied in the ways there are."""

import dgl
import dgl.nn
import torch
import torch.nn.functional as F
from torch import nn

from dgl_lowbit.pruning import Pruner

FEATS, HIDDEN, CLASSES = 12, 8, 3


def graph(seed=0, nodes=40):
    torch.manual_seed(seed)
    ends = torch.randint(0, nodes, (2, 4 * nodes))
    made = dgl.add_self_loop(dgl.remove_self_loop(dgl.graph(tuple(ends), num_nodes=nodes)))
    made.ndata["feat"] = torch.rand(nodes, FEATS)
    made.ndata["label"] = torch.randint(0, CLASSES, (nodes,))
    parts = torch.arange(nodes) % 3
    for number, name in enumerate(("train_mask", "val_mask", "test_mask")):
        made.ndata[name] = parts == number
    return made


STEPS = {"start": 0, "stop": 2, "every": 1}


def pruned(model, g, **options):
    pruner = Pruner(model, g, **{**STEPS, **options})
    for epoch in range(3):
        pruner.advance(epoch)
    return pruner


def alive(pruner):
    return {row["of"]: (row["alive"], row["total"]) for row in pruner.report()}


class Residual(nn.Module):
    """Sums of layers, a norm, heads, and all of them side by side."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = dgl.nn.GraphConv(FEATS, HIDDEN), nn.BatchNorm1d(HIDDEN)
        for tensor in (self.norm.weight, self.norm.bias, self.norm.running_mean, self.norm.running_var):
            nn.init.uniform_(tensor, 0.5, 1.5)  # no two channels are alike
        self.second = dgl.nn.SAGEConv(HIDDEN, HIDDEN, "mean")
        self.attention = dgl.nn.GATConv(HIDDEN, 4, 3)
        self.jump = dgl.nn.JumpingKnowledge("cat")
        self.last = nn.Linear(HIDDEN + 12, CLASSES)

    def forward(self, graph, feat):
        h = F.relu(self.norm(self.first(graph, feat)))
        h = h + F.relu(self.second(graph, h))
        heads = F.elu(self.attention(graph, h)).flatten(1)
        return self.last(self.jump([h, heads]))


class Plain(nn.Module):
    """Two layers, with what stands between them."""

    def __init__(self, between=None, first=None):
        super().__init__()
        self.first = first or dgl.nn.GraphConv(FEATS, HIDDEN)
        self.between = between or nn.ReLU()
        self.last = dgl.nn.GraphConv(HIDDEN, CLASSES)

    def forward(self, graph, feat):
        return self.last(graph, self.between(self.first(graph, feat)))


class Scaled(Plain):
    """A width in a parameter of the model's own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(HIDDEN))

    def forward(self, graph, feat):
        return self.last(graph, self.first(graph, feat) * self.scale)


class Weighted(nn.Module):
    """Two layers that are called with weights of edges."""

    def __init__(self):
        super().__init__()
        self.first, self.second = dgl.nn.GraphConv(FEATS, HIDDEN), dgl.nn.GraphConv(HIDDEN, CLASSES)

    def forward(self, graph, feat):
        weight = torch.linspace(0.5, 1.5, graph.num_edges())
        return self.second(graph, F.relu(self.first(graph, feat, edge_weight=weight)), edge_weight=weight)


class Kept(nn.Module):
    """What the first layer propagated it keeps."""

    def __init__(self):
        super().__init__()
        self.first, self.second = dgl.nn.SGConv(FEATS, HIDDEN, 2, cached=True), nn.Linear(HIDDEN, HIDDEN)
        self.last = nn.Linear(HIDDEN, CLASSES)

    def forward(self, graph, feat):
        return self.last(F.relu(self.second(self.first(graph, feat))))


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = dgl.nn.GraphConv(FEATS, HIDDEN), nn.BatchNorm1d(HIDDEN)
        self.second = dgl.nn.GraphConv(HIDDEN, CLASSES)

    def forward(self, graph, feat):
        return self.second(graph, F.relu(self.norm(self.first(graph, feat))))
