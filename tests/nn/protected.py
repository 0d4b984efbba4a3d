"""What tests of protected nodes share."""

import dgl
import dgl.nn
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit
from tests.nn.layers import IN, OUT

PROTECT = (0.3, 0.9)


class Deep(nn.Module):
    """Layers of several kinds on one graph or on two blocks, with a readout's linear layer where there is a batch."""

    def __init__(self, readout=False):
        super().__init__()
        self.first, self.between = dgl.nn.GraphConv(IN, 8, allow_zero_in_degree=True), nn.Linear(8, 8)
        self.last, self.head = dgl.nn.SAGEConv(8, OUT, "mean"), nn.Linear(OUT, 2) if readout else None

    def forward(self, graphs, feat):
        first, last = graphs if isinstance(graphs, list) else (graphs, graphs)
        h = self.last(last, self.between(F.relu(self.first(first, feat))))
        return h if self.head is None else self.head(dgl.mean_nodes(_with(last, h), "h"))


def _with(graph, h):
    graph = graph.local_var()
    graph.ndata["h"] = h
    return graph


def low_bit(model, *call, protect=PROTECT, bits=4, **options):
    """The model, in training mode, with an example."""
    return lowbit.quantize(model, lowbit.QuantConfig(bits, protect=protect, **options), *call).train()
