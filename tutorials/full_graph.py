"""A GCN (arXiv:1609.02907) and a GAT (arXiv:1710.10903) on a whole graph, low-bit with two added lines.

    python tutorials/full_graph.py --graph cora --seeds 5

trains both as their papers describe in float32, on from there at 8 and at 4 bits, and prints a table. All that is
low-bit about this script are the lines marked "added"; what trains is the same function.
"""

import argparse
import sys

import dgl
import dgl.nn
import torch
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.data import load_graph, num_classes
from dgl_lowbit.report import mean_std, table


class GCN(nn.Module):
    def __init__(self, in_feats, classes):
        super().__init__()
        self.conv1 = dgl.nn.GraphConv(in_feats, 16, activation=F.relu)
        self.conv2 = dgl.nn.GraphConv(16, classes)
        self.dropout = nn.Dropout(0.5)

    def forward(self, graph, feat):
        return self.conv2(graph, self.dropout(self.conv1(graph, self.dropout(feat))))


class GAT(nn.Module):
    def __init__(self, in_feats, classes):
        super().__init__()
        self.conv1 = dgl.nn.GATConv(in_feats, 8, num_heads=8, feat_drop=0.6, attn_drop=0.6, activation=F.elu)
        self.conv2 = dgl.nn.GATConv(64, classes, num_heads=1, feat_drop=0.6, attn_drop=0.6)

    def forward(self, graph, feat):
        return self.conv2(graph, self.conv1(graph, feat).flatten(1)).mean(1)


LEARNING_RATES = {"GCN": 0.01, "GAT": 0.005}


def train(model, graph, epochs):
    """Adam on the labelled nodes; returns test accuracy at the best validation accuracy, and leaves those weights."""
    feat, labels, masks = graph.ndata["feat"], graph.ndata["label"], [graph.ndata[f"{s}_mask"] for s in ("val", "test")]
    train_mask = graph.ndata["train_mask"]
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATES[type(model).__name__], weight_decay=5e-4)
    best = (-1.0, 0.0), None
    for _ in range(epochs):
        model.train()
        loss = F.cross_entropy(model(graph, feat)[train_mask], labels[train_mask])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            predicted = model(graph, feat).argmax(1)
        val, test = ((predicted[mask] == labels[mask]).float().mean().item() for mask in masks)
        if val > best[0][0]:
            best = (val, test), {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(best[1])
    return best[0][1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graph", default="planted", help="see dgl-lowbit demo --help; default: an embedded graph")
    parser.add_argument("--model", default="all", choices=["all", "gcn", "gat"])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    rows = []
    for cls in [cls for cls in (GCN, GAT) if args.model in (cls.__name__.lower(), "all")]:
        results = {}
        for seed in range(args.seeds):
            graph = dgl.add_self_loop(load_graph(args.graph, seed))
            feat, test_mask = graph.ndata["feat"], graph.ndata["test_mask"]
            torch.manual_seed(seed)
            float_model = cls(feat.shape[1], num_classes(graph))
            results.setdefault("float32", []).append((train(float_model, graph, args.epochs), float("nan")))
            for bits in (8, 4):
                model = lowbit.quantize(float_model, lowbit.QuantConfig(bits))  # added
                trained = train(model, graph, args.epochs)
                logits = lowbit.freeze(model)(graph, feat)  # added
                packed = (logits.argmax(1) == graph.ndata["label"])[test_mask].float().mean().item()
                results.setdefault(f"INT{bits}", []).append((trained, packed))
            print(f"{cls.__name__}, seed {seed} done", file=sys.stderr, flush=True)
        for bits, runs in results.items():
            trained, packed = zip(*runs)
            rows.append([cls.__name__, bits, mean_std(trained), "-" if bits == "float32" else mean_std(packed)])
    print(f"{args.graph}, {args.seeds} seeds\n\n" + table(["model", "bits", "test accuracy", "packed"], rows))


if __name__ == "__main__":
    main()
