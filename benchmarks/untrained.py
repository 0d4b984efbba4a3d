"""Low-bit without training code: accuracy by rounding, packed, over seeds.

    python benchmarks/untrained.py --graphs cora coauthor-cs amazon-computer --seeds 5

trains a GCN and a GraphSAGE in float32 with the settings of docs/studies.md, calibrates copies with weights of 2
bits and the rest of 8 (W2A8), and with 2 bits throughout (INT2), with each rounding, and prints test accuracies of the
frozen models, the share of nodes on which they and the calibrated ones predict the same, and seconds of calibration.
"""

import argparse
import statistics
import time

import dgl
import torch

import dgl_lowbit as lowbit
from dgl_lowbit.calibration import ROUNDINGS
from dgl_lowbit.data import load_graph
from dgl_lowbit.experiments.recipes import build
from dgl_lowbit.report import mean_std, table
from dgl_lowbit.training import accuracy, predict

EPOCHS = {"cora": 200, "coauthor-cs": 100, "amazon-computer": 60}
CONFIGS = {"W2A8": {"bits": 8, "weights": 2}, "INT2": {"bits": 2}}


def run(name, graph_name, seed, epochs):
    """Test accuracies by variant: of the float model, else of the packed one, with agreement and seconds."""
    graph = dgl.add_self_loop(load_graph(graph_name, seed))
    feat = graph.ndata["feat"]
    model = build(name, graph, seed)
    lowbit.train(model, graph, seed=seed, epochs=epochs, progress=False)
    results = {("float32", "-"): (accuracy(predict(model, graph), graph), 1.0, 0.0)}
    messages = "shift" if graph_name.startswith("amazon") else "channel"
    for bits, options in CONFIGS.items():
        for rounding in ROUNDINGS:
            low_bit = lowbit.quantize(model, lowbit.QuantConfig(**options, messages_granularity=messages))
            start = time.perf_counter()
            lowbit.calibrate(low_bit, graph, feat, rounding=rounding, progress=False)
            seconds = time.perf_counter() - start
            trained, packed = predict(low_bit, graph), lowbit.freeze(low_bit, graph, feat)(graph, feat)
            equal = (trained.argmax(1) == packed.argmax(1)).float().mean().item()
            results[bits, rounding] = accuracy(packed, graph), equal, seconds
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", nargs="+", default=["cora"])
    parser.add_argument("--models", nargs="+", default=["gcn", "sage"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, help="of the float model; default: as in docs/studies.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for graph in options.graphs:
        for name in options.models:
            runs = [run(name, graph, seed, options.epochs or EPOCHS.get(graph, 200)) for seed in range(options.seeds)]
            base = statistics.mean(r["float32", "-"][0] for r in runs)
            for variant in runs[0]:
                values, equal, seconds = zip(*(r[variant] for r in runs))
                change = "-" if variant[0] == "float32" else f"{100 * (statistics.mean(values) - base):+.1f}"
                agreement = "-" if variant[0] == "float32" else f"{100 * min(equal):.2f} %"
                took = "-" if variant[0] == "float32" else f"{statistics.median(seconds):.0f} s"
                rows.append([graph, name, *variant, mean_std(values), change, agreement, took])
    print(f"{options.seeds} seeds\n")
    print(table(["graph", "model", "bits", "rounding", "packed", "to float32", "equal", "calibration"], rows))


if __name__ == "__main__":
    main()
