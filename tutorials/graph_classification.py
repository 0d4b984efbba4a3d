"""Graph classification with GIN (arXiv:1810.00826), low-bit with two added lines.

    python tutorials/graph_classification.py --seeds 3

tells apart the eight kinds of graph of ``dgl.data.MiniGCDataset`` (cycles, stars, grids, …) by their structure, in
float32 and at 8 and 4 bits, and prints a table. All that is low-bit about this script are the lines marked "added".
"""

import argparse
import sys

import dgl
import dgl.nn
import torch
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.report import mean_std, table


class GIN(nn.Module):
    def __init__(self, in_feats, classes, hidden=32, num_layers=3):
        super().__init__()
        self.convs = nn.ModuleList()
        for layer in range(num_layers):
            first = nn.Linear(hidden if layer else in_feats, hidden)
            mlp = nn.Sequential(first, nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, hidden))
            self.convs.append(dgl.nn.GINConv(mlp, "sum", learn_eps=True))
        self.norms = nn.ModuleList(nn.BatchNorm1d(hidden) for _ in range(num_layers))
        self.pool, self.jump = dgl.nn.AvgPooling(), dgl.nn.JumpingKnowledge("cat")
        self.classifier = nn.Linear(num_layers * hidden, classes)

    def forward(self, graph, feat):
        h, layers = feat, []
        for conv, norm in zip(self.convs, self.norms):
            h = F.relu(norm(conv(graph, h)))
            layers.append(h)
        return self.classifier(self.pool(graph, self.jump(layers)))


def features(graph):
    """In-degrees, one-hot up to 15."""
    return F.one_hot(graph.in_degrees().clamp(max=15), 16).float()


def batch(dataset, chosen):
    graphs, labels = zip(*(dataset[i] for i in chosen.tolist()))
    return dgl.batch(graphs), torch.stack(labels)


def accuracy(model, graph, labels):
    return (model(graph, features(graph)).argmax(1) == labels).float().mean().item()


def train(model, sets, epochs):
    """Adam; returns test accuracy at the best validation accuracy, and leaves those weights."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    best = (-1.0, 0.0), None
    for _ in range(epochs):
        model.train()
        for chosen in torch.randperm(len(sets["train"])).split(32):
            graph, labels = batch(sets["train"], chosen)
            loss = F.cross_entropy(model(graph, features(graph)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            val, test = accuracy(model, *sets["val"]), accuracy(model, *sets["test"])
        if val > best[0][0]:
            best = (val, test), {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(best[1])
    return best[0][1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--graphs", type=int, default=320, help="number of training graphs; as many to validate, to test"
    )
    args = parser.parse_args()
    results = {}
    for seed in range(args.seeds):
        sets = {"train": dgl.data.MiniGCDataset(args.graphs, 10, 20, seed=3 * seed)}
        for n, name in enumerate(("val", "test"), 1):
            held_out = dgl.data.MiniGCDataset(args.graphs, 10, 20, seed=3 * seed + n)
            sets[name] = batch(held_out, torch.arange(len(held_out)))
        for bits in (32, 8, 4):
            torch.manual_seed(seed)
            model = GIN(16, sets["train"].num_classes)
            if bits < 32:
                model = lowbit.quantize(model, lowbit.QuantConfig(bits))  # added
            trained = train(model, sets, args.epochs)
            packed = accuracy(lowbit.freeze(model), *sets["test"]) if bits < 32 else float("nan")  # added
            results.setdefault(bits, []).append((trained, packed))
            print(f"seed {seed}, {bits} bits: {trained:.3f}", file=sys.stderr, flush=True)
    rows = []
    for bits, runs in results.items():
        trained, packed = zip(*runs)
        name = "float32" if bits == 32 else f"INT{bits}"
        rows.append([name, mean_std(trained), "-" if bits == 32 else mean_std(packed)])
    print(f"MiniGCDataset, {args.seeds} seeds\n\n" + table(["GIN", "test accuracy", "packed"], rows))


if __name__ == "__main__":
    main()
