"""Many predictions from several threads over several models, on ever new graphs: is memory flat, are results the same?

    python benchmarks/soak.py --predictions 50000 --threads 4 --models 10

prints, at intervals, predictions so far, how many a second, the memory of the process, and how many results differed
from the first of the same model and graph. Exit status 1 if any did, or if memory grew by more than 2 % after the first
fifth. ``--threads 50 --models 1 --nodes 20000 --predictions 200`` measures how many requests a second are answered.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import threading
import time
from pathlib import Path

import dgl
import dgl.nn
import torch
from torch import nn

import dgl_lowbit as lowbit

WIDTH, HIDDEN, CLASSES, DEGREE = 32, 16, 7, 5
MOST_GROWTH = 0.02


class Model(nn.Module):
    """Two layers of a kind."""

    def __init__(self, kind):
        super().__init__()
        self.first, self.second = LAYERS[kind](WIDTH, HIDDEN), LAYERS[kind](HIDDEN, CLASSES)

    def forward(self, graph, feat):
        h = self.first(graph, feat).flatten(1).relu()
        return self.second(graph, h).flatten(1)


LAYERS = {
    "GraphConv": dgl.nn.GraphConv,
    "SAGEConv": lambda width, out: dgl.nn.SAGEConv(width, out, "mean"),
    "GATConv": lambda width, out: dgl.nn.GATConv(width, out, 1),
    "GINConv": lambda width, out: dgl.nn.GINConv(nn.Linear(width, out)),
    "TAGConv": lambda width, out: dgl.nn.TAGConv(width, out, k=2),
}
BITS = (8, 2, 4)


def make_graph(seed: int, nodes: int) -> tuple:
    """A new graph with a self-loop a node, and features."""
    generator = torch.Generator().manual_seed(seed)
    nodes += seed  # sizes differ too
    source, target = torch.randint(nodes, (2, DEGREE * nodes), generator=generator)
    loops = torch.arange(nodes)
    graph = dgl.graph((torch.cat([source, loops]), torch.cat([target, loops])), num_nodes=nodes)
    return graph, torch.randn(nodes, WIDTH, generator=generator)


def make_models(count: int, nodes: int) -> list:
    """Packed models of all kinds, then of all kinds at other bits."""
    graph, feat = make_graph(0, nodes)
    models = []
    for bits, kind in itertools.islice(itertools.product(BITS, LAYERS), count):
        torch.manual_seed(len(models))
        model = lowbit.calibrate(lowbit.quantize(Model(kind), lowbit.QuantConfig(bits)), graph, feat)
        models.append(lowbit.freeze(model, graph, feat))
    return models


def resident() -> int:
    """Bytes of memory that the process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Soak:
    """Threads that ask one prediction after the other, and what came of it."""

    def __init__(self, models: list, args: argparse.Namespace):
        self.models, self.args, self.first = models, args, {}
        self.numbers, self.done, self.unequal, self.errors = itertools.count(), 0, 0, []
        self.lock, self.samples, self.start = threading.Lock(), [], time.perf_counter()

    def predict(self, number: int) -> None:
        """One prediction, on a graph that is made for it."""
        key = number % len(self.models), number // len(self.models) % self.args.graphs
        result = self.models[key[0]](*make_graph(key[1], self.args.nodes))
        with self.lock:
            self.unequal += not torch.equal(self.first.setdefault(key, result), result)
            self.done += 1
            if self.done % self.args.every == 0:
                self.report()

    def report(self) -> None:
        """A line of what was done so far."""
        self.samples.append(resident())
        speed = self.done / (time.perf_counter() - self.start)
        held = self.samples[-1] / 2**20
        print(f"{self.done:>9,}  {speed:8.1f} a second  {held:8.1f} MiB  {self.unequal} unequal", flush=True)

    def work(self) -> None:
        """Predict until all is done, in one thread."""
        while (number := next(self.numbers)) < self.args.predictions and not self.errors:
            try:
                self.predict(number)
            except Exception as error:
                self.errors.append(error)
                raise

    def run(self) -> int:
        """Predict in all threads; the exit status."""
        threads = [threading.Thread(target=self.work) for _ in range(self.args.threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        warm, *later = self.samples[len(self.samples) // 5 :] or [resident()]
        growth = max([warm, *later]) / warm - 1
        seconds = time.perf_counter() - self.start
        print(
            f"{self.done:,} predictions of {len(self.models)} models by {self.args.threads} threads in "
            f"{seconds:.0f} s, {self.done / seconds:.1f} a second: {self.unequal} unequal, {len(self.errors)} failed, "
            f"memory grew by {100 * growth:.2f} % after the first fifth."
        )
        return int(self.unequal > 0 or bool(self.errors) or growth > MOST_GROWTH)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", type=int, default=50_000)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--models", type=int, default=10, help=f"up to {len(LAYERS) * len(BITS)}")
    parser.add_argument("--nodes", type=int, default=200, help="of the smallest graph")
    parser.add_argument("--graphs", type=int, default=20, help="that differ; each is made anew for every prediction")
    parser.add_argument("--every", type=int, default=1000, help="predictions between two lines")
    args = parser.parse_args()
    models = make_models(args.models, args.nodes)
    soak = Soak(models, args)
    for number in range(len(models)):  # compile before the clock starts
        soak.predict(number)
    soak.done, soak.start = 0, time.perf_counter()
    return soak.run()


if __name__ == "__main__":
    sys.exit(main())
