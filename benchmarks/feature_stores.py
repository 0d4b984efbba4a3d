"""Training from features that are kept as codes: accuracy, and bytes that the loader fetches, beside float32 features.

    python benchmarks/feature_stores.py [--graphs cora,amazon-computer] [--seeds 5] [--epochs 40] [--table FILE]

A float32 GraphSAGE is trained on blocks that DGL's loader samples, whose features it fetches from a store, and decodes;
test accuracy at the best validation epoch, of full-graph inference on what the store holds. Nothing else differs
between the rows of a graph, and nothing is chosen on test accuracy.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import dgl
import dgl.nn
import torch
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.experiments.data import load_graph, num_classes
from dgl_lowbit.experiments.tables import show
from dgl_lowbit.report import mean_std, table

EVERY = 4  # epochs between validations
WAYS = {
    "4 bits, a scale a row": {"bits": 4},
    "2 bits, a scale a row": {"bits": 2},
    "2 bits, a scale a column": {"bits": 2, "granularity": "channel"},
    "codebook, a byte for 4 columns": {"codebook": 4},
    "codebook, a byte for 8 columns": {"codebook": 8},
}


class SAGE(nn.Module):
    def __init__(self, in_feats, classes, hidden=64):
        super().__init__()
        self.layers = nn.ModuleList(
            [dgl.nn.SAGEConv(in_feats, hidden, "mean"), dgl.nn.SAGEConv(hidden, classes, "mean")]
        )
        self.dropout = nn.Dropout(0.5)

    def forward(self, blocks, h):
        for i, (layer, block) in enumerate(zip(self.layers, blocks)):
            h = layer(block, self.dropout(h))
            h = F.relu(h) if i == 0 else h
        return h


def trained(graph, feat, seed, epochs):
    """Test accuracy at the best validation accuracy; ``graph`` is what the loader reads, ``feat`` all features."""
    torch.manual_seed(seed)
    dgl.seed(seed)
    labels, val_mask, test_mask = (graph.ndata[key] for key in ("label", "val_mask", "test_mask"))
    sampler = dgl.dataloading.NeighborSampler([10, 10], prefetch_node_feats=["feat"], prefetch_labels=["label"])
    nodes = graph.ndata["train_mask"].nonzero().flatten()
    loader = dgl.dataloading.DataLoader(graph, nodes, sampler, batch_size=70, shuffle=True)
    model = SAGE(feat.shape[1], num_classes(graph))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
    best, rows = (-1.0, 0.0), 0
    for epoch in range(epochs):
        model.train()
        for sources, _, blocks in loader:
            rows += len(sources)
            loss = F.cross_entropy(model(blocks, blocks[0].srcdata["feat"]), blocks[-1].dstdata["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if (epoch + 1) % EVERY:
            continue
        with torch.no_grad():
            hits = model.eval()([graph, graph], feat).argmax(1) == labels
        best = max(best, tuple(hits[mask].float().mean().item() for mask in (val_mask, test_mask)), key=lambda b: b[0])
    return best[1], rows


def rows_of(name, seeds, epochs):
    """Rows of the table of a graph."""
    graph = load_graph(name)
    feat, by_seed = graph.ndata["feat"], {}
    for seed in range(seeds):
        by_seed.setdefault("float32", []).append(trained(graph, feat, seed, epochs)[0])
    floats = 4 * feat.shape[1]
    yield [name, "float32", mean_std(by_seed["float32"]), "", f"{floats:,}", "1.0x", "1.0x"]
    for way, options in WAYS.items():
        store = lowbit.compress(feat, **options)
        attached, decoded, accuracies, rows = store.attach(graph), store[:], [], 0
        store.bytes_fetched = 0
        for seed in range(seeds):
            accuracy, fetched = trained(attached, decoded, seed, epochs)
            accuracies.append(accuracy)
            rows += fetched
        change = 100 * (sum(accuracies) - sum(by_seed["float32"])) / seeds
        less = f"{4 * feat.numel() / store.nbytes:.1f}x", f"{rows * floats / store.bytes_fetched:.1f}x"
        yield [name, way, mean_std(accuracies), f"{change:+.1f}", f"{store.row_bytes:,}", *less]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", default="cora,amazon-computer")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the table there as well")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "Dataloader CPU affinity")
    rows = [row for name in options.graphs.split(",") for row in rows_of(name, options.seeds, options.epochs)]
    header = ["graph", "features", "test accuracy", "change", "bytes a row", "memory, smaller", "fetched, fewer bytes"]
    show(table(header, rows), options.table)


if __name__ == "__main__":
    main()
