"""Modules with message passing of their own, as users write them."""

import dgl
import dgl.function as fn
import dgl.ops
import torch
import torch.nn.functional as F
from dgl.nn.functional import edge_softmax
from dgl.ops import copy_u_sum, gspmm, u_mul_e_sum
from torch import nn

import dgl_lowbit as lowbit


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


class Calls(nn.Module):
    """A forward that is one call."""

    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, *args):
        return self.call(*args)


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
