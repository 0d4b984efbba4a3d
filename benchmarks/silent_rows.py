"""APPNP at 2 bits on 170,000 nodes whose rows stay unsent where they hardly changed, beside all rows sent.

    python benchmarks/silent_rows.py [--nodes 170000] [--classes 7,40] [--zones 0.05,0.15,0.3,0.6] [--steps 10]

Nodes have a class each; three in five edges stay within one, and features are the class's column beside noise, as a
classifier's logits are. Nothing is trained: ranges are taken from one look, and accuracy is that of all nodes. Times
are processor time of packed calls on one thread, medians, models taking turns; "faster" is over all rows sent.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import dgl
import dgl.nn
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.experiments.tables import show
from dgl_lowbit.nn.propagation import silent_shares
from dgl_lowbit.report import table

WITHIN, NOISE, SIGNAL = 0.6, 2.0, 2.0


def planted(nodes: int, edges: int, classes: int, seed: int = 0):
    """A graph of about twice as many directed edges and self-loops, features and classes of its nodes."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, nodes)
    members, starts = np.argsort(label, kind="stable"), np.searchsorted(np.sort(label), np.arange(classes + 1))
    source = rng.integers(0, nodes, edges)
    first, past = starts[label[source]], starts[label[source] + 1]
    alike = members[first + (rng.random(edges) * (past - first)).astype(np.int64)]
    target = np.where(rng.random(edges) < WITHIN, alike, rng.integers(0, nodes, edges))
    graph = dgl.add_self_loop(dgl.to_bidirected(dgl.graph((source, target), num_nodes=nodes)))
    noise = rng.standard_normal((nodes, classes), np.float32)
    label = torch.from_numpy(label)
    return graph, SIGNAL * F.one_hot(label, classes) + NOISE * torch.from_numpy(noise), label


class APPNP(nn.Module):
    def __init__(self, steps):
        super().__init__()
        self.propagate = dgl.nn.APPNPConv(steps, 0.1)

    def forward(self, graph, feat):
        return self.propagate(graph, feat)


def rows_of(nodes, classes, zones, steps, calls):
    """A row of the table for all rows sent and each dead zone."""
    graph, feat, label = planted(nodes, 7 * nodes, classes)

    def accuracy(scores):
        return 100 * (scores.argmax(1) == label).float().mean().item()

    configs = {"all rows": {}}
    configs.update({f"dead zone {size:g}": {"dead_zone": size} for size in zones})
    configs[f"dead zone {zones[0]:g} of entries"] = {"dead_zone": zones[0], "dead_zone_of": "entries"}
    made, times = {}, {}
    for name, options in configs.items():
        model = lowbit.quantize(APPNP(steps), lowbit.QuantConfig(2, **options))
        model = lowbit.calibrate(model, graph, feat).eval()
        packed = lowbit.freeze(model, graph, feat)
        packed.threads, scores = 1, packed(graph, feat)
        with torch.no_grad():
            equal = (scores.argmax(1) == model(graph, feat).argmax(1)).float().mean().item()
        shares = " ".join(f"{100 * share:.0f}" for share in silent_shares(model, graph, feat)) or "-"
        made[name] = packed, accuracy(scores), equal, shares
    for _ in range(calls):
        for name, (packed, *_) in made.items():
            start = time.process_time()
            packed(graph, feat)
            times.setdefault(name, []).append(1e3 * (time.process_time() - start))
    base = statistics.median(times["all rows"])
    floats = f"{accuracy(APPNP(steps)(graph, feat)):.1f}"
    for name, (_, score, equal, shares) in made.items():
        ms = statistics.median(times[name])
        yield [
            f"{classes}",
            name,
            floats,
            f"{score:.1f}",
            f"{100 * equal:.2f} %",
            shares,
            f"{ms:.0f}",
            f"{base / ms:.2f}x",
        ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=170_000)
    parser.add_argument("--classes", default="7,40")
    parser.add_argument("--zones", default="0.05,0.15,0.3,0.6")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--calls", type=int, default=7)
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the table there as well")
    options = parser.parse_args()
    torch.set_num_threads(1)
    zones = [float(size) for size in options.zones.split(",")]
    rows = [
        row
        for classes in map(int, options.classes.split(","))
        for row in rows_of(options.nodes, classes, zones, options.steps, options.calls)
    ]
    header = ["classes", "messages", "float32", "INT2", "equal", "silent rows by step, %", "ms", "faster"]
    show(table(header, rows), options.table)


if __name__ == "__main__":
    main()
