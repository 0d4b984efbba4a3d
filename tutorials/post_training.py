"""
Without training: calibrate, round, ship
========================================

A trained model and some data without labels are enough. Ranges come from one look at the data; at 2 bits weights are
rounded on data too, so that each makes up for the errors of those before it, or are tuned to return what the float
model does.

``python tutorials/post_training.py --graph cora --models gcn sage --epochs 200 --seeds 5`` prints the
table of :doc:`/accuracy`.
"""

import tempfile
from pathlib import Path

import dgl
import matplotlib.pyplot as plt

import dgl_lowbit as lowbit
from dgl_lowbit.diagnose import format_diagnosis, format_sensitivity
from dgl_lowbit.experiments.data import load_graph
from dgl_lowbit.experiments.recipes import build
from dgl_lowbit.experiments.settings import settings
from dgl_lowbit.report import mean_std, table
from dgl_lowbit.training import accuracy, predict

options = settings(__doc__, graph="planted", models=("gcn",), epochs=60, steps=100, seeds=1)

# %%
# Ways to do it
# -------------
# Observers say what a range is: that of least error, the extremes, or a percentile. Roundings say how weights become
# codes. Each is one line, and starts from a fresh copy of the float model.

ways = [(bits, "observer", observer) for bits in (8, 4) for observer in ("error", "minmax", "percentile")]
ways += [(2, "rounding", rounding) for rounding in ("nearest", "gptq", "reconstruct")]

results = {}
for name in options.models:
    for seed in range(options.seeds):
        graph = dgl.add_self_loop(load_graph(options.graph, seed))
        feat = graph.ndata["feat"]
        model = build(name, graph, seed)
        lowbit.train(model, graph, seed=seed, epochs=options.epochs, progress=False)
        results.setdefault((name, "float32", "-"), []).append(accuracy(predict(model, graph), graph))
        for bits, what, way in ways:
            low_bit = lowbit.quantize(model, lowbit.QuantConfig(bits))
            lowbit.calibrate(low_bit, graph, feat, steps=options.steps, progress=False, **{what: way})
            packed = lowbit.freeze(low_bit)
            found = accuracy(packed(graph, feat), graph)
            results.setdefault((name, f"INT{bits}", way), []).append(found)

means = {key: 100 * sum(values) / len(values) for key, values in results.items()}
rows = []
for (name, bits, way), values in results.items():
    change = means[name, bits, way] - means[name, "float32", "-"]
    rows.append([name, bits, way, mean_std(values), "-" if bits == "float32" else f"{change:+.1f}"])
print(f"{options.graph}, seeds: {options.seeds}\n")
print(table(["model", "bits", "observer or rounding", "test accuracy", "to float32"], rows))

# %%
# At 2 bits the rounding is what counts.

figure, axes = plt.subplots(1, len(options.models), figsize=(8, 3.4), sharey=True, squeeze=False, layout="constrained")
for ax, model_name in zip(axes.flat, options.models):
    shown = {
        f"{bits}, {way}".replace(", -", ""): mean for (name, bits, way), mean in means.items() if name == model_name
    }
    colours = ["tab:gray", *["tab:blue"] * 3, *["tab:green"] * 3, *["tab:orange"] * 3]
    ax.barh(list(shown), list(shown.values()), color=colours)
    ax.set(title=model_name, xlabel="test accuracy (%)", xlim=(min(means.values()) - 5, max(means.values()) + 1))
axes.flat[0].invert_yaxis()
plt.show()

# %%
# Which layer suffers
# -------------------
# One layer at 2 bits at a time, ranges only, and what that does to the output and to the accuracy; then all quantisers
# of the last model above.


def metric(logits):
    return accuracy(logits, graph, "val_mask")


print(
    format_sensitivity(lowbit.sensitivity(model, graph, feat, config=lowbit.QuantConfig(2), metric=metric)), end="\n\n"
)
print(format_diagnosis(lowbit.diagnose(low_bit, graph, feat)))

# %%
# Ship
# ----
# One file, without labels and without training. :doc:`serving` runs it without torch and DGL.

with tempfile.TemporaryDirectory() as folder:
    path = packed.save(Path(folder) / "model.safetensors")
    float_bytes = sum(parameter.nbytes for parameter in model.parameters())
    print(f"{path.stat().st_size:,} bytes, of {float_bytes:,} in float32")
    again = lowbit.load(path)
assert (again(graph, feat) == packed(graph, feat)).all()

# %%
# :doc:`/which_bits` compares this with training, :doc:`/guides/diagnose` reads the tables.
