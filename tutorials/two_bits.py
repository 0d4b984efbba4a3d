"""
What two bits do to a tensor
============================

Two bits are four levels. Where they lie decides what is left of a tensor, so their range is searched on data and then
learned. This page looks at one tensor, and then at the ranges of a model before and after training.

``python tutorials/two_bits.py --graph cora`` takes the model's data from Cora.
"""

import math

import dgl
import matplotlib.pyplot as plt
import torch

import dgl_lowbit as lowbit
from dgl_lowbit.experiments.data import load_graph
from dgl_lowbit.experiments.recipes import build
from dgl_lowbit.experiments.settings import settings
from dgl_lowbit.quant import QLRQuantizer, alpha_candidates
from dgl_lowbit.report import table

options = settings(__doc__, graph="planted", bits=2, epochs=60)

# %%
# Levels
# ------
# A number x is kept as a code q and stands for ``scale · (q − zero_point)``. The zero point need not be whole: the grid
# without zero, ``half``, has as many levels on either side; the ``affine`` grid has one at zero and is one short on one
# side. Here are ten thousand numbers of both signs, as weights are, and what is left of them after a ReLU, with the
# levels that a search found.

torch.manual_seed(0)
signed = torch.randn(10_000)
tensors = {"signed": signed, "ReLU": signed.relu()}


def observed(x, bits, grid):
    """A quantiser whose range was searched on ``x``."""
    quantizer = QLRQuantizer(bits, grid=grid).train()
    quantizer(x)
    return quantizer.eval()


figure, axes = plt.subplots(2, 2, figsize=(8, 5), sharex="col", layout="constrained")
for column, (name, x) in zip(axes.T, tensors.items()):
    for ax, grid in zip(column, ("affine", "half")):
        ax.hist(x.numpy(), bins=80, color="tab:gray", alpha=0.5)
        for level in observed(x, 2, grid).dequantize(torch.arange(4)).tolist():
            ax.axvline(level, color="tab:orange", linewidth=2)
        ax.set(title=f"{name}, {grid}", yticks=[], yscale="log")
plt.show()

# %%
# How much is lost is the signal-to-noise ratio. A bit more is five to six decibels.


def snr(x, rounded):
    return 10 * math.log10(x.square().sum() / (x - rounded).square().sum())


rows = []
for bits in (2, 3, 4, 8):
    losses = [
        f"{snr(x, observed(x, bits, grid).fake_quantize(x).detach()):.1f}"
        for x in tensors.values()
        for grid in ("affine", "half")
    ]
    rows.append([bits, *losses])
print("SNR in dB\n")
print(table(["bits", *(f"{name}, {grid}" for name in tensors for grid in ("affine", "half"))], rows))

# %%
# The range
# ---------
# The levels cover a part α of the observed range. Near 1 the outermost numbers set the scale for all; a small α clips
# them and is finer inside. Calibration takes the α of least error. With few bits that is far from 1.

alphas = alpha_candidates()
figure, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
rows = []
for bits, colour in ((2, "tab:orange"), (4, "tab:blue"), (8, "tab:green")):
    quantizer = observed(signed, bits, "half")
    found = quantizer.alpha.item()
    errors = []
    for alpha in alphas:
        with torch.no_grad():
            quantizer.log_alpha.fill_(math.log(alpha))
            errors.append((quantizer.fake_quantize(signed) - signed).square().mean().item())
    ax.loglog(alphas, errors, color=colour, label=f"{bits} bits")
    ax.axvline(found, color=colour, linestyle=":")
    rows.append([bits, f"{found:.2f}", f"{errors[0] / min(errors):.1f}x"])
ax.set(xlabel="α", ylabel="squared error")
ax.legend()
plt.show()
print(table(["bits", "α that is taken", "error of the whole range"], rows))

# %%
# Ranges are learned
# ------------------
# α is a parameter: its gradient passes through the rounding. What training makes of it serves the loss, not the error
# of each tensor: the signal-to-noise ratio of a quantiser may well fall while the model gets better.

graph = dgl.add_self_loop(load_graph(options.graph))
feat = graph.ndata["feat"]
fitted = {"trained": lowbit.fit(build("gcn", graph, 0), graph, lowbit.QuantConfig(options.bits), epochs=options.epochs,
                                quantizer_lr=0.003, progress=False)}  # fmt: skip
calibrated = lowbit.quantize(fitted["trained"].teacher, lowbit.QuantConfig(options.bits), graph, feat)
models = {"calibrated": lowbit.calibrate(calibrated, graph, feat), "trained": fitted["trained"].model}


def ranges(model):
    """Mean α and SNR of each quantiser, by name."""
    found = {row["quantizer"]: row["snr"] for row in lowbit.diagnose(model, graph, feat)}
    return {name: (model.get_submodule(name).alpha.mean().item(), ratio) for name, ratio in found.items()}


before, after = (ranges(model) for model in models.values())
print(
    table(
        ["quantiser", "α, calibrated", "α, trained", "SNR, calibrated", "SNR, trained"],
        [
            [name, *(f"{alpha:.2f}" for alpha in (before[name][0], after[name][0])),
             *(f"{ratio:.1f}" for ratio in (before[name][1], after[name][1]))]
            for name in before
        ],
    )
)  # fmt: skip
