"""Trains on a DistGraph whose features are records of a store: ``python -m tests.distributed.stored FOLDER``.

The graph is served by this process. With all neighbours and labelled nodes nothing is drawn: what is trained is what is
trained on the graph with decoded features.
"""

import sys

import dgl
import pytest
import torch

import dgl_lowbit as lowbit
from dgl_lowbit.experiments.data import load_graph
from tests.training.models import build


def main(folder):
    graph = dgl.add_self_loop(load_graph("planted"))
    store = lowbit.compress(graph.ndata["feat"], 2)
    options = {"sampler": dgl.dataloading.NeighborSampler([-1, -1]), "batch_size": 1000, "epochs": 3, "progress": False}
    graph.ndata["feat"] = store.records()
    dgl.distributed.partition_graph(graph, "graph", 1, folder, part_method="random")
    lowbit.distributed.initialize()
    parts = dgl.distributed.DistGraph("graph", part_config=f"{folder}/graph.json")
    graph.ndata["feat"], histories = store[:], []
    for on, given in ((graph, {"sparse": False}), (parts, {"feat": store})):
        torch.manual_seed(0)
        fitted = lowbit.fit(build("sage", dropout=0.0), on, lowbit.QuantConfig(4), distillation=0.0, **options, **given)
        histories.append([fitted.teacher_history, fitted.history])
    for whole, shares in zip(*histories):
        for key in ("loss", "val_loss", "val_accuracy"):
            assert [e[key] for e in shares.epochs] == pytest.approx([e[key] for e in whole.epochs], rel=0.02), key


if __name__ == "__main__":
    main(sys.argv[1])
