"""Low-bit without training: ranges from one look at the data, and which layer suffers.

    python tutorials/post_training.py --graph cora --seeds 5

trains a GCN and a GraphSAGE in float32, calibrates low-bit copies of them with each observer at 8 and 4 bits and with
each rounding of weights at 2, and prints test accuracies, then what each layer and each quantiser of the last loses.
"""

import argparse

import dgl

import dgl_lowbit as lowbit
from dgl_lowbit.data import load_graph
from dgl_lowbit.diagnose import format_diagnosis, format_sensitivity
from dgl_lowbit.experiments.recipes import build
from dgl_lowbit.report import mean_std, table
from dgl_lowbit.training import accuracy, predict

WAYS = [(bits, {"observer": observer}) for bits in (8, 4) for observer in ("error", "minmax", "percentile")]
WAYS += [(2, {"rounding": rounding}) for rounding in ("nearest", "gptq", "reconstruct")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graph", default="planted", help="see dgl-lowbit demo --help; default: an embedded graph")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    rows = []
    for name in ("gcn", "sage"):
        results = {}
        for seed in range(args.seeds):
            graph = dgl.add_self_loop(load_graph(args.graph, seed))
            feat = graph.ndata["feat"]
            model = build(name, graph, seed)
            lowbit.train(model, graph, seed=seed, epochs=args.epochs, progress=False)
            results.setdefault(("float32", "-"), []).append(accuracy(predict(model, graph), graph))
            for bits, how in WAYS:
                low_bit = lowbit.quantize(model, lowbit.QuantConfig(bits))
                lowbit.calibrate(low_bit, graph, feat, progress=False, **how)
                packed = lowbit.freeze(low_bit)
                results.setdefault((f"INT{bits}", *how.values()), []).append(accuracy(packed(graph, feat), graph))
        base = sum(results["float32", "-"]) / args.seeds
        for (bits, way), values in results.items():
            change = 100 * (sum(values) / args.seeds - base)
            rows.append([name, bits, way, mean_std(values), "-" if bits == "float32" else f"{change:+.1f}"])
    print(f"{args.graph}, {args.seeds} seeds\n")
    print(table(["model", "bits", "observer or rounding", "test accuracy", "to float32"], rows), end="\n\n")

    def metric(logits):
        return accuracy(logits, graph)

    config = lowbit.QuantConfig(4)
    print("One layer at 4 bits at a time:\n")
    print(format_sensitivity(lowbit.sensitivity(model, graph, feat, config=config, metric=metric)), end="\n\n")
    print("All of them:\n")
    print(format_diagnosis(lowbit.diagnose(low_bit, graph, feat)))


if __name__ == "__main__":
    main()
