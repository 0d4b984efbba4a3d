"""Search among packed rows, beside NumPy's float32 product with argpartition.

    python benchmarks/search.py [--rows 1000000] [--columns 128] [--bits 1,2,4,8] [--queries 1,32,1000] [--table FILE]
    python benchmarks/search.py --recall cora,amazon-computer [--bits 1,2,4,8] [--seeds 3] [--table FILE]

Rows are normal numbers on one grid; the float32 side has the numbers themselves. Times are medians of calls that take
turns, on one thread; NumPy is given 100 queries at a time. Ratios are those of the medians; beside them stand those of
processor time, which neighbours on the machine change less. Every result is compared with a search through all values.

Recall is that of the ten nearest nodes by float32 embeddings of a SAGE trained on links, cosine, among ten by codes.
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

from dgl_lowbit.experiments.data import load_graph
from dgl_lowbit.experiments.tables import show
from dgl_lowbit.report import mean_std, table
from numba_kernels.fitting import fitted_grid
from numba_kernels.functional import encoded

K = 10


def by_numpy(rows, queries):
    """The k nearest rows of each query, in no order."""
    found = []
    for start in range(0, len(queries), 100):
        scores = queries[start : start + 100] @ rows.T
        found.append(np.argpartition(scores, scores.shape[1] - K, axis=1)[:, -K:].copy())
    return np.concatenate(found)


def seconds(function):
    """Time and processor time of a call."""
    start, used = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - start, time.process_time() - used


def check(codes, queries, values):
    """Raise unless the scores found are the largest there are, of the first queries."""
    queries, values = queries if isinstance(queries, np.ndarray) else queries.values(), values[:4]
    dense = codes.values()
    for start in range(len(values)):
        scores = dense @ queries[start]
        best = np.sort(scores)[: -K - 1 : -1]
        np.testing.assert_allclose(values[start], best, rtol=1e-4, atol=1e-4)


def speed(rows, columns, widths, counts, calls):
    """A row of the table for each width and number of queries."""
    draw = np.random.default_rng(0)
    floats = draw.standard_normal((rows, columns), np.float32)
    asked = draw.standard_normal((max(counts), columns), np.float32)
    coded = {bits: encoded(floats, fitted_grid(floats, bits, "tensor")) for bits in widths}
    for codes in coded.values():
        check(codes, asked[:4], codes.search(asked[:4], K, threads=1)[0])
    for count in counts:
        queries = np.ascontiguousarray(asked[:count])
        sides = {("numpy", 32): lambda queries=queries: by_numpy(floats, queries)}
        for bits, codes in coded.items():
            as_codes = encoded(queries, codes.grid.spec)
            sides["codes", bits] = lambda codes=codes, as_codes=as_codes: codes.search(as_codes, K, threads=1)
            sides["float32", bits] = lambda codes=codes, queries=queries: codes.search(queries, K, threads=1)
        for name, side in sides.items():
            if name[0] != "numpy" and count < 1000:
                side()
        taken = {name: [] for name in sides}
        for _ in range(calls if count < 1000 else 1):
            for name, side in sides.items():
                taken[name].append(seconds(side))
        medians = {name: [statistics.median(part) for part in zip(*times)] for name, times in taken.items()}
        base = medians["numpy", 32]
        for bits, codes in coded.items():
            size = f"{codes.packed.nbytes / 2**20:.1f} MiB", f"{floats.nbytes / codes.packed.nbytes:.0f}x"
            cells = []
            for kind in ("codes", "float32"):
                wall, used = medians[kind, bits]
                cells += [f"{1e3 * wall:.1f} ms", f"{base[0] / wall:.1f}x", f"{base[1] / used:.1f}x"]
            yield [f"{count:,}", f"{bits}", *size, f"{1e3 * base[0]:.0f} ms", *cells]


class Encoder(nn.Module):
    def __init__(self, in_feats, hidden):
        super().__init__()
        self.conv1 = dgl.nn.SAGEConv(in_feats, hidden, "mean")
        self.conv2 = dgl.nn.SAGEConv(hidden, hidden, "mean")

    def forward(self, graph, feat):
        return self.conv2(graph, F.relu(self.conv1(graph, feat)))


def trained(graph, seed, epochs=60, width=128):
    """float32 embeddings of a SAGE that tells links from pairs drawn at random."""
    torch.manual_seed(seed)
    feat, (source, target) = graph.ndata["feat"], graph.edges()
    model = Encoder(feat.shape[1], width)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(epochs):
        h, some = model(graph, feat), torch.randint(len(source), (20_000,))
        drawn = torch.randint(graph.num_nodes(), (len(some),))
        links, others = ((h[source[some]] * h[ends]).sum(1) for ends in (target[some], drawn))
        scores, is_link = torch.cat([links, others]), torch.arange(2 * len(some)) < len(some)
        loss = F.binary_cross_entropy_with_logits(scores, is_link.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return model.eval()(graph, feat).numpy()


def recall(graphs, widths, seeds):
    """A row of the table for each graph and width."""
    for name in graphs:
        graph, found = load_graph(name), {bits: ([], []) for bits in widths}
        for seed in range(seeds):
            values = trained(graph, seed)
            unit = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
            nearest = by_numpy(unit, unit)
            for bits in widths:
                codes = encoded(values, fitted_grid(values, bits, "channel"))
                for shares, queries in zip(found[bits], (values, codes)):
                    got = codes.search(queries, K, "cosine")[1]
                    shares.append(np.mean([len(np.intersect1d(a, b)) for a, b in zip(got, nearest)]) / K)
        for bits, shares in found.items():
            yield [name, f"{bits}", f"{values.shape[1] * bits // 8}", *map(mean_std, shares)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=128)
    parser.add_argument("--bits", default="1,2,4,8")
    parser.add_argument("--queries", default="1,32,1000")
    parser.add_argument("--calls", type=int, default=5)
    parser.add_argument("--recall", metavar="GRAPHS", help="recall at ten on these graphs, in the place of speed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the table there as well")
    options = parser.parse_args()
    widths, counts = ([int(n) for n in text.split(",")] for text in (options.bits, options.queries))
    if options.recall:
        rows = list(recall(options.recall.split(","), widths, options.seeds))
        header = ["graph", "bits", "bytes a node", "recall@10, float32 queries", "recall@10, code queries"]
    else:
        rows = list(speed(options.rows, options.columns, widths, counts, options.calls))
        sides = [
            f"{kind}{of}" for kind in ("code queries", "float32 queries") for of in ("", ", faster", ", by CPU time")
        ]
        header = ["queries", "bits", "rows take", "smaller", "NumPy float32", *sides]
    show(table(header, rows), options.table)


if __name__ == "__main__":
    main()
