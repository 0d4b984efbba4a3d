"""
Bits where they count
=====================

Layers do not suffer alike from few bits. ``sensitivity`` says what each costs by itself; ``allocate`` gives each
component of each layer a width, under a budget and without labels.

``python tutorials/allocation.py --graph cora --model sage`` does it to a GraphSAGE on Cora.
"""

import itertools

import dgl
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

import dgl_lowbit as lowbit
from dgl_lowbit.diagnose import format_sensitivity
from dgl_lowbit.experiments.data import load_graph
from dgl_lowbit.experiments.recipes import build
from dgl_lowbit.experiments.settings import settings
from dgl_lowbit.report import table
from dgl_lowbit.training import accuracy, distillation_loss, predict

options = settings(__doc__, graph="planted", model="gcn", bits=(1, 2, 4), epochs=60)

# %%
# A trained model
# ---------------
# Features are brought down to 64 numbers first, their principal components, so that the many trials below are quick,
# and so that few bits lose something of the input too, which they do not of bags of words.

torch.manual_seed(0)
graph = dgl.add_self_loop(load_graph(options.graph))
_, _, components = torch.pca_lowrank(graph.ndata["feat"], 64)
graph.ndata["feat"] = feat = F.normalize(graph.ndata["feat"] @ components)
test = graph.ndata["test_mask"]
model = build(options.model, graph, 0)
lowbit.train(model, graph, epochs=options.epochs, progress=False)
expected = predict(model, graph)

# %%
# What each layer costs
# ---------------------
# One layer at 2 bits at a time, calibrated and not trained, the one that costs most first: the signal-to-noise ratio of
# the model's output, and what happens to its validation accuracy.


def metric(logits):
    return accuracy(logits, graph, "val_mask")


print(format_sensitivity(lowbit.sensitivity(model, graph, feat, config=lowbit.QuantConfig(2), metric=metric)))

# %%
# Under a budget
# --------------
# A budget says what counts: bytes of the file, of codes that layers make of nodes, of what edges read, or the mean
# width. Here it is the file: at most the bytes that the model has with 1, 2 or 4 bits everywhere. ``allocate`` compares
# the low-bit model's output with the float one's on validation nodes and lowers first what loses least for what it
# saves. The divergence below is that on the test nodes, which it has not seen; nothing is trained.

points, chosen, rows = {"everywhere": [], "allocated": []}, [], []
for bits in options.bits:
    everywhere = lowbit.QuantConfig(bits)
    most = lowbit.allocation.cost(model, everywhere, graph, feat)["model"]
    allocated = lowbit.allocate(model, graph, feat, budget={"model": most}, progress=False)
    chosen.append(dict(allocated.overrides))
    for name, config in (("everywhere", everywhere), ("allocated", allocated)):
        low_bit = lowbit.calibrate(lowbit.quantize(model, config, graph, feat), graph, feat)
        logits = predict(low_bit, graph)
        size = lowbit.allocation.cost(model, config, graph, feat)["model"]
        points[name].append((size, distillation_loss(logits[test], expected[test]).item()))
        of_labels = f"{100 * accuracy(logits, graph):.1f} %"
        rows.append([f"{bits} bits {name}", f"{size:,}", f"{points[name][-1][1]:.4f}", of_labels])
print(table(["budget", "bytes of arrays", "divergence", "test accuracy"], rows))

# %%

figure, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
for (name, values), colour in zip(points.items(), ("tab:gray", "tab:orange")):
    ax.semilogy(*zip(*values), color=colour, marker="o", label=name)
ax.set(xlabel="bytes of arrays", ylabel="divergence from float32")
ax.legend()
plt.show()

# %%
# Which component has how many
# ----------------------------
# What is not in the file may have all the bits there are. Where it counts too, the budget says so, as in
# ``budget={"model": 2000, "states": 400_000}``.

names = list(chosen[0])
widths = torch.tensor([[allocated[name] for allocated in chosen] for name in names])
figure, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
ax.imshow(widths.log2().numpy(), cmap="viridis", aspect="auto", vmin=0, vmax=3)
for row, column in itertools.product(*map(range, widths.shape)):
    width = widths[row, column].item()
    ax.text(column, row, width, ha="center", va="center", color="black" if width > 2 else "white")
ax.set_xticks(range(len(options.bits)), options.bits)
ax.set_yticks(range(len(names)), names)
ax.set_xlabel("budget: the file's size with as many bits everywhere")
plt.show()

# %%
# Train with what was chosen, ``lowbit.fit(float_model, graph, config, float_epochs=0)``. :doc:`/which_bits` says when
# this pays, and ``lowbit.fit(…, budget=…)`` learns the widths in training instead.
