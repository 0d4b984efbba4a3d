"""Results of some nodes: a packed GCN asked for them, against all of it, and against DGL float32 on full blocks.

    python benchmarks/some_nodes.py [--graph 170k] [--layers 2,3] [--nodes 1,100,1000] [--bits 2] [--calls 20]

One thread, medians of calls, each for other nodes, drawn at random. DGL samples the blocks of all in-neighbours, takes
the features and runs the float model. "Prepared" keeps codes of the features. An update follows after features of as
many nodes have changed.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from pathlib import Path

import dgl
import dgl.nn
import torch
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.deploy.packed import kernel_graph
from dgl_lowbit.experiments.bench.work import SYNTHETIC, skewed_graph
from dgl_lowbit.experiments.tables import show
from dgl_lowbit.report import table
from numba_kernels.subgraph import Limits, neighbourhood

FEATS, HIDDEN, CLASSES = 128, 256, 40


class GCN(nn.Module):
    def __init__(self, layers):
        super().__init__()
        widths = [FEATS, *[HIDDEN] * (layers - 1), CLASSES]
        self.convs = nn.ModuleList(map(dgl.nn.GraphConv, widths, widths[1:]))

    def forward(self, graph, x):
        for n, conv in enumerate(self.convs):
            x = conv(graph[n] if isinstance(graph, list) else graph, x if n == 0 else F.relu(x))
        return x


def milliseconds(function, calls):
    """The median of some calls, after one."""
    function()
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def rows_of(graph, layers, sizes, bits, calls):
    """A row of the table for each number of nodes."""
    torch.manual_seed(0)
    feat, model = torch.randn(graph.num_nodes(), FEATS), GCN(layers).eval()
    packed = lowbit.quantize(GCN(layers), lowbit.QuantConfig(bits))
    packed = lowbit.freeze(lowbit.calibrate(packed, graph, feat).eval(), graph, feat)
    packed.threads = 1
    whole, sampler = packed(graph, feat), dgl.dataloading.MultiLayerFullNeighborSampler(layers)
    all_nodes = milliseconds(lambda: packed(graph, feat), 5)
    for size in sizes:
        drawn = [torch.randperm(graph.num_nodes())[:size] for _ in range(20)]
        assert torch.equal(packed(graph, feat, nodes=drawn[0]), whole[drawn[0]])
        found, _ = neighbourhood(kernel_graph(graph), drawn[0].numpy(), layers, Limits())
        nodes = itertools.cycle(drawn)

        @torch.no_grad()
        def in_dgl(nodes=nodes):
            sources, _, blocks = sampler.sample_blocks(graph, next(nodes))
            return model(blocks, feat[sources])

        packed.update(graph, feat)
        prepared = packed.prepare(graph, feat)
        kept = milliseconds(lambda nodes=nodes, prepared=prepared: prepared(next(nodes)), calls)
        some = milliseconds(lambda nodes=nodes: packed(graph, feat, nodes=next(nodes)), calls)
        update = milliseconds(lambda nodes=nodes: packed.update(graph, feat, changed=next(nodes)), calls)
        floats = milliseconds(in_dgl, max(calls // 4, 3))
        numbers = f"{found.num_dst:,}", *(f"{ms:.2f} ms" for ms in (some, kept, all_nodes, floats, update))
        yield [f"{layers}", f"{size:,}", *numbers, f"{floats / some:.1f}x", f"{floats / kept:.1f}x"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graph", choices=SYNTHETIC, default="170k")
    parser.add_argument("--layers", default="2,3")
    parser.add_argument("--nodes", default="1,100,1000")
    parser.add_argument("--bits", type=int, default=2)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the table there as well")
    options = parser.parse_args()
    torch.set_num_threads(1)
    layers, sizes = ([int(n) for n in text.split(",")] for text in (options.layers, options.nodes))
    graph = dgl.add_self_loop(skewed_graph(*SYNTHETIC[options.graph])).long()
    rows = [row for count in layers for row in rows_of(graph, count, sizes, options.bits, options.calls)]
    times = ["these nodes", "prepared", "all nodes", "DGL float32 blocks", "update"]
    header = ["layers", "nodes", "they follow from", *times, "DGL / these nodes", "DGL / prepared"]
    show(table(header, rows), options.table)


if __name__ == "__main__":
    main()
