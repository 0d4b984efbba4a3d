"""Peak memory and first call of an INT2 three-layer GCN (128-256-256-40), against DGL in float32.

    python benchmarks/footprint.py [--graph 500k]

Every measurement is a process of its own, which loads the graph and the features from disk and predicts once. The
packed one imports neither torch nor DGL. Peak memory is what the operating system counted; "the call" is what it rose
by from before the prediction. "Cold" compiles every kernel, "warm" finds them in the disk cache.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def make(folder: Path, name: str):
    """Write graph, features, the float32 weights and the packed model into ``folder``."""
    import dgl
    import numpy as np
    import torch

    import dgl_lowbit as lowbit
    from dgl_lowbit.experiments.bench.work import SYNTHETIC, ThreeLayers, skewed_graph

    torch.manual_seed(0)
    graph = dgl.add_self_loop(skewed_graph(*SYNTHETIC[name]))
    feat = torch.randn(graph.num_nodes(), 128)
    model = ThreeLayers(dgl.nn.GraphConv).eval()
    low = lowbit.calibrate(lowbit.quantize(model, lowbit.QuantConfig(2)), graph, feat)
    lowbit.freeze(low).save(folder / "model.safetensors")
    torch.save(model.state_dict(), folder / "model.pt")
    indptr, indices, _ = graph.adj_tensors("csc")
    np.save(folder / "indptr.npy", indptr.numpy())
    np.save(folder / "indices.npy", indices.numpy())
    np.save(folder / "feat.npy", feat.numpy())


def peak(pid="self") -> tuple[int, int]:
    """Peak and present resident bytes of this process."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return tuple(int(lines[key].split()[0]) * 1024 for key in ("VmHWM", "VmRSS"))


def predict_packed(folder: Path) -> dict:
    """One prediction of the packed model."""
    import numpy as np

    import numba_kernels

    graph = numba_kernels.Graph(np.load(folder / "indptr.npy"), np.load(folder / "indices.npy"))
    feat = np.load(folder / "feat.npy")
    model = numba_kernels.load(folder / "model.safetensors")
    return _call(lambda: model(graph, feat))


def predict_dgl(folder: Path) -> dict:
    """One prediction of the float32 model."""
    import dgl
    import numpy as np
    import torch

    from dgl_lowbit.experiments.bench.work import ThreeLayers

    model = ThreeLayers(dgl.nn.GraphConv).eval()
    model.load_state_dict(torch.load(folder / "model.pt"))
    indptr, indices = (torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("indptr", "indices"))
    graph = dgl.graph(("csc", (indptr, indices, torch.empty(0, dtype=indptr.dtype))))
    feat = torch.from_numpy(np.load(folder / "feat.npy"))
    with torch.no_grad():
        return _call(lambda: model(graph, feat))


def _call(function) -> dict:
    _, before = peak()
    start = time.perf_counter()
    function()
    seconds = time.perf_counter() - start
    highest, _ = peak()
    return {"seconds": seconds, "peak": highest, "rise": highest - before}


def run(part: str, folder: Path, **environment) -> dict:
    """``part`` of this script in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--part", part, "--folder", str(folder)],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    sys.stderr.write(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graph", default="500k")
    parser.add_argument("--part")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the table there as well")
    options = parser.parse_args()
    if options.part:
        print(json.dumps({"packed": predict_packed, "dgl": predict_dgl}[options.part](options.folder)))
        return
    from dgl_lowbit.experiments.tables import show
    from dgl_lowbit.report import table

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, options.graph)
        cache = {"NUMBA_CACHE_DIR": str(folder / "cache")}
        rows = {
            "DGL float32": run("dgl", folder),
            "INT2 packed, cold": run("packed", folder, **cache),
            "INT2 packed, warm": run("packed", folder, **cache),
        }
    base = rows["DGL float32"]
    cells = [
        [
            label,
            f"{row['seconds']:.2f}",
            *(f"{row[key] / 2**20:,.0f} ({row[key] / base[key]:.2f})" for key in ("peak", "rise")),
        ]
        for label, row in rows.items()
    ]
    show(
        table([f"one prediction, {options.graph}", "first call, s", "peak MiB (share)", "the call MiB (share)"], cells),
        options.table,
    )


if __name__ == "__main__":
    main()
