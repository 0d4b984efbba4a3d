"""
Bits where they count
=====================

Layers do not suffer alike from few bits. ``sensitivity`` says what each costs by itself; ``allocate`` gives each
component of each layer a width, under a budget and without labels.

``python tutorials/allocation.py --graph cora --model sage`` does it to a GraphSAGE on Cora.
"""

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

options = settings(__doc__, graph="planted", model="gcn", budgets=(2.0, 3.0, 4.0), epochs=60)

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
# The budget here is the mean width; bytes of the file, of codes between layers, and of what edges read are others.
# ``allocate`` compares the low-bit model's output with the float one's on validation nodes, and lowers first what loses
# least. The divergence below is that of the test nodes, which it has not seen.

configs = {f"{mean:g} on average": lowbit.allocate(model, graph, feat, budget={"bits": mean}, progress=False)
           for mean in options.budgets}  # fmt: skip
configs |= {f"{bits} everywhere": lowbit.QuantConfig(bits) for bits in (2, 4, 8)}

points, rows = {}, []
for name, config in configs.items():
    low_bit = lowbit.calibrate(lowbit.quantize(model, config, graph, feat), graph, feat)
    logits = predict(low_bit, graph)
    cost = lowbit.allocation.cost(model, config, graph, feat)
    points[name] = cost["bits"], distillation_loss(logits[test], expected[test]).item()
    rows.append([name, f"{cost['bits']:.2f}", f"{cost['model']:,}", f"{points[name][1]:.4f}",
                 f"{100 * accuracy(logits, graph):.1f} %"])  # fmt: skip
print(table(["bits", "mean", "bytes of arrays", "divergence", "test accuracy"], rows))

# %%
# Allocated widths lose less than the same width everywhere.

figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
for kind, colour in (("everywhere", "tab:gray"), ("on average", "tab:orange")):
    means, divergences = zip(*sorted(point for name, point in points.items() if name.endswith(kind)))
    ax.plot(means, divergences, color=colour, marker="o", label=f"bits {kind}")
ax.set(xlabel="mean bits", ylabel="divergence from float32", xscale="log", yscale="log", xticks=(2, 4, 8),
       xticklabels=(2, 4, 8))  # fmt: skip
ax.minorticks_off()
ax.legend()
plt.show()

# %%
# Which component has how many
# ----------------------------

chosen = [dict(configs[f"{mean:g} on average"].overrides) for mean in options.budgets]
names = list(chosen[0])
bits = torch.tensor([[widths[name] for widths in chosen] for name in names])
figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
ax.imshow(bits.log2().numpy(), cmap="viridis", aspect="auto", vmin=0, vmax=3)
for row, widths in enumerate(bits.tolist()):
    for column, width in enumerate(widths):
        ax.text(column, row, width, ha="center", va="center", color="black" if width > 2 else "white")
ax.set_xticks(range(len(options.budgets)), options.budgets)
ax.set_yticks(range(len(names)), names)
ax.set_xlabel("budget: mean bits")
plt.show()

# %%
# Train with what was chosen, ``lowbit.fit(model, graph, config, float_epochs=0)``. :doc:`/which_bits` says when this
# pays, and ``lowbit.fit(…, budget=…)`` learns the widths in training instead.
