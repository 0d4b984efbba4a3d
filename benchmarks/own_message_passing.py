"""A user's own GCN, GAT and GIN, written with DGL's message functions, against the layer classes: accuracy and speed.

    python benchmarks/own_message_passing.py [--graph cora] [--seeds 5] [--epochs 200] [--models GCN,GAT,GIN]
    python benchmarks/own_message_passing.py --speed [--graph 170k] [--threads 1] [--rounds 5]

Both start from the same weights and train with ``dgl_lowbit.fit``. dgl.nn's layers become low-bit layers; of the user's
own the linear layers do, and sums, scores and attention are coded where DGL runs them. ``--speed`` times them packed at
2 bits, in turn, and a model whose messages are a function of torch operations beside DGL's float32.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import dgl
import dgl.function as fn
import dgl.nn
import torch
import torch.nn.functional as F
from dgl.nn.functional import edge_softmax
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.experiments.bench.work import SYNTHETIC, skewed_graph
from dgl_lowbit.experiments.data import load_graph, num_classes
from dgl_lowbit.experiments.tables import show
from dgl_lowbit.report import mean_std, table
from dgl_lowbit.training import accuracy, predict
from numba_kernels.run.runtime import launching

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


class OwnFunction(nn.Module):
    """Messages by a function of one's own."""

    def __init__(self, in_feats, out_feats):
        super().__init__()
        self.linear = nn.Linear(in_feats, out_feats)

    @staticmethod
    def message(edges):
        source, target = edges.src["h"], edges.dst["h"]
        return {"m": F.relu(source - target) * torch.sigmoid(source + target)}

    def forward(self, graph, feat):
        with graph.local_scope():
            graph.ndata["h"] = self.linear(feat)
            graph.update_all(self.message, fn.sum("m", "h"))
            return graph.ndata["h"]


def pair(make, width, classes, seed):
    """A model of layer classes and its own-message-passing twin, with the same weights."""
    torch.manual_seed(seed)
    models = [make(width, classes, own) for own in (False, True)]
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


def packed(model, width):
    """The model at 2 bits, calibrated and captured on a small graph."""
    graph = dgl.add_self_loop(dgl.rand_graph(300, 1500))
    feat = torch.randn(300, width)
    low_bit = lowbit.calibrate(lowbit.quantize(model, lowbit.QuantConfig(2), graph, feat), graph, feat).eval()
    return lowbit.freeze(low_bit, graph, feat)


def speeds(name, threads, rounds):
    """Rows of a table: seconds of DGL's float32, of own message passing packed and of packed layer classes, in turn."""
    torch.manual_seed(0)
    dgl.seed(0)
    torch.set_num_threads(threads)
    graph, rows = dgl.add_self_loop(skewed_graph(*SYNTHETIC[name])), []
    feat = torch.randn(graph.num_nodes(), 128)
    models = {label: [model.eval() for model in pair(make, 128, 40, 0)] for label, make in MODELS.items()}
    models["function"] = [None, OwnFunction(128, 32).eval()]
    for label, (classes, own) in models.items():
        sides = {"DGL": own, "own": packed(own, 128), **({} if classes is None else {"classes": packed(classes, 128)})}
        seconds = {side: [] for side in sides}
        with torch.no_grad(), launching(threads):
            for _ in range(1 + rounds):
                for side, model in sides.items():
                    start = time.perf_counter()
                    model(graph, feat)
                    seconds[side].append(time.perf_counter() - start)
        taken = {side: statistics.median(times[1:]) for side, times in seconds.items()}
        to_classes = f"{taken['classes'] / taken['own']:.2f}x" if "classes" in taken else "-"
        shown = [f"{1e3 * taken[side]:.0f} ms" if side in taken else "-" for side in ("DGL", "own", "classes")]
        rows.append([label, *shown, to_classes, f"{taken['DGL'] / taken['own']:.1f}x"])
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graph", help="default: cora, or 170k with --speed")
    parser.add_argument("--speed", action="store_true", help="time packed models in the place of training")
    parser.add_argument("--threads", type=int, default=1, help="with --speed; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="with --speed; default: %(default)s")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the table there as well")
    options = parser.parse_args()
    if options.speed:
        rows = speeds(options.graph or "170k", options.threads, options.rounds)
        header = ["model", "DGL float32", "own, INT2", "classes, INT2", "own to classes", "own to DGL"]
        show(table(header, rows), options.table)
        return
    name = options.graph or "cora"
    graph, rows = dgl.add_self_loop(load_graph(name)), []
    width, labels = graph.ndata["feat"].shape[1], num_classes(graph)
    for model in options.models.split(","):
        pairs = [pair(MODELS[model], width, labels, seed) for seed in range(options.seeds)]
        classes, own = (
            [run(models[side], graph, seed, options.epochs) for seed, models in enumerate(pairs)] for side in (0, 1)
        )
        for bits in (32, *BITS):
            of_classes, of_own = ([results[bits] for results in runs] for runs in (classes, own))
            change = 100 * (sum(of_own) - sum(of_classes)) / len(of_own)
            label = "float32" if bits == 32 else f"INT{bits}"
            rows.append([model, label, mean_std(of_classes), mean_std(of_own), f"{change:+.2f}"])
    print(f"{name}, {options.seeds} seeds, test accuracy (%) at the best validation epoch\n")
    show(table(["model", "bits", "layer classes", "own message passing", "difference"], rows), options.table)


if __name__ == "__main__":
    main()
