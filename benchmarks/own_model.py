"""A model and training loop of a user's own, made low-bit with two lines, and with what may be added to them.

    python benchmarks/own_model.py [--graphs cora planted] [--layers GraphConv] [--seeds 3] [--epochs 200]
        [--bits 8 4 2] [--variants plain reconstructed taught] [--table FILE]

Of the variants ``plain`` has the two lines alone; ``protected`` leaves most rows of a step unrounded, and begins with
weights that were rounded on data; ``reconstructed`` begins with what returns the float model's outputs before it is
trained; ``taught`` has these in the loss. The optimiser is Adam over ``model.parameters()`` in all of them. Graphs are
those of ``dgl_lowbit.data.load_graph``.
"""

import argparse
import functools
import itertools
import tempfile
from pathlib import Path

import dgl
import dgl.nn
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

import dgl_lowbit as lowbit
from dgl_lowbit.data import load_graph, num_classes
from dgl_lowbit.experiments.tables import show
from dgl_lowbit.report import mean_std, table
from dgl_lowbit.training import accuracy

CONVOLUTIONS = {
    "GraphConv": lambda i, o: dgl.nn.GraphConv(i, o),
    "SAGEConv mean": lambda i, o: dgl.nn.SAGEConv(i, o, "mean"),
    "SAGEConv gcn": lambda i, o: dgl.nn.SAGEConv(i, o, "gcn"),
}


VARIANTS = {"plain": {}, "protected": {"protect": (0.8, 0.8)}, "reconstructed": {}, "taught": {}}  # of QuantConfig
ROUNDINGS = {"protected": "gptq", "reconstructed": "reconstruct"}


class TwoLayers(nn.Module):
    def __init__(self, make, in_feats, classes):
        super().__init__()
        self.conv1, self.conv2 = make(in_feats, 64), make(64, classes)

    def forward(self, graph, feat):
        h = F.relu(self.conv1(graph, F.dropout(feat, 0.5, self.training)))
        return self.conv2(graph, F.dropout(h, 0.5, self.training))


def train(model, graph, epochs, also=None):
    """An ordinary training loop; returns the model at its best validation accuracy.

    ``also(logits)``, where it is given, is added to the loss.
    """
    feat, label, mask = graph.ndata["feat"], graph.ndata["label"], graph.ndata["train_mask"]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
    best, best_state = -1.0, None
    for _ in range(epochs):
        model.train()
        logits = model(graph, feat)
        loss = F.cross_entropy(logits[mask], label[mask])
        if also is not None:
            loss = loss + also(logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            found = accuracy(model(graph, feat), graph, "val_mask")
        if found > best:
            best, best_state = found, {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(best_state)
    return model


def run(make, graph, widths, variants, seed, epochs):
    """Test accuracy, and the share of predictions that are the trained model's: of the float and each packed model."""
    torch.manual_seed(seed)
    feat = graph.ndata["feat"]
    float_model = train(TwoLayers(make, feat.shape[1], num_classes(graph)), graph, epochs)
    results = {"float32": (accuracy(float_model(graph, feat), graph), 1.0)}
    for bits, variant in itertools.product(widths, variants):
        model = lowbit.quantize(float_model, lowbit.QuantConfig(bits, **VARIANTS[variant]))
        lowbit.calibrate(model, graph, feat, rounding=ROUNDINGS.get(variant, "nearest"), progress=False)
        teach = functools.partial(taught, model, graph, feat) if variant == "taught" else None
        model = train(model, graph, epochs, also=teach)
        with tempfile.TemporaryDirectory() as folder:
            packed = lowbit.load(lowbit.freeze(model).save(Path(folder) / "model.safetensors"))
        trained, run = model(graph, feat).detach(), packed(graph, feat)
        equal = (trained.argmax(1) == run.argmax(1)).float().mean().item()
        results[f"INT{bits}, {variant}"] = accuracy(run, graph), equal
    return results


def taught(model, graph, feat, logits):
    """The third line of a loop that learns from the float model too."""
    return lowbit.teacher_loss(model, logits, graph, feat)


def row(name, layer, runs):
    """A row of the table: mean ± std over seeds, of low-bit models packed, and the least share of equal predictions."""
    variants = list(runs[0])
    cells = [mean_std([r[variant][0] for r in runs]) for variant in variants]
    equal = min(r[variant][1] for r in runs for variant in variants)
    return [name, layer, *cells, f"{100 * equal:.2f} %"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graphs", nargs="+", default=["cora"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 4, 2])
    parser.add_argument("--layers", nargs="+", choices=CONVOLUTIONS, default=list(CONVOLUTIONS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the table there as well")
    options = parser.parse_args()
    rows: list = []
    cases = list(itertools.product(options.graphs, options.layers))
    for name, layer in tqdm(cases, unit="model", mininterval=0):
        graph, make = dgl.add_self_loop(load_graph(name)), CONVOLUTIONS[layer]
        runs = [run(make, graph, options.bits, options.variants, seed, options.epochs) for seed in range(options.seeds)]
        rows.append(row(name, layer, runs))
    show(table(["graph", "layer", *runs[0], "packed = trained"], rows), options.table)


if __name__ == "__main__":
    main()
