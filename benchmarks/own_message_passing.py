"""A user's own GCN, GAT and GIN, written with DGL's message functions, against the layer classes: accuracy over seeds.

    python benchmarks/own_message_passing.py [--graph cora] [--seeds 5] [--epochs 200] [--models GCN,GAT,GIN]

Both start from the same weights and train with ``dgl_lowbit.fit``. dgl.nn's layers become low-bit layers; of the user's
own the linear layers do, and sums, scores and attention are coded where DGL runs them.
"""

from __future__ import annotations

import argparse

import dgl
import dgl.function as fn
import dgl.nn
import torch
import torch.nn.functional as F
from dgl.nn.functional import edge_softmax
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.experiments.data import load_graph, num_classes
from dgl_lowbit.report import mean_std, table
from dgl_lowbit.training import accuracy, predict

BITS = (4, 2)


class OwnGCN(nn.Module):
    def __init__(self, in_feats, out_feats):
        super().__init__()
        self.linear, self.bias = nn.Linear(in_feats, out_feats, bias=False), nn.Parameter(torch.zeros(out_feats))

    def forward(self, graph, feat):
        with graph.local_scope():
            norm = graph.in_degrees().clamp(min=1).float().sqrt().reciprocal().unsqueeze(-1)
            graph.ndata["h"] = self.linear(feat) * norm
            graph.update_all(fn.copy_u("h", "m"), fn.sum("m", "h"))
            return graph.ndata["h"] * norm + self.bias


class OwnGAT(nn.Module):
    def __init__(self, in_feats, out_feats, heads):
        super().__init__()
        self.left, self.right = (nn.Parameter(torch.zeros(1, heads, out_feats)) for _ in range(2))
        self.bias, self.heads = nn.Parameter(torch.zeros(heads * out_feats)), heads
        self.linear, self.dropout = nn.Linear(in_feats, heads * out_feats, bias=False), nn.Dropout(0.6)

    def forward(self, graph, feat):
        with graph.local_scope():
            h = self.linear(self.dropout(feat)).unflatten(-1, (self.heads, -1))
            graph.ndata["h"] = h
            graph.ndata["l"], graph.ndata["r"] = ((h * x).sum(-1, keepdim=True) for x in (self.left, self.right))
            graph.apply_edges(fn.u_add_v("l", "r", "e"))
            graph.edata["a"] = self.dropout(edge_softmax(graph, F.leaky_relu(graph.edata["e"], 0.2)))
            graph.update_all(fn.u_mul_e("h", "a", "m"), fn.sum("m", "h"))
            return graph.ndata["h"] + self.bias.view(self.heads, -1)


class OwnGIN(nn.Module):
    def __init__(self, apply_func):
        super().__init__()
        self.apply_func = apply_func

    def forward(self, graph, feat):
        with graph.local_scope():
            graph.ndata["h"] = feat
            graph.update_all(fn.copy_u("h", "m"), fn.sum("m", "h"))
            return self.apply_func(feat + graph.ndata["h"])


def mlp(in_feats, out_feats):
    return nn.Sequential(nn.Linear(in_feats, 64), nn.ReLU(), nn.Linear(64, out_feats))


class Net(nn.Module):
    """Two convolutions, with a linear layer before them where ``first`` is given."""

    def __init__(self, convs, first=None, activation=F.relu, dropout=0.5):
        super().__init__()
        self.first, self.convs = first, nn.ModuleList(convs)
        self.activation, self.dropout = activation, nn.Dropout(dropout)

    def forward(self, graph, feat):
        if self.first is not None:
            feat = self.activation(self.first(self.dropout(feat)))
        h = self.activation(self.convs[0](graph, self.dropout(feat)))
        h = self.convs[1](graph, self.dropout(h.flatten(1)))
        return h if h.dim() == 2 else h.mean(1)


def gcn(width, classes, own):
    make = OwnGCN if own else dgl.nn.GraphConv
    return Net([make(width, 64), make(64, classes)])


def gat(width, classes, own):
    def make(in_feats, out_feats, heads):
        return OwnGAT(in_feats, out_feats, heads) if own else dgl.nn.GATConv(in_feats, out_feats, heads, 0.6, 0.6)

    return Net([make(width, 8, 8), make(64, classes, 1)], activation=F.elu, dropout=0.0)


def gin(width, classes, own):
    make = OwnGIN if own else dgl.nn.GINConv
    return Net([make(mlp(64, 64)), make(mlp(64, classes))], first=nn.Linear(width, 64))


MODELS = {"GCN": gcn, "GAT": gat, "GIN": gin}


def pair(make, graph, seed):
    """A model of layer classes and its own-message-passing twin, with the same weights."""
    torch.manual_seed(seed)
    models = [make(graph.ndata["feat"].shape[1], num_classes(graph), own) for own in (False, True)]
    with torch.no_grad():
        by_shape = (sorted(model.parameters(), key=lambda p: (p.dim(), p.numel())) for model in models)
        for theirs, own in zip(*by_shape):
            own.copy_(theirs if theirs.shape == own.shape else theirs.t())
    return models


def run(model, graph, seed, epochs):
    """Test accuracy by width, at the best validation epoch."""
    fitted = lowbit.fit(model, graph, lowbit.QuantConfig(BITS[0]), epochs=epochs, seed=seed, progress=False)
    results = {32: accuracy(predict(model, graph), graph), BITS[0]: accuracy(predict(fitted.model, graph), graph)}
    for bits in BITS[1:]:
        config = lowbit.QuantConfig(bits)
        fitted = lowbit.fit(model, graph, config, epochs=epochs, float_epochs=0, seed=seed, progress=False)
        results[bits] = accuracy(predict(fitted.model, graph), graph)
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graph", default="cora")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--models", default=",".join(MODELS))
    options = parser.parse_args()
    graph, rows = dgl.add_self_loop(load_graph(options.graph)), []
    for name in options.models.split(","):
        pairs = [pair(MODELS[name], graph, seed) for seed in range(options.seeds)]
        classes, own = (
            [run(models[side], graph, seed, options.epochs) for seed, models in enumerate(pairs)] for side in (0, 1)
        )
        for bits in (32, *BITS):
            of_classes, of_own = ([results[bits] for results in runs] for runs in (classes, own))
            change = 100 * (sum(of_own) - sum(of_classes)) / len(of_own)
            label = "float32" if bits == 32 else f"INT{bits}"
            rows.append([name, label, mean_std(of_classes), mean_std(of_own), f"{change:+.2f}"])
    print(f"{options.graph}, {options.seeds} seeds, test accuracy (%) at the best validation epoch\n")
    print(table(["model", "bits", "layer classes", "own message passing", "difference"], rows))


if __name__ == "__main__":
    main()
