"""What the first prediction of a machine and of a process costs, at 2 bits.

    python benchmarks/first_call.py [--models gcn,sage,gat,gatv2,smp]

For each model an empty folder of kernels and two processes, one after the other, that import the package, load a packed
model and predict: on mostly-zero features and on dense ones. The first process compiles, the second loads. CPU seconds
of the predictions are counted, not those of the imports.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PREDICT = """
import json, sys, time
from pathlib import Path
import numpy as np
import numba_kernels as nk
from numba_kernels.run import executor  # imports Numba
folder = Path(sys.argv[1])
graph = nk.Graph(np.load(folder / "indptr.npy"), np.load(folder / "indices.npy"))
model, feat = nk.load(folder / "model.safetensors"), np.load(folder / "feat.npy")
seconds = []
for features in (feat, np.random.default_rng(0).random(feat.shape, np.float32)):
    start, cpu = time.perf_counter(), time.process_time()
    model(graph, features)
    seconds.append((time.process_time() - cpu, time.perf_counter() - start))
print(json.dumps(seconds))
"""


def make(folder: Path, name: str):
    """Write a packed model, a graph of Cora's size and its bags of words into ``folder``."""
    import dgl
    import dgl.nn
    import numpy as np
    import torch
    from torch import nn

    import dgl_lowbit as lowbit
    from dgl_lowbit.experiments.data import load_graph
    from dgl_lowbit.experiments.models import MODELS

    class Attention(nn.Module):
        def __init__(self, make, width, classes):
            super().__init__()
            self.first, self.second = make(width, 16, 8), make(128, classes, 1)

        def forward(self, graph, feat):
            return self.second(graph, torch.relu(self.first(graph, feat)).flatten(1)).mean(1)

    torch.manual_seed(0)
    graph = dgl.add_self_loop(load_graph("planted"))
    feat = graph.ndata["feat"]
    attention = {"gat": dgl.nn.GATConv, "gatv2": dgl.nn.GATv2Conv}
    model = Attention(attention[name], feat.shape[1], 7) if name in attention else MODELS[name](feat.shape[1], 7)
    low = lowbit.calibrate(lowbit.quantize(model, lowbit.QuantConfig(2)), graph, feat)
    lowbit.freeze(low.eval()).save(folder / "model.safetensors")
    indptr, indices, _ = graph.adj_tensors("csc")
    for key, array in {"indptr": indptr, "indices": indices, "feat": feat}.items():
        np.save(folder / f"{key}.npy", array.numpy())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="gcn,sage,gat,gatv2,smp", help="default: %(default)s")
    names = parser.parse_args().models.split(",")
    from dgl_lowbit.report import table

    rows = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), name)
            environment = {**os.environ, "NUMBA_CACHE_DIR": f"{folder}/kernels"}
            for process in ("first", "next"):
                done = subprocess.run(
                    [sys.executable, "-c", PREDICT, folder],
                    env=environment, capture_output=True, text=True, check=True,
                )  # fmt: skip
                (sparse, dense) = json.loads(done.stdout)
                cpu, wall = (sparse[n] + dense[n] for n in range(2))
                rows.append([name, process, f"{sparse[0]:.2f}", f"{dense[0]:.2f}", f"{cpu:.2f}", f"{wall:.2f}"])
    print(table(["model", "process", "mostly zero, CPU s", "dense, CPU s", "both", "both, wall s"], rows))


if __name__ == "__main__":
    main()
