"""
An existing project, ported
===========================

Two models as their papers describe them, a GCN (`arXiv:1609.02907 <https://arxiv.org/abs/1609.02907>`_) and a GAT
(`arXiv:1710.10903 <https://arxiv.org/abs/1710.10903>`_), with a training function that was there before. What makes
them low-bit are the lines marked "added"; what trains is the same function.

``python tutorials/porting.py --graph cora --bits 8 4 --epochs 100 --seeds 5`` prints rows of :doc:`/accuracy`.
"""

import dgl
import dgl.nn
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.experiments.data import load_graph, num_classes
from dgl_lowbit.experiments.settings import settings
from dgl_lowbit.report import mean_std, table

options = settings(__doc__, graph="planted", models=("GCN", "GAT"), bits=(4, 2), epochs=60, seeds=1)

# %%
# The project
# -----------


class GCN(nn.Module):
    learning_rate = 0.01

    def __init__(self, in_feats, classes):
        super().__init__()
        self.conv1 = dgl.nn.GraphConv(in_feats, 16, activation=F.relu)
        self.conv2 = dgl.nn.GraphConv(16, classes)
        self.dropout = nn.Dropout(0.5)

    def forward(self, graph, feat):
        return self.conv2(graph, self.dropout(self.conv1(graph, self.dropout(feat))))


class GAT(nn.Module):
    learning_rate = 0.005

    def __init__(self, in_feats, classes):
        super().__init__()
        self.conv1 = dgl.nn.GATConv(in_feats, 8, num_heads=8, feat_drop=0.6, attn_drop=0.6, activation=F.elu)
        self.conv2 = dgl.nn.GATConv(64, classes, num_heads=1, feat_drop=0.6, attn_drop=0.6)

    def forward(self, graph, feat):
        return self.conv2(graph, self.conv1(graph, feat).flatten(1)).mean(1)


def train(model, graph, epochs):
    """Adam on the labelled nodes; test accuracy at the best validation accuracy, whose weights it leaves."""
    feat, labels, masks = graph.ndata["feat"], graph.ndata["label"], [graph.ndata[f"{s}_mask"] for s in ("val", "test")]
    train_mask = graph.ndata["train_mask"]
    optimizer = torch.optim.Adam(model.parameters(), lr=model.learning_rate, weight_decay=5e-4)
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


# %%
# Ported
# ------
# Without an example the first step of training takes the ranges, and ``freeze`` knows what the model was last called
# with. So the two lines are all that changes.

results = {}
for name in options.models:
    for seed in range(options.seeds):
        graph = dgl.add_self_loop(load_graph(options.graph, seed))
        feat, label, test_mask = (graph.ndata[key] for key in ("feat", "label", "test_mask"))
        torch.manual_seed(seed)
        float_model = globals()[name](feat.shape[1], num_classes(graph))
        trained = train(float_model, graph, options.epochs)
        results.setdefault((name, "float32"), []).append((trained, float("nan")))
        for bits in options.bits:
            model = lowbit.quantize(float_model, lowbit.QuantConfig(bits))  # added
            trained = train(model, graph, options.epochs)
            logits = lowbit.freeze(model)(graph, feat)  # added
            packed = (logits.argmax(1) == label)[test_mask].float().mean().item()
            results.setdefault((name, f"INT{bits}"), []).append((trained, packed))

rows = []
for (name, bits), runs in results.items():
    trained, packed = zip(*runs)
    rows.append([name, bits, mean_std(trained), "-" if bits == "float32" else mean_std(packed)])
print(f"{options.graph}, seeds: {options.seeds}\n\n" + table(["model", "bits", "test accuracy", "packed"], rows))

# %%

figure, axes = plt.subplots(1, len(options.models), figsize=(8, 2.6), sharey=True, squeeze=False, layout="constrained")
for ax, model in zip(axes.flat, options.models):
    accuracies = {
        bits: 100 * torch.tensor(runs)[:, 0].mean().item() for (name, bits), runs in results.items() if name == model
    }
    ax.bar(list(accuracies), list(accuracies.values()), color=["tab:gray", *["tab:orange"] * len(options.bits)])
    ax.set(title=model, ylim=(0, 100))
axes.flat[0].set_ylabel("test accuracy (%)")
plt.show()

# %%
# At 2 bits a third line, ``lowbit.teacher_loss``, and separate rates for ranges are worth some points:
# :doc:`/guides/porting` has the project before and after, with what to look at, :doc:`/guides/training` the reasons.
