"""Message passing of a user's own modules, low-bit."""

import dgl
import dgl.function as fn
import dgl.ops
import pytest
import torch
import torch.nn.functional as F
from dgl.nn.functional import edge_softmax
from dgl.ops import copy_u_sum, gspmm, u_mul_e_sum
from torch import nn

import dgl_lowbit as lowbit

from ..conftest import features

pytestmark = pytest.mark.filterwarnings("ignore::dgl_lowbit.FloatModuleWarning")


class OwnGCN(nn.Module):
    """Sums of projected neighbours, through ``passes(graph, rows)``."""

    def __init__(self, width, out, passes):
        super().__init__()
        self.linear, self.passes = nn.Linear(width, out), passes

    def forward(self, graph, feat):
        return self.passes(graph, self.linear(feat))


class OwnGAT(nn.Module):
    """Attention over two heads, written with apply_edges, edge_softmax and update_all."""

    def __init__(self, width, out, heads=2):
        super().__init__()
        self.linear, self.heads = nn.Linear(width, heads * out), heads
        self.left, self.right = (nn.Parameter(torch.randn(heads, out)) for _ in range(2))
        self.dropout = nn.Dropout(0.3)

    def forward(self, graph, feat):
        with graph.local_scope():
            h = self.linear(feat).view(len(feat), self.heads, -1)
            graph.ndata["h"] = h
            graph.ndata["l"], graph.ndata["r"] = ((h * x).sum(-1, keepdim=True) for x in (self.left, self.right))
            graph.apply_edges(fn.u_add_v("l", "r", "e"))
            graph.edata["a"] = self.dropout(edge_softmax(graph, F.leaky_relu(graph.edata["e"])))
            graph.update_all(fn.u_mul_e("h", "a", "m"), fn.sum("m", "h"))
            return graph.ndata["h"].flatten(1)


class OwnNet(nn.Module):
    def __init__(self, width=12, classes=3):
        super().__init__()
        self.attention, self.conv = OwnGAT(width, 4), OwnGCN(8, classes, updated)

    def forward(self, graph, feat):
        return self.conv(graph, F.relu(self.attention(graph, feat)))


# -- ways to write a sum over neighbours ------------------------------------------------------------------
def updated(graph, rows):
    with graph.local_scope():
        graph.srcdata["h"] = rows
        graph.update_all(fn.copy_u("h", "m"), fn.sum("m", "h"))
        return graph.dstdata["h"]


def pulled(graph, rows):
    with graph.local_scope():
        graph.srcdata["h"] = rows
        graph.pull(graph.dstnodes(), fn.copy_u("h", "m"), fn.sum("m", "h"))
        return graph.dstdata["h"]


def by_own_message(graph, rows):
    with graph.local_scope():
        graph.srcdata["h"] = rows
        graph.update_all(lambda edges: {"m": edges.src["h"]}, fn.sum("m", "h"))
        return graph.dstdata["h"]


def weighted(graph, rows):
    return u_mul_e_sum(graph, rows, torch.ones(graph.num_edges(), 1))


WAYS = {
    "update_all": updated,
    "pull": pulled,
    "message function": by_own_message,
    "dgl.ops attribute": lambda graph, rows: dgl.ops.copy_u_sum(graph, rows),
    "from dgl.ops import copy_u_sum": lambda graph, rows: copy_u_sum(graph, rows),
    "from dgl.ops import u_mul_e_sum": weighted,
    "from dgl.ops import gspmm": lambda graph, rows: gspmm(graph, "copy_lhs", "sum", rows, None),
    "dgl.backend": lambda graph, rows: dgl.backend.gspmm(graph._graph, "copy_lhs", "sum", rows, None),
}


def low_bit(model, graph, feat, bits=2, **options):
    torch.manual_seed(0)
    return lowbit.calibrate(
        lowbit.quantize(model, lowbit.QuantConfig(bits, **options), graph, feat), graph, feat
    ).eval()


@pytest.mark.parametrize("way", WAYS)
def test_sums_are_of_codes_however_they_are_written(way, graph):
    feat = features(graph, 12)
    model = low_bit(OwnGCN(12, 5, WAYS[way]), graph, feat)
    rows, quantizer = model.linear(feat), model.update_all_0["messages"]
    codes = quantizer.codes(rows).double() - quantizer.qparams(rows).zero_point
    adjacency = torch.zeros(graph.num_dst_nodes(), graph.num_src_nodes(), dtype=torch.double)
    source, target = graph.edges()
    adjacency.index_put_((target.long(), source.long()), torch.ones(len(source)).double(), accumulate=True)
    expected = (adjacency @ codes).float() * quantizer.qparams(rows).scale
    assert torch.equal(model(graph, feat), expected)
    assert not torch.equal(expected, OwnGCN.forward(model, graph, feat))  # outside a forward nothing is coded
