"""
Graph classification
====================

A GIN (`arXiv:1810.00826 <https://arxiv.org/abs/1810.00826>`_) tells apart the eight kinds of graph of
``dgl.data.MiniGCDataset`` by their structure: cycles, stars, grids and others. A batch of graphs is a graph, and
readouts run packed too.

``python tutorials/graph_classification.py --bits 8 4 --epochs 30 --seeds 3`` prints the row of :doc:`/accuracy`.
"""

import dgl
import dgl.nn
import matplotlib.pyplot as plt
import networkx as nx
import torch
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.experiments.settings import settings
from dgl_lowbit.report import mean_std, table

options = settings(__doc__, graphs=320, bits=(4, 2), epochs=15, seeds=1)

# %%
# The graphs
# ----------
# All a node is given is its in-degree, one-hot up to 15.

KINDS = ("cycle", "star", "wheel", "lollipop", "hypercube", "grid", "clique", "ladder")


def features(graph):
    return F.one_hot(graph.in_degrees().clamp(max=15), 16).float()


def batch(dataset, chosen):
    graphs, labels = zip(*(dataset[i] for i in chosen.tolist()))
    return dgl.batch(graphs), torch.stack(labels)


dataset = dgl.data.MiniGCDataset(8, 10, 20, seed=0)
figure, axes = plt.subplots(2, 4, figsize=(8, 4), layout="constrained")
for ax, (graph, label) in zip(axes.flat, dataset):
    undirected = nx.Graph(dgl.to_networkx(dgl.remove_self_loop(graph)))
    layout = nx.spring_layout(undirected, seed=0)
    nx.draw(undirected, layout, ax=ax, node_size=25, node_color="tab:orange", edge_color="tab:gray")
    ax.set_title(KINDS[label])
plt.show()

# %%
# The model
# ---------


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


# %%
# Training
# --------
# An ordinary loop over batches, which keeps the epoch of best validation accuracy. The lines that are low-bit are
# marked; the low-bit models start from scratch here.


def accuracy(model, graph, labels):
    return (model(graph, features(graph)).argmax(1) == labels).float().mean().item()


def train(model, sets, epochs):
    """Test accuracy at the best validation accuracy; leaves those weights."""
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


results = {}
for seed in range(options.seeds):
    sets = {"train": dgl.data.MiniGCDataset(options.graphs, 10, 20, seed=3 * seed)}
    for n, name in enumerate(("val", "test"), 1):
        held_out = dgl.data.MiniGCDataset(options.graphs, 10, 20, seed=3 * seed + n)
        sets[name] = batch(held_out, torch.arange(len(held_out)))
    for bits in (32, *options.bits):
        torch.manual_seed(seed)
        model = GIN(16, len(KINDS))
        if bits < 32:
            model = lowbit.quantize(model, lowbit.QuantConfig(bits))  # added
        trained = train(model, sets, options.epochs)
        packed = lowbit.freeze(model) if bits < 32 else None  # added
        of_packed = accuracy(packed, *sets["test"]) if packed else float("nan")
        results.setdefault(f"INT{bits}" if packed else "float32", []).append((trained, of_packed))

rows = []
for name, runs in results.items():
    trained, of_packed = zip(*runs)
    rows.append([name, mean_std(trained), "-" if name == "float32" else mean_std(of_packed)])
print(f"MiniGCDataset, seeds: {options.seeds}\n\n" + table(["GIN", "test accuracy", "packed"], rows))

# %%
# What is taken for what
# ----------------------
# By the packed model of the last width, on the test graphs.

graph, labels = sets["test"]
predicted = packed(graph, features(graph)).argmax(1)
confusion = torch.zeros(len(KINDS), len(KINDS), dtype=torch.long)
confusion.index_put_((labels, predicted), torch.tensor(1), accumulate=True)

figure, ax = plt.subplots(figsize=(5.6, 4.4), layout="constrained")
ax.imshow(confusion.numpy(), cmap="Oranges")
for row, column in confusion.nonzero().tolist():
    ax.text(column, row, confusion[row, column].item(), ha="center", va="center")
ax.set(xlabel="predicted", ylabel="is")
ax.set_xticks(range(len(KINDS)), KINDS, rotation=45, ha="right")
ax.set_yticks(range(len(KINDS)), KINDS)
plt.show()

# %%
# :doc:`/guides/graph_classification` says what to keep in mind of batches and normalisation.
