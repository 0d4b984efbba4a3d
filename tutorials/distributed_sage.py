"""
Several machines
================

A graph that is too large for one machine is cut into parts, and DGL's distributed engine serves each part from a
machine of its own. Trainers draw neighbourhoods across all of them, and train one low-bit GraphSAGE together. Here the
machines are processes of one host.

``python tutorials/distributed_sage.py --parts 2 --nodes 50000 --batch 500`` does it on a larger graph, ``--graph cora
--batch 70 --epochs 60`` on another; :doc:`/guides/distributed` says how the same script runs on machines of your own.
"""

import json
import os
import sys
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
from dgl_lowbit.distributed import OneHost, inference, initialize
from dgl_lowbit.experiments.data import load_graph
from dgl_lowbit.experiments.settings import settings
from dgl_lowbit.report import mean_std, table

options = settings(
    __doc__, parts=2, graph="communities", nodes=4_000, bits=(4, 2), epochs=15, seeds=1, batch=100, folder="", only=""
)
warnings.filterwarnings("ignore", "Dataloader CPU affinity")  # a hint of DGL

# %%
# A graph and its model
# ---------------------
# Nodes of sixteen communities, whose features alone say little of them.


def communities(nodes, classes=16, width=64, noise=3.0, seed=0):
    """A graph of ten neighbours a node, six of them mostly of its own community; a tenth is to train on."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, nodes)
    members, first = np.argsort(label, kind="stable"), np.searchsorted(np.sort(label), np.arange(classes + 1))
    source = rng.integers(0, nodes, 3 * nodes)
    start, size = first[label[source]], np.diff(first)[label[source]]
    target = members[start + (rng.random(3 * nodes) * size).astype(int)]
    ends = np.concatenate([np.stack([source, target]), rng.integers(0, nodes, (2, 2 * nodes))], 1)
    graph = dgl.graph((np.concatenate(ends), np.concatenate(ends[::-1])), num_nodes=nodes)
    feat = rng.standard_normal((classes, width))[label] + noise * rng.standard_normal((nodes, width))
    graph.ndata["feat"], graph.ndata["label"] = torch.from_numpy(feat).float(), torch.from_numpy(label)
    part = torch.from_numpy(rng.random(nodes))
    graph.ndata["train_mask"], graph.ndata["val_mask"] = part < 0.1, (part >= 0.1) & (part < 0.2)
    graph.ndata["test_mask"] = part >= 0.2
    return graph


class GraphSAGE(nn.Module):
    def __init__(self, in_feats, classes, hidden=64):
        super().__init__()
        self.layers = nn.ModuleList(
            [dgl.nn.SAGEConv(in_feats, hidden, "mean"), dgl.nn.SAGEConv(hidden, classes, "mean")]
        )
        self.dropout = nn.Dropout(0.3)

    def forward(self, blocks, h):
        for number, (layer, block) in enumerate(zip(self.layers, blocks)):
            h = layer(block, self.dropout(h))
            h = F.relu(h) if number == 0 else h
        return h


# %%
# One function
# ------------
# Whether ``graph`` is a whole one or is served in parts, the call is the same: first the float model, then a low-bit
# copy for each width, which it teaches. A step of several processes has the labelled nodes of all of them.


def train(graph, classes, seed, batch):
    """Test accuracy of each model at its best validation epoch, and the models."""
    torch.manual_seed(seed)
    teacher = GraphSAGE(graph.ndata["feat"].shape[1], classes)
    arguments = {
        "sampler": dgl.dataloading.NeighborSampler([10, 10]), "batch_size": batch, "seed": seed, "progress": False,
    }  # fmt: skip
    history = lowbit.train(teacher, graph, epochs=options.epochs, **arguments)
    accuracy, models = {"float32": history.best["test_accuracy"]}, {}
    for bits in options.bits:
        fitted = lowbit.fit(
            teacher, graph, lowbit.QuantConfig(bits), float_epochs=0, epochs=options.epochs, **arguments
        )
        accuracy[f"INT{bits}"] = fitted.history.best["test_accuracy"]
        models[f"INT{bits}"] = fitted.model
    return accuracy, models


# %%
# A trainer
# ---------
# This script is also what runs on each machine: once as its server, which does not return from ``initialize``, and once
# as a trainer. The models of all trainers are the same to the last bit; the first writes them down. Packed, they run on
# the parts as well: trainers send each other codes of nodes at the cut, and write the rows of their own nodes into one
# tensor, which is served in parts, as features are.


def trainer(folder):
    initialize()
    graph = dgl.distributed.DistGraph("graph", part_config=os.environ["DGL_CONF_PATH"])
    about = json.loads(Path(folder, "about.json").read_text())
    accuracy, models = train(graph, about["classes"], about["seed"], options.batch)
    is_first = torch.distributed.get_rank() == 0
    for name, model in models.items():
        packed = lowbit.freeze(model)
        logits = dgl.distributed.DistTensor((graph.num_nodes(), about["classes"]), torch.float32, name)
        inference(packed, graph, graph.ndata["feat"], out=logits)
        torch.distributed.barrier()
        if is_first:
            packed.save(Path(folder, f"{name}.safetensors"))
            torch.save(logits[torch.arange(graph.num_nodes())], Path(folder, f"{name}.pt"))
    if is_first:
        Path(folder, "accuracy.json").write_text(json.dumps(accuracy))
    torch.distributed.barrier()


if "DGL_ROLE" in os.environ:
    trainer(options.folder)
    sys.exit()

# %%
# Parts
# -----
# METIS cuts the graph into parts of the same size with few edges between them, and each part is written to files, with
# the features and labels of its nodes. Nodes get ids of their own there, those of a part one after another; ``ids`` are
# the original ones.


def partition(graph, folder, seed):
    ids, _ = dgl.distributed.partition_graph(
        graph, "graph", options.parts, folder, balance_ntypes=graph.ndata["train_mask"], balance_edges=True,
        return_mapping=True,
    )  # fmt: skip
    about = {"classes": int(graph.ndata["label"].max()) + 1, "seed": seed}
    Path(folder, "about.json").write_text(json.dumps(about))
    return about["classes"], ids


def loaded(seed):
    return communities(options.nodes, seed=seed) if options.graph == "communities" else load_graph(options.graph, seed)


if options.only == "partition":
    partition(loaded(0), options.folder, 0)
    sys.exit()

# %%
# Servers and trainers
# --------------------
# :class:`dgl_lowbit.distributed.OneHost` plays the machines: a server and a trainer each. What is trained in one
# process is trained on as many labelled nodes a step.

rows = {}
for seed in range(options.seeds):
    graph = loaded(seed)
    label, test_mask = graph.ndata["label"], graph.ndata["test_mask"]
    with tempfile.TemporaryDirectory() as folder:
        classes, ids = partition(graph, folder, seed)
        settings = "--folder", folder, "--epochs", options.epochs, "--batch", options.batch
        command = [sys.executable, sys.argv[0], *settings]
        with OneHost([*command, "--bits", *options.bits], f"{folder}/graph.json", folder, options.parts) as host:
            if any(host.wait()):
                raise SystemExit("\n".join(host.printed("trainer", rank)[-3000:] for rank in range(options.parts)))
        on_parts = json.loads(Path(folder, "accuracy.json").read_text())
        names = [name for name in on_parts if name != "float32"]
        packed = {name: lowbit.load(Path(folder, f"{name}.safetensors")) for name in names}
        computed = {name: torch.load(Path(folder, f"{name}.pt")) for name in names}
    on_one, _ = train(graph, classes, seed, options.parts * options.batch)
    for name in on_parts:
        runs = rows.setdefault(name, ([], [], [], []))
        runs[0].append(on_one[name])
        runs[1].append(on_parts[name])
        if name in packed:
            logits = packed[name].inference(graph, graph.ndata["feat"], batch_size=1000)
            runs[2].append((logits.argmax(1) == label)[test_mask].float().mean().item())
            runs[3].append((logits[ids] == computed[name]).all(1).float().mean().item())

described = [
    [name, mean_std(one), mean_std(parts), *((mean_std(ran), f"{100 * min(equal):.2f} %") if ran else ("-", "-"))]
    for name, (one, parts, ran, equal) in rows.items()
]
print(f"{options.graph}, {graph.num_nodes():,} nodes, {options.parts} parts, seeds: {options.seeds}\n")
print(table(["GraphSAGE", "one process", f"{options.parts} machines", "packed", "the same on parts"], described))

# %%
# The packed model is one of any other run: it was loaded here, and has seen the graph whole. The last column is the
# share of nodes whose numbers have the same bits as those that the machines computed, each on its part.

figure, ax = plt.subplots(figsize=(5, 2.4), layout="constrained")
places = np.arange(len(rows))
for shift, (column, title) in zip((-0.2, 0.2), enumerate(("one process", f"{options.parts} machines"))):
    ax.bar(places + shift, [100 * np.mean(runs[column]) for runs in rows.values()], 0.38, label=title)
ax.set_xticks(places, list(rows))
ax.set(ylabel="test accuracy, %")
ax.legend(loc="lower right")
plt.show()
