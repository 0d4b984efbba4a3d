"""
Sampling, and inference layer by layer
======================================

A GraphSAGE (`arXiv:1706.02216 <https://arxiv.org/abs/1706.02216>`_) is trained on neighbourhoods that DGL samples, and
the packed model then runs on the whole of a larger graph: layer by layer, features read from a file, results written
to one, and nothing but codes in between.

``python tutorials/sampled_sage.py --graph cora --bits 8 4 --epochs 60 --seeds 5`` prints the row of :doc:`/accuracy`.
"""

import tempfile
import warnings
from pathlib import Path

import dgl
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.experiments.data import load_graph, num_classes
from dgl_lowbit.experiments.planted import planted_graph
from dgl_lowbit.experiments.settings import settings
from dgl_lowbit.report import mean_std, table

options = settings(__doc__, graph="planted", bits=(4, 2), epochs=25, seeds=1, nodes=8_000)
warnings.filterwarnings("ignore", "Dataloader CPU affinity")  # a hint of DGL

# %%
# A model of blocks
# -----------------


class GraphSAGE(nn.Module):
    def __init__(self, in_feats, classes, hidden=64):
        super().__init__()
        self.layers = nn.ModuleList(
            [dgl.nn.SAGEConv(in_feats, hidden, "mean"), dgl.nn.SAGEConv(hidden, classes, "mean")]
        )
        self.dropout = nn.Dropout(0.5)

    def forward(self, blocks, feat):
        h = feat
        for i, (layer, block) in enumerate(zip(self.layers, blocks)):
            h = layer(block, self.dropout(h))
            h = F.relu(h) if i == 0 else h
        return h


# %%
# Its training on blocks, which keeps the epoch of best validation accuracy. Validation sees the whole graph in the
# place of each block. Nothing here is low-bit.


def train(model, graph, seed):
    """Test accuracy at the best validation accuracy; leaves those weights."""
    labels, val_mask, test_mask = (graph.ndata[key] for key in ("label", "val_mask", "test_mask"))
    train_nodes = graph.ndata["train_mask"].nonzero().flatten()
    sampler = dgl.dataloading.NeighborSampler([10, 10], prefetch_node_feats=["feat"], prefetch_labels=["label"])
    dgl.seed(seed)
    loader = dgl.dataloading.DataLoader(graph, train_nodes, sampler, batch_size=70, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
    best = (-1.0, 0.0), None
    for _ in range(options.epochs):
        model.train()
        for _, _, blocks in loader:
            logits = model(blocks, blocks[0].srcdata["feat"])
            loss = F.cross_entropy(logits, blocks[-1].dstdata["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            hits = model([graph, graph], graph.ndata["feat"]).argmax(1) == labels
        val, test = hits[val_mask].float().mean().item(), hits[test_mask].float().mean().item()
        if val > best[0][0]:
            best = (val, test), {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(best[1])
    return best[0][1]


# %%
# Two lines
# ---------
# In float32 first, on from there at fewer bits by the same function. The two lines that are low-bit are marked.

results = {}
for seed in range(options.seeds):
    graph = load_graph(options.graph, seed)
    feat, label, test_mask = (graph.ndata[key] for key in ("feat", "label", "test_mask"))
    torch.manual_seed(seed)
    float_model = GraphSAGE(feat.shape[1], num_classes(graph))
    results.setdefault("float32", []).append((train(float_model, graph, seed), float("nan")))
    for bits in options.bits:
        model = lowbit.quantize(float_model, lowbit.QuantConfig(bits))  # added
        trained = train(model, graph, seed)
        packed = lowbit.freeze(model)  # added
        hits = packed.inference(graph, feat, batch_size=1000).argmax(1) == label
        results.setdefault(f"INT{bits}", []).append((trained, hits[test_mask].float().mean().item()))

rows = []
for bits, runs in results.items():
    trained, of_packed = zip(*runs)
    rows.append([bits, mean_std(trained), "-" if bits == "float32" else mean_std(of_packed)])
print(f"{options.graph}, seeds: {options.seeds}\n\n" + table(["GraphSAGE", "test accuracy", "packed"], rows))

# %%
# A larger graph
# --------------
# The packed model of the last width runs on a graph that it has not seen, larger than the one it was trained on.
# Features are mapped from a file and read a batch at a time; logits go to another.

large = planted_graph(seed=1, num_nodes=options.nodes) if options.graph == "planted" else graph
work = tempfile.TemporaryDirectory()
feat_file, logits_file = (Path(work.name) / name for name in ("feat.npy", "logits.npy"))
np.save(feat_file, large.ndata["feat"].numpy())

features = np.load(feat_file, mmap_mode="r")
shape = (large.num_nodes(), num_classes(graph))
logits = np.lib.format.open_memmap(logits_file, "w+", np.float32, shape)
packed.inference(large, features, batch_size=1000, out=logits)
with torch.no_grad():
    expected = model.eval()([large, large], large.ndata["feat"])
equal = (logits.argmax(1) == expected.argmax(1).numpy()).mean()
print(f"{shape[0]:,} nodes; {100 * equal:.2f} % are predicted as by the trained model on all of it at once.")

# %%
# What is in memory between the layers are rows of codes: inputs, messages and aggregates of nodes. In float32 each of
# their numbers has four bytes.


def coded_bytes(bits):
    config = lowbit.QuantConfig(bits)
    return lowbit.allocation.cost(float_model, config, [large, large], large.ndata["feat"])["states"]


states = {"float32": 4 * coded_bytes(8), **{f"INT{bits}": coded_bytes(bits) for bits in options.bits}}
print(table(["", "MiB"], [[name, f"{size / 2**20:.1f}"] for name, size in states.items()]))
figure, ax = plt.subplots(figsize=(6, 2.4), layout="constrained")
ax.barh(list(states), [size / 2**20 for size in states.values()], color=["tab:gray", *["tab:orange"] * 9])
ax.set(xlabel="MiB")
ax.invert_yaxis()
plt.show()
work.cleanup()

# %%
# :doc:`/guides/minibatches` and :doc:`/guides/large_graphs` say more, of ranges of a part of the graph too.
