"""
Freeze, run, serve
==================

A trained low-bit model becomes one file. This page runs it beside DGL, without torch and DGL, for some nodes, after a
change, and behind HTTP.

``python tutorials/serving.py --graph pubmed`` runs it on Pubmed.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import dgl
import matplotlib.pyplot as plt
import numpy as np
import torch

import dgl_lowbit as lowbit
import numba_kernels
from dgl_lowbit.experiments.data import load_graph
from dgl_lowbit.experiments.recipes import build
from dgl_lowbit.experiments.settings import settings
from dgl_lowbit.report import table

options = settings(__doc__, graph="planted", bits=2, epochs=60, repeats=21)
graph = dgl.add_self_loop(load_graph(options.graph))
feat = graph.ndata["feat"]
fitted = lowbit.fit(
    build("gcn", graph, 0), graph, lowbit.QuantConfig(options.bits), epochs=options.epochs, progress=False
)

# %%
# Freeze
# ------
# ``freeze`` runs the model once, records what it computes, and packs that. ``info`` says what became of it.

work = tempfile.TemporaryDirectory()
folder = Path(work.name)
packed = lowbit.freeze(fitted.model, graph, feat)
path = packed.save(folder / "gcn.safetensors")
packed = lowbit.load(path)
print(f"{path.stat().st_size:,} bytes; runs in float32: {packed.info.get('float32') or 'nothing'}")

# %%
# Run, beside DGL
# ---------------
# The packed model takes DGL graphs and tensors, and returns what the trained one does.

with torch.no_grad():
    logits, trained = packed(graph, feat), fitted.model.eval()(graph, feat)
print(f"{100 * (logits.argmax(1) == trained.argmax(1)).float().mean():.2f} % of the nodes are predicted alike.")

# %%
# Run, without torch and DGL
# --------------------------
# The same file, on NumPy arrays: a graph is the in-neighbours of its nodes in compressed form. This is all that a
# machine needs that only predicts.

indptr, indices, _ = (part.numpy() for part in graph.adj_tensors("csc"))
features = feat.numpy()
runtime = numba_kernels.load(path)
assert np.array_equal(runtime((indptr, indices), features), logits.numpy())

# %%
# Some nodes, and changes
# -----------------------
# Only nodes that the asked ones follow from are read. ``prepare`` keeps the codes of features that stay; ``update``
# computes what a change reaches.

few = np.arange(10)
prepared = runtime.prepare((indptr, indices), features)
assert np.array_equal(prepared(nodes=few), logits[few].numpy())

runtime.update((indptr, indices), features)
changed = features.copy()
changed[3] = features[7]
updated = runtime.update((indptr, indices), changed, changed=[3])
moved = np.flatnonzero((updated != logits.numpy()).any(1))
print(f"A node's features changed: {len(moved)} of {len(logits):,} rows did, all at most {runtime.hops} edges away.")

# %%
# How long it takes
# -----------------
# Medians, on this machine, after each was called once. Small graphs fit in the cache; on large ones packed models gain
# more, see :doc:`/speed`.


def milliseconds(call):
    call()
    times = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


teacher, held = fitted.teacher.eval(), numba_kernels.Graph(indptr, indices)
with torch.no_grad():
    times = {
        "float32, DGL": milliseconds(lambda: teacher(graph, feat)),
        f"INT{options.bits}, all nodes": milliseconds(lambda: runtime(held, features)),
        f"INT{options.bits}, ten nodes": milliseconds(lambda: runtime(held, features, nodes=few)),
        f"INT{options.bits}, ten nodes, prepared": milliseconds(lambda: prepared(nodes=few)),
    }
print(table(["", "ms"], [[name, f"{value:.2f}"] for name, value in times.items()]))

figure, ax = plt.subplots(figsize=(7, 2.6), layout="constrained")
bars = ax.barh(list(times), list(times.values()), color=["tab:gray", *["tab:orange"] * 3])
ax.bar_label(bars, fmt=" %.2f")
ax.set_xlabel("ms, median")
ax.margins(x=0.12)
ax.invert_yaxis()
plt.show()

# %%
# Serve
# -----
# ``python -m numba_kernels serve MODEL GRAPH FEATURES`` answers requests over HTTP; it needs the extra ``serve``. Here
# it runs in a process of its own, on a free port, and is asked for two nodes.

np.savez(folder / "graph.npz", indptr=indptr, indices=indices)
np.save(folder / "feat.npy", features)
command = [sys.executable, "-m", "numba_kernels", "serve", path, "graph.npz", "feat.npy", "--port", "0"]
with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
    try:
        address = server.stdout.readline().strip()
        request = urllib.request.Request(f"{address}/predict", data=json.dumps({"nodes": [3, 14]}).encode())
        with urllib.request.urlopen(request) as response:
            answer = np.array(json.load(response)["logits"], np.float32)
    finally:
        server.terminate()
assert np.array_equal(answer, logits[[3, 14]].numpy())
print("classes of nodes 3 and 14:", answer.argmax(1))
work.cleanup()

# %%
# :doc:`/guides/deployment` has threads, warm caches and images, :doc:`/runtime` all commands and limits.
