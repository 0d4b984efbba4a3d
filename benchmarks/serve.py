"""A packed model behind HTTP against DGL's float32 behind the same server, and the server killed at random moments.

    python benchmarks/serve.py [--graph 170k] [--seconds 300] [--kills 50] [--threads 1] [--dgl-threads 2]

A two-layer GCN, 128-256-40 at 2 bits, on a random graph; requests are for the logits of 100 random nodes, as ``.npy``.
Each of 64 connections, of one client process on loopback, asks again when it has its answer, and compares it with a
direct run: packed ones to the bit, float32 ones to 1e-3. DGL's handler samples blocks of the full neighbourhood of the
nodes that are asked for together, as often as the packed model's is run, or, with ``--alone``, of each request. The
servers take turns, each in a process of its own. Then the packed one is started and killed (SIGKILL) as often as
``--kills`` says, some seconds later, under requests, and must start again with no file changed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

WIDTHS = 128, 256, 40
FILES = "model.safetensors", "graph.npz", "feat.npy"
KEPT = "dgl.npy", "packed.npy", "model.pt", "kernels"
ASK = b"POST /predict HTTP/1.1\r\nhost: localhost\r\naccept: application/x-npy\r\ncontent-length: %d\r\n\r\n%s"


def make(folder: Path, name: str):
    """Write graph, features, both models and what each of them gives for all nodes into ``folder``."""
    import dgl
    import torch

    import dgl_lowbit as lowbit
    from dgl_lowbit.experiments.bench.work import SYNTHETIC, skewed_graph

    torch.manual_seed(0)
    graph = dgl.add_self_loop(skewed_graph(*SYNTHETIC[name]))
    feat, model = torch.randn(graph.num_nodes(), WIDTHS[0]), float_model()
    with torch.no_grad():
        np.save(folder / "dgl.npy", model(graph, feat).numpy())
    packed = lowbit.freeze(lowbit.calibrate(lowbit.quantize(model, lowbit.QuantConfig(2)), graph, feat))
    np.save(folder / "packed.npy", packed(graph, feat).numpy())
    packed.save(folder / "model.safetensors")
    torch.save(model.state_dict(), folder / "model.pt")
    indptr, indices, _ = graph.adj_tensors("csc")
    np.savez(folder / "graph.npz", indptr=indptr.numpy(), indices=indices.numpy())
    np.save(folder / "feat.npy", feat.numpy())


def float_model():
    """The float32 model. Means over in-neighbours, as blocks do not know out-degrees in the whole graph."""
    import dgl.nn
    from torch import nn

    class GCN(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = dgl.nn.GraphConv(*WIDTHS[:2], norm="right")
            self.second = dgl.nn.GraphConv(*WIDTHS[1:], norm="right")

        def forward(self, graph, feat):
            first, second = graph if isinstance(graph, list) else (graph, graph)
            return self.second(second, self.first(first, feat).relu())

    return GCN().eval()


def serve_dgl(folder: Path, threads: int, alone: bool):
    """The server of ``python -m numba_kernels serve`` with DGL's float32 instead of the packed model."""
    import socket
    from types import SimpleNamespace

    import dgl
    import torch

    from numba_kernels.calling import Call
    from numba_kernels.serve import Limits
    from numba_kernels.serve.app import application
    from numba_kernels.serve.server import run

    torch.set_num_threads(threads)
    arrays = np.load(folder / "graph.npz")
    ends = tuple(torch.from_numpy(arrays[name]).long() for name in ("indptr", "indices"))
    graph = dgl.graph(("csc", (*ends, torch.empty(0, dtype=torch.int64))))
    feat, model = torch.from_numpy(np.load(folder / "feat.npy")), float_model()
    model.load_state_dict(torch.load(folder / "model.pt"))
    sampler = dgl.dataloading.MultiLayerFullNeighborSampler(2)

    class Handler:
        graph, check_nodes = SimpleNamespace(num_dst=len(feat)), Call.check_nodes

        @torch.no_grad()
        def run(self, nodes):
            read, _, blocks = sampler.sample_blocks(graph, torch.from_numpy(nodes))
            return model(blocks, feat[read]).numpy()

    handler, limits = Handler(), Limits(max_batch=1 if alone else Limits().max_batch)
    handler.run(np.arange(100))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        run(application(handler, limits), listening, limits)


