"""A deep GCN of your own that does not oversmooth, at 2 bits.

A stack of plain ``dgl.nn.GraphConv`` layers collapses: after some layers all nodes carry the same features up to their
degree. ``SmoothnessRegularizer`` attaches to the layers of any DGL model and lets each change the similarity of
neighbours only so much, by a step whose size a multiplier sets. The training loop stays as it is. The bounded model
becomes low-bit and is frozen like any other; its multipliers are constants then.

    python tutorials/deep_gcn.py [--graph cora] [--layers 16] [--epochs 100]
"""

import argparse

import dgl
import torch
import torch.nn.functional as F
from dgl.nn import GraphConv
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.data import load_graph, num_classes
from dgl_lowbit.report import table


class DeepGCN(nn.Module):
    """An ordinary DGL model: nothing in it knows of bounds or low bits."""

    def __init__(self, in_feats, hidden, classes, layers):
        super().__init__()
        widths = [in_feats, *[hidden] * (layers - 1)]
        self.layers = nn.ModuleList(GraphConv(i, o, activation=F.relu) for i, o in zip(widths, widths[1:]))
        self.last = GraphConv(hidden, classes)
        self.dropout = nn.Dropout(0.5)

    def forward(self, graph, feat):
        h = self.dropout(feat)
        for layer in self.layers:
            h = layer(graph, h)
        return self.last(graph, self.dropout(h))


def train(model, graph, epochs):
    """An ordinary training loop; returns the model at its best validation accuracy."""
    feat, label, mask = graph.ndata["feat"], graph.ndata["label"], graph.ndata["train_mask"]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    best, best_state = -1.0, None
    for _ in range(epochs):
        model.train()
        loss = F.cross_entropy(model(graph, feat)[mask], label[mask])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        accuracy = share_correct(model, graph, "val_mask")
        if accuracy > best:
            best, best_state = accuracy, {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(best_state)
    return model.eval()


@torch.no_grad()
def share_correct(model, graph, mask="test_mask"):
    chosen = graph.ndata[mask]
    logits = model.eval()(graph, graph.ndata["feat"])
    return (logits.argmax(1) == graph.ndata["label"])[chosen].float().mean().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graph", default="planted")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=100)
    options = parser.parse_args()

    graph = dgl.add_self_loop(load_graph(options.graph))
    feat, classes = graph.ndata["feat"], num_classes(graph)
    models, rows = {}, []
    for name in ("plain", "bounded"):
        torch.manual_seed(0)
        model = DeepGCN(feat.shape[1], 64, classes, options.layers)
        if name == "bounded":
            # The one line: every layer may change the similarity of neighbours by a share of what there is.
            lowbit.SmoothnessRegularizer(model, threshold=0.0025, relative=True, initial=19)
        models[name] = train(model, graph, options.epochs)
        rows.append([f"{name}, float32", f"{100 * share_correct(model, graph):.1f} %"])

    # What the bounds do, layer by layer. On the plain model a regulariser that acts in the loss only measures here.
    watched = lowbit.SmoothnessRegularizer(models["plain"], threshold=0.0025, relative=True, acts="loss")
    reports = (
        watched.measure(graph, feat),
        lowbit.SmoothnessRegularizer.attached(models["bounded"]).measure(graph, feat),
    )
    watched.detach()
    layers = [
        [row["layer"], f"{plain['energy']:.1e}", f"{plain['gauge']:.3f}", f"{row['energy']:.1e}", f"{row['gauge']:.3f}",
         f"{row['step']:.3f}"]
        for plain, row in zip(*reports)
    ]  # fmt: skip

    # Low-bit as ever; states=8 keeps what a bounded layer returns in 8 bits, everything else has 2.
    model = lowbit.quantize(models["bounded"], lowbit.QuantConfig(2, states=8))
    lowbit.calibrate(model, graph, feat)
    train(model, graph, options.epochs)
    packed = lowbit.freeze(model)
    correct = packed(graph, feat).argmax(1) == graph.ndata["label"]
    rows.append(["bounded, INT2", f"{100 * share_correct(model, graph):.1f} %"])
    rows.append(["bounded, INT2, packed", f"{100 * correct[graph.ndata['test_mask']].float().mean():.1f} %"])

    header = ["layer", "energy, plain", "gauge, plain", "energy, bounded", "gauge, bounded", "step"]
    print(
        table(header, layers) + "\n\n" + table([f"{options.layers} layers on {options.graph}", "test accuracy"], rows)
    )


if __name__ == "__main__":
    main()
