"""
Two lines
=========

From a plain DGL model to packed low-bit predictions. Two lines make a trained model low-bit: ``quantize`` before a
second round of the same training loop, ``freeze`` after it. The packed model predicts on NumPy and Numba alone.

``python tutorials/quickstart.py --graph cora --bits 4`` runs it on Cora at 4 bits.
"""

import tempfile
from pathlib import Path

import dgl
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from dgl.nn import GraphConv
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.experiments.data import load_graph, num_classes
from dgl_lowbit.experiments.settings import settings
from dgl_lowbit.report import table

options = settings(__doc__, graph="planted", bits=2, epochs=50)
graph = dgl.add_self_loop(load_graph(options.graph))
feat, label = graph.ndata["feat"], graph.ndata["label"]

# %%
# A model and a loop
# ------------------
# An ordinary DGL model. Nothing in it knows of low bits.


class GCN(nn.Module):
    def __init__(self, in_feats, hidden, classes):
        super().__init__()
        self.conv1 = GraphConv(in_feats, hidden)
        self.conv2 = GraphConv(hidden, classes)
        self.dropout = nn.Dropout(0.5)

    def forward(self, graph, feat):
        h = F.relu(self.conv1(graph, self.dropout(feat)))
        return self.conv2(graph, self.dropout(h))


# %%
# An ordinary training loop, which keeps the epoch of best validation accuracy. What ``also`` makes of the logits is
# added to the loss; in float32 there is no such term.


def share_correct(logits, mask):
    chosen = graph.ndata[mask]
    return (logits.argmax(1) == label)[chosen].float().mean().item()


def train(model, also=lambda logits: 0.0):
    mask = graph.ndata["train_mask"]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
    best, best_state = -1.0, None
    for _ in range(options.epochs):
        logits = model.train()(graph, feat)
        loss = F.cross_entropy(logits[mask], label[mask]) + also(logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            accuracy = share_correct(model.eval()(graph, feat), "val_mask")
        if accuracy > best:
            best, best_state = accuracy, {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(best_state)
    return model


torch.manual_seed(0)
float_model = train(GCN(feat.shape[1], 64, num_classes(graph)))

# %%
# The first line
# --------------
# ``quantize`` returns a low-bit copy of the trained model, to be trained on by the same loop. ``calibrate`` sets ranges
# from one look at the data; without it the first steps of training do. The model also learns from its float model what
# labels do not say, by one more term of the loss.

model = lowbit.quantize(float_model, lowbit.QuantConfig(options.bits), graph, feat)
lowbit.calibrate(model, graph, feat)
model = train(model, also=lambda logits: lowbit.teacher_loss(model, logits, graph, feat))

# %%
# The second line
# ---------------
# From here on there are integers only. The packed model is called as the model was, and is kept in one file.

packed = lowbit.freeze(model, graph, feat)

with tempfile.TemporaryDirectory() as folder:
    path = packed.save(Path(folder) / "gcn.safetensors")
    packed_bytes = path.stat().st_size
    packed = lowbit.load(path)

# %%
# What it costs, and what it saves
# --------------------------------

with torch.no_grad():
    logits = {
        "float32": float_model(graph, feat),
        f"INT{options.bits}, in DGL": model(graph, feat),
        f"INT{options.bits}, packed": packed(graph, feat),
    }
float_bytes = sum(tensor.nbytes for tensor in float_model.state_dict().values())
size = dict(zip(logits, (float_bytes, None, packed_bytes)))
accuracy = {name: 100 * share_correct(predicted, "test_mask") for name, predicted in logits.items()}
print(
    table(
        ["model", "test accuracy", "bytes"],
        [[name, f"{accuracy[name]:.1f} %", f"{size[name]:,}" if size[name] else "-"] for name in logits],
    )
)

_, trained, run = (predicted.argmax(1) for predicted in logits.values())
print(f"\nBoth low-bit models predict the same on {100 * (trained == run).float().mean():.2f} % of the nodes.")

# %%

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
left.barh(list(accuracy), list(accuracy.values()), color=["tab:gray", "tab:blue", "tab:orange"])
left.set(xlabel="test accuracy (%)", xlim=(0, 100))
left.invert_yaxis()
right.barh(["float32", "packed"], [float_bytes / 1024, packed_bytes / 1024], color=["tab:gray", "tab:orange"])
right.set(xlabel="KiB")
right.invert_yaxis()
plt.show()

# %%
# :doc:`/which_bits` says which width to take, :doc:`/guides/training` what may change in a loop of your own.
