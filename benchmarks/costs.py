"""The costs that bits are allocated under, beside the time that packed models of those bits take.

    python benchmarks/costs.py [--graph 170k] [--threads 1] [--rounds 5]

A three-layer GCN, 128-256-256-40, with the same bits everywhere and with one component at fewer. "predicted" is the
time on the line through all of them, milliseconds against the bytes that edges read.
"""

import argparse
import os
import statistics
import sys
import time

import numpy as np

KINDS = "inputs", "weights", "messages"


def configs(lowbit):
    """Configs by label."""
    everywhere = {f"all at {bits}": lowbit.QuantConfig(bits) for bits in (8, 4, 2, 1)}
    alone = {
        f"{kind} at {bits}, rest at 8": lowbit.QuantConfig(8, overrides={f"*.{kind}": bits})
        for kind in KINDS
        for bits in (4, 2)
    }
    return {**everywhere, **alone}


def measured(works, rounds):
    """Median seconds by label; functions take turns."""
    seconds = {label: [] for label in works}
    for function in works.values():
        function()
    for _ in range(rounds):
        for label, function in works.items():
            start = time.perf_counter()
            function()
            seconds[label].append(time.perf_counter() - start)
    return {label: statistics.median(times) for label, times in seconds.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graph", default="170k", help="default: 170k")
    parser.add_argument("--threads", type=int, default=1, help="default: 1")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    options = parser.parse_args()
    os.environ["NUMBA_NUM_THREADS"] = str(options.threads)

    import dgl
    import dgl.nn
    import torch

    import dgl_lowbit as lowbit
    from dgl_lowbit.experiments.bench.work import SYNTHETIC, ThreeLayers, skewed_graph
    from dgl_lowbit.report import table

    torch.manual_seed(0)
    graph = dgl.add_self_loop(skewed_graph(*SYNTHETIC[options.graph]))
    feat, model = torch.randn(graph.num_nodes(), 128), ThreeLayers(dgl.nn.GraphConv).eval()
    works, costs = {}, {}
    for label, config in configs(lowbit).items():
        print(label, file=sys.stderr)
        packed = lowbit.freeze(lowbit.calibrate(lowbit.quantize(model, config), graph, feat), graph, feat)
        works[label] = lambda packed=packed: packed(graph, feat)
        costs[label] = lowbit.allocation.cost(model, config, graph, feat)
    times = measured(works, options.rounds)
    read = np.array([costs[label]["edges"] for label in works])
    taken = np.array([1e3 * times[label] for label in works])
    slope, constant = np.polyfit(read, taken, 1)
    rows = []
    for label, edges, ms in zip(works, read, taken):
        predicted = constant + slope * edges
        sizes = [f"{costs[label][measure] / 1e6:,.1f}" for measure in ("model", "states", "edges")]
        rows.append([label, *sizes, f"{ms:.0f}", f"{predicted:.0f}", f"{ms / predicted:.2f}x"])
    header = ["bits", "model, MB", "states, MB", "edges, MB", "ms", "predicted, ms", "to predicted"]
    print(f"{options.graph}, {options.threads} threads, medians of {options.rounds} rounds\n")
    print(table(header, rows))
    print(f"\ncorrelation of time with the bytes that edges read: {np.corrcoef(read, taken)[0, 1]:.3f}")


if __name__ == "__main__":
    main()