@contextlib.contextmanager
def server(kind: str, folder: Path, threads: int):
    """A server in a process of its own, which prints its address when it is ready."""
    if kind == "packed":
        command = ["-m", "numba_kernels", "serve", *(str(folder / file) for file in FILES), "--port", "0"]
    else:
        command = [__file__, "--part", kind, "--folder", str(folder)]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "kernels")}
    with subprocess.Popen(
        [sys.executable, *command, "--threads", str(threads)], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def port_of(process) -> int | None:
    """Where a server listens; None if it ended before."""
    line = process.stdout.readline()
    return int(line.rsplit(":", 1)[1]) if line else None


class Client:
    """Connections that ask for random nodes and compare what they get."""

    def __init__(self, port: int, expected: np.ndarray, count: int, exact: bool):
        self.port, self.expected, self.count, self.exact = port, expected, count, exact
        self.seconds, self.wrong, self.lost = [], 0, 0

    async def ask(self, until: float, seed: int):
        """Ask again and again on one connection."""
        rng = np.random.default_rng(seed)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        while time.perf_counter() < until:
            nodes = rng.choice(len(self.expected), self.count, replace=False)
            body = json.dumps({"nodes": nodes.tolist()}).encode()
            start = time.perf_counter()
            try:
                writer.write(ASK % (len(body), body))
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                answer = await reader.readexactly(int(head.split(b"content-length:")[1].split()[0]))
            except (OSError, asyncio.IncompleteReadError):
                self.lost += 1
                return
            self.seconds.append(time.perf_counter() - start)
            self.wrong += not (b" 200 " in head.split(b"\r\n")[0] and self.is_right(answer, nodes))
        writer.close()

    def is_right(self, answer: bytes, nodes: np.ndarray) -> bool:
        """Whether an ``.npy`` file holds the rows of nodes."""
        rows = self.expected[nodes]
        got = np.frombuffer(answer[-rows.nbytes :], np.float32)
        return np.array_equal(got, rows.ravel()) if self.exact else np.allclose(got, rows.ravel(), 1e-3, 1e-3)

    async def ask_all(self, seconds: float, connections: int):
        """Ask on all connections at once."""
        until = time.perf_counter() + seconds
        await asyncio.gather(*(self.ask(until, seed) for seed in range(connections)))


def client(port: int, options) -> dict:
    """The client process: what all connections saw, and its CPU time."""
    kind = "packed" if options.kind == "packed" else "dgl"
    asking = Client(port, np.load(options.folder / f"{kind}.npy"), options.nodes, kind == "packed")
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    asyncio.run(asking.ask_all(options.seconds, options.connections))
    after, wall = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - start
    times = 1e3 * np.array(asking.seconds or [np.nan])
    return {
        "rate": len(asking.seconds) / wall,
        "p50": float(np.quantile(times, 0.5)),
        "p99": float(np.quantile(times, 0.99)),
        "wrong": asking.wrong,
        "lost": asking.lost,
        "answers": len(asking.seconds),
        "cpu": (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / wall,
    }


def measure(kind: str, options) -> dict:
    """A server and a client, each in a process of its own."""
    threads = options.threads if kind == "packed" else options.dgl_threads
    with server(kind, options.folder, threads) as process:
        port = port_of(process)
        shown = ["seconds", "nodes", "connections", "folder"]
        arguments = [text for name in shown for text in (f"--{name}", str(getattr(options, name)))]
        done = subprocess.run(
            [sys.executable, __file__, "--part", "client", "--port", str(port), "--kind", kind, *arguments],
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        cpu = sum(map(int, Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))
        process.terminate()
        if process.wait(60):
            raise SystemExit(f"the server of {kind} ended with status {process.returncode}")
    return {**json.loads(done.stdout), "server_cpu": cpu / os.sysconf("SC_CLK_TCK") / options.seconds}


def kill_at_random(options) -> str:
    """Start and kill the packed server; returns what came of it."""
    files = [options.folder / file for file in FILES]
    before = [hashlib.sha256(file.read_bytes()).digest() for file in files]
    expected, answers, wrong, served = np.load(options.folder / "packed.npy"), 0, 0, 0
    moments = random.Random(0)
    for number in range(options.kills + 1):
        is_last = number == options.kills
        with server("packed", options.folder, options.threads) as process:
            timer = threading.Timer(moments.uniform(0, 6), process.kill)
            if not is_last:
                timer.start()
            port = port_of(process)
            if port is not None:
                asking = Client(port, expected, options.nodes, True)
                with contextlib.suppress(OSError):
                    asyncio.run(asking.ask_all(2 if is_last else 60, 8))
                answers, wrong, served = answers + len(asking.seconds), wrong + asking.wrong, served + 1
            timer.cancel()
            if is_last and (port is None or not asking.seconds or asking.lost):
                raise SystemExit("it does not start again")
    if before != [hashlib.sha256(file.read_bytes()).digest() for file in files]:
        raise SystemExit("a file was changed")
    left = sorted({path.name for path in options.folder.iterdir()} - {*FILES, *KEPT})
    return (
        f"killed {options.kills} times, {served - 1} of them while serving: {answers:,} answers, {wrong} wrong; "
        f"files unchanged, {len(left)} left over; started again"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graph", default="170k", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=300, help="of each server; default: %(default)s")
    parser.add_argument("--connections", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--nodes", type=int, default=100, help="of a request; default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="of the packed model; default: %(default)s")
    parser.add_argument("--dgl-threads", type=int, default=2, help="of DGL's; default: %(default)s")
    parser.add_argument("--kills", type=int, default=50, help="default: %(default)s")
    parser.add_argument("--alone", action="store_true", help="also DGL with a run for each request")
    for name in ("part", "port", "kind"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the table there as well")
    options = parser.parse_args()
    if options.part == "client":
        print(json.dumps(client(int(options.port), options)))
    elif options.part:
        serve_dgl(options.folder, options.threads, options.part == "dgl-alone")
    else:
        with tempfile.TemporaryDirectory() as folder:
            options.folder = Path(folder)
            compare(options)


def compare(options):
    """Make what is served, measure the servers in turn, then kill one."""
    from dgl_lowbit.experiments.tables import show
    from dgl_lowbit.report import table

    subprocess.run(  # in a process of its own: threads of torch and DGL would stay
        [sys.executable, "-c", "import sys; from serve import *; make(Path(sys.argv[1]), sys.argv[2])",
         str(options.folder), options.graph],
        cwd=Path(__file__).parent, check=True,
    )  # fmt: skip
    labels = {"packed": "INT2 packed", "dgl": "DGL float32", "dgl-alone": "DGL float32, each request alone"}
    rows, first = [], None
    for kind in ["packed", "dgl", *["dgl-alone"] * options.alone]:
        got = measure(kind, options)
        first = first or got
        ratio = f"{got['rate'] / first['rate']:.2f}x"
        times = [f"{got[name]:.0f}" for name in ("rate", "p50", "p99")]
        counts = [f"{got[name]:,}" for name in ("answers", "wrong", "lost")]
        rows.append([labels[kind], ratio, *times, *counts, f"{got['server_cpu']:.2f}", f"{got['cpu']:.2f}"])
    header = ["server", "to packed", "answers/s", "p50, ms", "p99, ms", "answers", "wrong", "lost", "CPUs", "client's"]
    show(table(header, rows), options.table)
    if options.kills:
        print(f"\n{kill_at_random(options)}")


if __name__ == "__main__":
    main()
