"""A three-layer SAGE at INT2 (128-256-256-40) on graphs larger than memory: time, memory, and what both follow.

    python benchmarks/out_of_core.py --folder DISK [--edges 100,10] [--limit 4] [--table FILE]

For each number of edges, in millions, a random graph of a tenth as many nodes is written into DISK, with 128 float32
features a node. Each run is a process of its own that begins with an empty file cache: "unlimited" has the memory of
the machine, "limited" is held to ``--limit`` GiB by the memory controller of control groups, which counts cached files
too; where there is none, its resident pages are sampled from ``smaps_rollup``. What is generated is removed, unless
``--keep`` says not to.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

FEATURES, CHUNK, DEGREE = 128, 1 << 20, 10
GROUPS = Path("/sys/fs/cgroup/memory")


def make_model(path: Path) -> None:
    """Write the packed model."""
    import dgl
    import torch

    import dgl_lowbit as lowbit
    from dgl_lowbit.experiments.bench.work import ThreeLayers, skewed_graph

    torch.manual_seed(0)
    graph = dgl.add_self_loop(skewed_graph(2000, 20_000))
    feat = torch.randn(graph.num_nodes(), FEATURES)
    model = ThreeLayers(lambda inputs, outputs: dgl.nn.SAGEConv(inputs, outputs, "mean")).eval()
    lowbit.freeze(lowbit.calibrate(lowbit.quantize(model, lowbit.QuantConfig(2)), graph, feat), graph, feat).save(path)


def make_graph(folder: Path, nodes: int, edges: int, seed: int = 0) -> None:
    """Write ``indptr``, ``indices`` and features, some at a time."""
    rng = np.random.default_rng(seed)
    degrees = np.bincount(rng.integers(nodes, size=edges, dtype=np.int32), minlength=nodes)
    (folder / "graph").mkdir()
    np.save(folder / "graph" / "indptr.npy", np.concatenate([[0], np.cumsum(degrees)]))
    create = np.lib.format.open_memmap
    indices = create(folder / "graph" / "indices.npy", "w+", np.int32, (edges,))
    for start in range(0, edges, CHUNK):
        indices[start : start + CHUNK] = rng.integers(nodes, size=len(indices[start : start + CHUNK]))
    features = create(folder / "feat.npy", "w+", np.float32, (nodes, FEATURES))
    for start in range(0, nodes, CHUNK // 8):
        part = features[start : start + CHUNK // 8]
        part[:] = rng.standard_normal(part.shape, np.float32)
    for array in (indices, features):
        array.flush()


@contextlib.contextmanager
def made(options, edges: int):
    """A folder with model, graph and features, found or made, and removed unless it is to be kept."""
    folder = options.folder / f"out-of-core-{edges}"
    if not (folder / "states").exists():  # made last
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        make_graph(folder, edges // DEGREE, edges)
        if options.model is None:
            make_model(folder / "model.safetensors")
        else:
            shutil.copyfile(options.model, folder / "model.safetensors")
        (folder / "states").mkdir()
    try:
        yield folder
    finally:
        if not options.keep:
            shutil.rmtree(folder)


def forget_files(folder: Path) -> None:
    """Take files out of the cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def predict(folder: Path, threads: int | None, most_memory: int | None, batch_size: int) -> None:
    """One run, whose seconds and peak memory are printed."""
    import numba_kernels

    model = numba_kernels.load(folder / "model.safetensors", threads)
    small = np.zeros((2, FEATURES), np.float32) + 1
    model.inference(([0, 1, 2], [1, 0]), small)  # compiled before the clock starts
    feat = np.load(folder / "feat.npy", mmap_mode="r")
    start, cpu = time.perf_counter(), time.process_time()
    graph = numba_kernels.array_files.read_graph(folder / "graph", folder=folder)
    read = time.perf_counter()
    files = {"out": folder / "out.npy", "folder": folder / "states"}
    out = model.inference(graph, feat, batch_size=batch_size, most_memory=most_memory, progress=True, **files)
    seconds = time.perf_counter() - start
    usage = model.estimate(graph)
    digest = int(np.asarray(out[:: max(len(out) // 1000, 1)]).view(np.uint32).astype(np.uint64).sum())
    print(json.dumps({
        "seconds": seconds, "graph": read - start, "cpu": time.process_time() - cpu, "peak": _status("VmHWM"),
        "estimate": usage._asdict(), "digest": digest,
    }))  # fmt: skip


def _status(key: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0]) * 1024


@contextlib.contextmanager
def control_group(limit: int):
    """A control group that may use ``limit`` bytes, removed at the end; None where none can be made."""
    group = GROUPS / f"out-of-core-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(limit))
    except OSError:
        yield None
        return
    try:
        yield group
    finally:
        group.rmdir()


def sampled(process, found: dict) -> None:
    """Keep the largest resident size of a process, and of it what is not of files, until it ends."""
    while process.poll() is None:
        with contextlib.suppress(OSError, ValueError):
            text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            sizes = {line.split()[0]: int(line.split()[1]) * 1024 for line in text.splitlines()[1:]}
            found["resident"] = max(found.get("resident", 0), sizes["Rss:"])
            found["anonymous"] = max(found.get("anonymous", 0), sizes["Anonymous:"])
        time.sleep(0.2)


def run(folder: Path, options, limit: int | None) -> dict:
    """A run in a process of its own, its files out of the cache, in a control group if there is a limit."""
    forget_files(folder)
    command = [sys.executable, __file__, "--folder", str(folder), "--predict"]
    for name in ("threads", "most_memory", "batch_size"):
        if getattr(options, name) is not None:
            command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    with contextlib.ExitStack() as stack:
        group = None if limit is None else stack.enter_context(control_group(limit))
        enter = None if group is None else lambda: (group / "cgroup.procs").write_text(str(os.getpid()))
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=enter)
        found: dict = {"by": "no limit" if limit is None else "control group" if group else "not enforced"}
        sampler = threading.Thread(target=sampled, args=(process, found))
        sampler.start()
        output, _ = process.communicate()
        sampler.join()
        if process.returncode:
            raise SystemExit(f"a run ended with status {process.returncode}.")
        if group is not None:
            found["group peak"] = int((group / "memory.max_usage_in_bytes").read_text())
    return {**json.loads(output.splitlines()[-1]), **found}


def told(options) -> tuple[list, list]:
    """What estimates say of graphs up to 10^9 edges, and of the largest that the disk holds, as a table."""
    import numba_kernels

    with tempfile.TemporaryDirectory() as name:
        path = options.model or Path(name) / "model.safetensors"
        if options.model is None:
            make_model(path)
        model, free = numba_kernels.load(path, options.threads), shutil.disk_usage(options.folder).free

    def row(edges, label=""):
        usage = model.estimate(nodes=edges // DEGREE, edges=edges, batch_size=options.batch_size, most_memory=2**62)
        inputs = usage.features + 4 * edges + 8 * (edges // DEGREE + 1)
        sizes = inputs, usage.graph, usage.states, usage.results, usage.sources, usage.memory_with_folder
        return inputs + usage.disk, [
            f"{edges / 1e6:,.0f} M{label}", *(f"{size / 2**30:.2f}" for size in sizes), f"{usage.seconds:,.0f}",
        ]  # fmt: skip

    cells, largest = [row(int(edges))[1] for edges in (1e7, 1e8, 1e9)], int(1e6)
    bytes_an_edge = row(largest)[0] / largest
    cells.append(row(int(free / bytes_an_edge) // 10**6 * 10**6, ", what the disk holds")[1])
    header = [
        "edges", "inputs GiB", "graph GiB", "states GiB", "results GiB", "read at random GiB", "memory GiB", "seconds",
    ]  # fmt: skip
    return header, cells


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="on a disk with room for features")
    parser.add_argument("--edges", default="100,10", help="millions of edges of each graph; default: 100,10")
    parser.add_argument("--limit", type=float, default=4, help="GiB of the limited run; default: 4")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--batch-size", type=int, default=65_536, help="default: 65536")
    parser.add_argument("--model", type=Path, help="another packed model of 128 features; default: the SAGE above")
    parser.add_argument("--most-memory", type=int, help="bytes of states that are read at random at a time")
    parser.add_argument("--keep", action="store_true", help="leave the graphs, for the next time")
    parser.add_argument("--model-only", action="store_true", help="print what estimates say, and run nothing")
    parser.add_argument("--predict", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the table there as well")
    options = parser.parse_args()
    if options.predict:
        predict(options.folder, options.threads, options.most_memory, options.batch_size)
        return
    from dgl_lowbit.experiments.tables import show
    from dgl_lowbit.report import table

    if options.model_only:
        show(table(*told(options)), options.table)
        return
    header = [
        "edges", "memory", "seconds (to unlimited)", "CPU s (to unlimited)", "CPU an edge, to the first", "group GiB",
        "resident GiB", "anonymous GiB", "estimate GiB",
    ]  # fmt: skip
    cells, first = [], None
    for millions in map(float, options.edges.split(",")):
        edges = int(millions * 1e6)
        with made(options, edges) as folder:
            rows = {}
            for label, limit in (("limited", int(options.limit * 2**30)), ("unlimited", None)):
                rows[label] = run(folder, options, limit)
                print(json.dumps({"edges": edges, "run": label, **rows[label]}), file=sys.stderr, flush=True)
        if len({row["digest"] for row in rows.values()}) != 1:
            raise SystemExit("runs with and without a limit gave different results.")
        base = rows["unlimited"]
        for label, row in rows.items():
            first = first or row["cpu"] / edges
            cells.append([
                f"{millions:g} M", label,
                *(f"{row[key]:.1f} ({row[key] / base[key]:.2f}x)" for key in ("seconds", "cpu")),
                f"{row['cpu'] / edges / first:.2f}x",
                *(f"{row[key] / 2**30:.2f}" if key in row else "-" for key in ("group peak", "resident", "anonymous")),
                f"{row['estimate']['memory_with_folder'] / 2**30:.2f}",
            ])  # fmt: skip
        show(table(header, cells), options.table)


if __name__ == "__main__":
    main()
