"""A trainer of the tests: trains a while, writes down the model it has, and trains on until it is ended."""

import os
import sys
from pathlib import Path

import dgl
import torch
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.distributed import initialize


class Net(nn.Module):
    """With what changes in a forward of training: a bound's multiplier, ranges that follow rows, a BatchNorm."""

    def __init__(self, in_feats, classes):
        super().__init__()
        widths = [(in_feats, 8), (8, 8), (8, classes)]
        self.layers = nn.ModuleList(dgl.nn.GraphConv(i, o, allow_zero_in_degree=True) for i, o in widths)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, blocks, h):
        for number, (layer, block) in enumerate(zip(self.layers, blocks)):
            h = layer(block, h)
            h = self.norm(h).relu() if number == 0 else h
        return h


def bounded(graph):
    model = Net(graph.ndata["feat"].shape[1], 7)
    lowbit.SmoothnessRegularizer(model, 0.01, layers=["layers.1"])
    return model


def main(folder, timeout):
    initialize(timeout=timeout)
    rank = torch.distributed.get_rank()
    graph = dgl.distributed.DistGraph("graph", part_config=os.environ["DGL_CONF_PATH"])
    torch.manual_seed(rank)  # models differ at first, as data do
    options = {
        "sampler": dgl.dataloading.NeighborSampler([3, 3, 3]), "batch_size": 10, "progress": False,
        "checkpoint": folder / "run.pt",
    }  # fmt: skip
    config = lowbit.QuantConfig(2, messages_granularity="shift")
    fitted = lowbit.fit(bounded(graph), graph, config, epochs=2, **options)
    torch.save(fitted.model.state_dict(), folder / f"state{rank}.pt")
    again = lowbit.fit(bounded(graph), graph, config, epochs=2, resume=True, **options)
    torch.save(again.model.state_dict(), folder / f"again{rank}.pt")
    torch.distributed.barrier()
    (folder / f"ready{rank}").touch()
    lowbit.train(fitted.model, graph, epochs=100_000, **options)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
