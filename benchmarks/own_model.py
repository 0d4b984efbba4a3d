"""A model and training loop of a user's own, made low-bit with two lines: accuracy over seeds.

python benchmarks/own_model.py [--graph cora] [--seeds 3] [--epochs 200]
"""

import argparse
import sys
import tempfile
from pathlib import Path

import dgl
import dgl.nn
import torch
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.data import load_graph, num_classes
from dgl_lowbit.report import mean_std, table

sys.path.insert(0, str(Path(__file__).parent.parent / "tutorials"))
from quickstart import share_correct, train

CONVOLUTIONS = {
    "GraphConv": lambda i, o: dgl.nn.GraphConv(i, o),
    "SAGEConv mean": lambda i, o: dgl.nn.SAGEConv(i, o, "mean"),
    "SAGEConv gcn": lambda i, o: dgl.nn.SAGEConv(i, o, "gcn"),
}


class TwoLayers(nn.Module):
    def __init__(self, make, in_feats, classes):
        super().__init__()
        self.conv1, self.conv2 = make(in_feats, 64), make(64, classes)

    def forward(self, graph, feat):
        h = F.relu(self.conv1(graph, F.dropout(feat, 0.5, self.training)))
        return self.conv2(graph, F.dropout(h, 0.5, self.training))


def run(make, graph, bits, seed, epochs):
    """Test accuracy by width: of the float model, else of the fake-quantised and packed model, and their agreement."""
    torch.manual_seed(seed)
    feat = graph.ndata["feat"]
    float_model = train(TwoLayers(make, feat.shape[1], num_classes(graph)), graph, epochs)
    results = {32: (share_correct(float_model(graph, feat), graph),)}
    for width in bits:
        model = lowbit.quantize(float_model, lowbit.QuantConfig(width))
        lowbit.calibrate(model, graph, feat)
        model = train(model, graph, epochs)
        with tempfile.TemporaryDirectory() as folder:
            packed = lowbit.load(lowbit.freeze(model).save(Path(folder) / "model.safetensors"))
        trained, run = model(graph, feat).detach(), packed(graph, feat)
        equal = (trained.argmax(1) == run.argmax(1)).float().mean().item()
        results[width] = share_correct(trained, graph), share_correct(run, graph), equal
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graph", default="cora")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=200)
    options = parser.parse_args()
    bits, rows = (8, 4, 2), []
    graph = dgl.add_self_loop(load_graph(options.graph))
    for name, make in CONVOLUTIONS.items():
        runs = [run(make, graph, bits, seed, options.epochs) for seed in range(options.seeds)]
        rows.append([name, "float32", mean_std([r[32][0] for r in runs]), "-", "-"])
        for width in bits:
            trained, packed, equal = zip(*(r[width] for r in runs))
            rows.append([name, f"INT{width}", mean_std(trained), mean_std(packed), f"{100 * min(equal):.2f} %"])
    print(f"{options.graph}, {options.seeds} seeds, test accuracy (%) at the best validation epoch\n")
    print(table(["layer", "bits", "fake-quantised", "packed", "equal predictions"], rows))


if __name__ == "__main__":
    main()
