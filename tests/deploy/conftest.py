"""A two-layer model, calibrated and packed."""

import dgl
import dgl.nn
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit
from tests.conftest import features


class TwoLayers(nn.Module):
    def __init__(self, conv=dgl.nn.GraphConv, **options):
        super().__init__()
        self.conv1 = conv(12, 8, **options)
        self.conv2 = conv(8, 3, **options)

    def forward(self, g, x, edge_weight=None):
        h = F.dropout(F.relu(self.conv1(g, x)), 0.5, training=self.training)
        return self.conv2(g, h, edge_weight=edge_weight)


@pytest.fixture
def feat(graph):
    return features(graph, 12)


@pytest.fixture
def model(graph, feat):
    torch.manual_seed(0)
    return lowbit.calibrate(lowbit.quantize(TwoLayers(), lowbit.QuantConfig(2)), graph, feat).eval()


@pytest.fixture
def packed(model):
    return lowbit.freeze(model)
