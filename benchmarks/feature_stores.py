"""Training from features that are kept as codes: accuracy, and bytes that are fetched, beside float32 features.

    python benchmarks/feature_stores.py [--graphs cora,amazon-computer] [--seeds 5] [--epochs 40] [--table FILE]

A float32 GraphSAGE is trained by ``lowbit.train`` on blocks, whose features are fetched from a store, and decoded; test
accuracy at the best validation epoch, on what the store holds. Nothing else differs between the rows of a graph, and
nothing is chosen on test accuracy. Bytes that are fetched are those of a run, validation included, of as many rows of
float32 features.
"""

from __future__ import annotations

import argparse
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
    """Test accuracy at the best validation epoch."""
    torch.manual_seed(seed)
    model, sampler = SAGE(feat.shape[1], num_classes(graph)), dgl.dataloading.NeighborSampler([10, 10])
    history = lowbit.train(
        model, graph, feat=feat, sampler=sampler, batch_size=70, epochs=epochs, seed=seed, sparse=False, progress=False
    )
    return history.best["test_accuracy"]


def rows_of(name, seeds, epochs):
    """Rows of the table of a graph."""
    graph = load_graph(name)
    feat = graph.ndata.pop("feat")
    on_floats = [trained(graph, feat, seed, epochs) for seed in range(seeds)]
    ways, floats, rows = [], 4 * feat.shape[1], 0
    for way, options in WAYS.items():
        store = lowbit.compress(feat, **options)
        on_store = [trained(graph, store, seed, epochs) for seed in range(seeds)]
        change, rows = 100 * (sum(on_store) - sum(on_floats)) / seeds, store.bytes_fetched // store.row_bytes
        ways.append([way, mean_std(on_store), f"{change:+.1f}", store.row_bytes, store.bytes_fetched])
    first = ["float32", mean_std(on_floats), "", floats, rows * floats]
    for way, accuracy, change, row_bytes, fetched in [first, *ways]:
        fewer = f"{rows * floats / fetched:.1f}x"
        yield [name, way, accuracy, change, f"{row_bytes:,}", f"{fetched / seeds / 2**20:,.0f} MiB", fewer]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", default="cora,amazon-computer")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the table there as well")
    options = parser.parse_args()
    rows = [row for name in options.graphs.split(",") for row in rows_of(name, options.seeds, options.epochs)]
    header = ["graph", "features", "test accuracy", "change", "bytes a row", "fetched", "fewer bytes"]
    show(table(header, rows), options.table)


if __name__ == "__main__":
    main()
