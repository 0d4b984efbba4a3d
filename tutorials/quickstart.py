"""From a plain DGL model to packed low-bit predictions.

A two-layer GCN of your own is trained as usual. Two lines make it low-bit: ``quantize`` before a second round of the
same training loop, ``freeze`` after it. The packed model then predicts on NumPy and Numba alone. With a third line, a
term of the loss, the low-bit model also learns from the float one what labels do not say, which counts at 2 bits.

    python tutorials/quickstart.py [--graph cora] [--bits 2] [--epochs 100]
"""

import argparse
import tempfile
from pathlib import Path

import dgl
import torch
import torch.nn.functional as F
from dgl.nn import GraphConv
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.data import load_graph, num_classes
from dgl_lowbit.report import table


class GCN(nn.Module):
    """An ordinary DGL model: nothing in it knows of low bits."""

    def __init__(self, in_feats, hidden, classes):
        super().__init__()
        self.conv1 = GraphConv(in_feats, hidden)
        self.conv2 = GraphConv(hidden, classes)
        self.dropout = nn.Dropout(0.5)

    def forward(self, graph, feat):
        h = F.relu(self.conv1(graph, self.dropout(feat)))
        return self.conv2(graph, self.dropout(h))


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
            accuracy = share_correct(model(graph, feat), graph, "val_mask")
        if accuracy > best:
            best, best_state = accuracy, {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(best_state)
    return model


def share_correct(logits, graph, mask="test_mask"):
    chosen = graph.ndata[mask]
    return (logits.argmax(1) == graph.ndata["label"])[chosen].float().mean().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graph", default="planted")
    parser.add_argument("--bits", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=100)
    options = parser.parse_args()

    torch.manual_seed(0)
    graph = dgl.add_self_loop(load_graph(options.graph))
    feat = graph.ndata["feat"]
    model = train(GCN(feat.shape[1], 64, num_classes(graph)), graph, options.epochs)
    float_logits = model(graph, feat).detach()
    float_bytes = sum(tensor.nbytes for tensor in model.state_dict().values())

    # The first line: a low-bit copy of the trained model, to be trained on by the same loop.
    model = lowbit.quantize(model, lowbit.QuantConfig(options.bits))
    lowbit.calibrate(model, graph, feat)  # ranges from one look at the data; without it the first epoch sets them
    model = train(model, graph, options.epochs, also=lambda logits: lowbit.teacher_loss(model, logits, graph, feat))

    # The second line: integers only from here on.
    packed = lowbit.freeze(model)

    with tempfile.TemporaryDirectory() as folder:
        path = packed.save(Path(folder) / "gcn.safetensors")
        size = path.stat().st_size
        packed = lowbit.load(path)
    logits, trained_logits = packed(graph, feat), model(graph, feat).detach()
    equal = (logits.argmax(1) == trained_logits.argmax(1)).float().mean().item()

    name = f"INT{options.bits}"
    rows = [
        ["float32", f"{100 * share_correct(float_logits, graph):.1f} %", f"{float_bytes:,}"],
        [f"{name}, fake-quantised in DGL", f"{100 * share_correct(trained_logits, graph):.1f} %", ""],
        [f"{name}, packed", f"{100 * share_correct(logits, graph):.1f} %", f"{size:,}"],
    ]
    print(table(["model", "test accuracy", "bytes"], rows))
    print(f"\nBoth {name} models predict the same on {100 * equal:.2f} % of the nodes.")


if __name__ == "__main__":
    main()
