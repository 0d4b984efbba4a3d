"""
A deep GCN collapses, and is saved
==================================

A stack of plain ``dgl.nn.GraphConv`` layers collapses: after some layers all nodes carry the same features up to their
degree. ``SmoothnessRegularizer`` attaches to the layers of any DGL model and lets each change the similarity of
neighbours only so much, by a step whose size a multiplier sets. The bounded model becomes low-bit like any other.

``python tutorials/deep_gcn.py --graph cora --layers 32`` runs it on Cora.
"""

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
from dgl_lowbit.training import accuracy, predict

options = settings(__doc__, graph="planted", layers=16, epochs=60)
graph = dgl.add_self_loop(load_graph(options.graph))
feat = graph.ndata["feat"]

# %%
# A stack
# -------
# An ordinary DGL model. Nothing in it knows of bounds or low bits.


class DeepGCN(nn.Module):
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


def stack():
    torch.manual_seed(0)
    return DeepGCN(feat.shape[1], 64, num_classes(graph), options.layers)


# %%
# Why it collapses
# ----------------
# One line bounds a stack: every layer may change the similarity of neighbours by a share of what there is. Before any
# training, this is what becomes of features on their way through either. Energy is how much neighbours differ; the
# collapse gauge is the share of the features that tells nodes apart by more than their degree. On the plain stack a
# regulariser that acts in the loss only measures.

plain, bounded = stack(), stack()
lowbit.SmoothnessRegularizer(bounded, threshold=0.0025, relative=True, initial=19)

watching = lowbit.SmoothnessRegularizer(plain, threshold=0.0025, relative=True, acts="loss")
measured = {
    "plain": watching.measure(graph, feat),
    "bounded": lowbit.SmoothnessRegularizer.attached(bounded).measure(graph, feat),
}
watching.detach()

figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
for name, colour in (("plain", "tab:gray"), ("bounded", "tab:orange")):
    for ax, key in zip(axes, ("energy", "gauge")):
        ax.plot([row[key] for row in measured[name]], color=colour, marker="o", markersize=3, label=name)
        ax.set_xlabel("layer")
        ax.xaxis.get_major_locator().set_params(integer=True)
axes[0].set(yscale="log", ylabel="energy")
axes[1].set(ylim=(0, None), ylabel="collapse gauge")
axes[0].legend()
plt.show()

# %%
# Both are trained
# ----------------
# By the same function. The multipliers are trained along, so that the bounds are kept.

rows = []
for name, model in (("plain", plain), ("bounded", bounded)):
    lowbit.train(model, graph, epochs=options.epochs, lr=0.005, weight_decay=0.0, progress=False)
    rows.append([f"{name}, float32", f"{100 * accuracy(predict(model, graph), graph):.1f} %"])
print(table([f"{options.layers} layers on {options.graph}", "test accuracy"], rows))

steps = [row["step"] for row in lowbit.SmoothnessRegularizer.attached(bounded).measure(graph, feat)]
print(f"\nSteps of layers: {min(steps):.3f} to {max(steps):.3f}.")

# %%
# At two bits
# -----------
# Low-bit as ever. ``states=8`` keeps what a bounded layer returns in 8 bits, everything else has 2. In the packed model
# the multipliers are constants.

model = lowbit.quantize(bounded, lowbit.QuantConfig(2, states=8), graph, feat)
lowbit.train(model, graph, teacher=bounded, epochs=options.epochs, lr=0.005, weight_decay=0.0, progress=False)
packed = lowbit.freeze(model, graph, feat)

rows.append(["bounded, INT2", f"{100 * accuracy(predict(model, graph), graph):.1f} %"])
rows.append(["bounded, INT2, packed", f"{100 * accuracy(packed(graph, feat), graph):.1f} %"])
print(table([f"{options.layers} layers on {options.graph}", "test accuracy"], rows))

# %%
# :doc:`/guides/deep` has the formulas, the other ways a multiplier can act, and stacks of 64 layers.
