"""GraphSAGE (arXiv:1706.02216) on sampled blocks, low-bit with two added lines, and inference layer by layer.

    python tutorials/sampled_sage.py --graph cora --seeds 5

trains on neighbourhoods sampled with DGL's NeighborSampler in float32, on from there at 8 and at 4 bits, and prints a
table. All that is low-bit about this script are the lines marked "added"; what trains is the same function.
"""

import argparse
import sys

import dgl
import dgl.nn
import torch
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.data import load_graph, num_classes
from dgl_lowbit.report import mean_std, table


class GraphSAGE(nn.Module):
    def __init__(self, in_feats, classes, hidden=64):
        super().__init__()
        self.layers = nn.ModuleList(
            [dgl.nn.SAGEConv(in_feats, hidden, "mean"), dgl.nn.SAGEConv(hidden, classes, "mean")]
        )
        self.dropout = nn.Dropout(0.5)

    def forward(self, blocks, feat):
        h = feat
        for i, (layer, block) in enumerate(zip(self.layers, blocks)):
            h = layer(block, self.dropout(h))
            h = F.relu(h) if i == 0 else h
        return h


def train(model, graph, epochs, seed):
    """Adam on sampled blocks; returns test accuracy at the best validation accuracy, and leaves those weights."""
    labels, val_mask, test_mask = (graph.ndata[key] for key in ("label", "val_mask", "test_mask"))
    train_nodes = graph.ndata["train_mask"].nonzero().flatten()
    sampler = dgl.dataloading.NeighborSampler([10, 10], prefetch_node_feats=["feat"], prefetch_labels=["label"])
    dgl.seed(seed)
    loader = dgl.dataloading.DataLoader(graph, train_nodes, sampler, batch_size=70, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
    best = (-1.0, 0.0), None
    for _ in range(epochs):
        model.train()
        for _, _, blocks in loader:
            logits = model(blocks, blocks[0].srcdata["feat"])
            loss = F.cross_entropy(logits, blocks[-1].dstdata["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            hits = model([graph, graph], graph.ndata["feat"]).argmax(1) == labels
        val, test = hits[val_mask].float().mean().item(), hits[test_mask].float().mean().item()
        if val > best[0][0]:
            best = (val, test), {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(best[1])
    return best[0][1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graph", default="planted", help="see dgl-lowbit demo --help; default: an embedded graph")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    results = {}
    for seed in range(args.seeds):
        graph = load_graph(args.graph, seed)
        feat, test_mask = graph.ndata["feat"], graph.ndata["test_mask"]
        torch.manual_seed(seed)
        float_model = GraphSAGE(feat.shape[1], num_classes(graph))
        results.setdefault("float32", []).append((train(float_model, graph, args.epochs, seed), float("nan")))
        for bits in (8, 4):
            model = lowbit.quantize(float_model, lowbit.QuantConfig(bits))  # added
            trained = train(model, graph, args.epochs, seed)
            logits = lowbit.freeze(model).inference(graph, feat, batch_size=1000)  # added
            packed = (logits.argmax(1) == graph.ndata["label"])[test_mask].float().mean().item()
            results.setdefault(f"INT{bits}", []).append((trained, packed))
        print(f"seed {seed} done", file=sys.stderr, flush=True)
    rows = []
    for bits, runs in results.items():
        trained, packed = zip(*runs)
        rows.append(["GraphSAGE", bits, mean_std(trained), "-" if bits == "float32" else mean_std(packed)])
    print(f"{args.graph}, {args.seeds} seeds\n\n" + table(["model", "bits", "test accuracy", "packed"], rows))


if __name__ == "__main__":
    main()
