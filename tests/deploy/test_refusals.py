"""A forward that cannot be frozen is refused with the form that can, which freezes to the same numbers."""

import warnings

import dgl
import dgl.function as fn
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit


class Net(nn.Module):
    def __init__(self, rest):
        super().__init__()
        self.conv, self.rest = dgl.nn.GraphConv(8, 8), rest

    def forward(self, graph, feat, *more):
        return self.rest(self, graph, self.conv(graph, feat), *more)


def summed(graph, h, reduce):
    with graph.local_scope():
        graph.ndata["h"] = h
        graph.update_all(fn.copy_u("h", "m"), reduce)
        return graph.ndata["sum"]


def changed(h):
    half = h[:, :4]
    h[:, 0] = 0
    return half * 2


# A forward's end, what the refusal says to write instead, and that.
CASES = {
    "a branch on data": (
        lambda self, g, h: h / 2 if h.max() > 0 else h,
        "torch.where for a choice",
        lambda self, g, h: torch.where(h.max() > 0, h / 2, h),
    ),
    "a number of the data": (
        lambda self, g, h: h * h.mean().item(),
        "write it with tensors",
        lambda self, g, h: h * h.mean(),
    ),
    "a detour by NumPy": (
        lambda self, g, h: torch.from_numpy(h.detach().numpy() * 2),
        "write it with tensors",
        lambda self, g, h: h * 2,
    ),
    "random numbers": (
        lambda self, g, h: F.dropout(h, 0.5),
        r"F.dropout\(x, p, self.training\)",
        lambda self, g, h: F.dropout(h, 0.5, self.training),
    ),
    "a number of nodes": (
        lambda self, g, h: h.reshape(30, 2, 4).sum(1),
        r"take numbers of nodes from graph.num_nodes\(\)",
        lambda self, g, h: h.reshape(g.num_nodes(), 2, 4).sum(1),
    ),
    "results within results": (
        lambda self, g, h: (h, (h * 2,)),
        "return one of tensors",
        lambda self, g, h: (h, h * 2),
    ),
    "a reduce function": (
        lambda self, g, h: summed(g, h, lambda nodes: {"sum": nodes.mailbox["m"].cumsum(1)[:, -1]}),
        "or write it with dgl.function",
        lambda self, g, h: summed(g, h, fn.sum("m", "sum")),
    ),
    "a change under another name": (
        lambda self, g, h: changed(h),
        "write the operation so that it returns its result",
        lambda self, g, h: h[:, :4] * torch.tensor([0.0, 2.0, 2.0, 2.0]),
    ),
    "a sampled graph": (
        lambda self, g, h: self.conv(dgl.sampling.sample_neighbors(g, g.nodes(), 2), h),
        "make it outside and pass it as an argument",
        lambda self, g, h, sampled: self.conv(sampled, h),
    ),
    "a function that is not known": (
        lambda self, g, h: torch.linalg.svd(h)[0][:, :8],
        "partial=True",
        None,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_refusal_says_the_form_that_can_be_frozen(case):
    refused, remedy, instead = CASES[case]
    torch.manual_seed(0)
    graph, feat = dgl.add_self_loop(dgl.rand_graph(30, 90)), torch.randn(30, 8)
    more = [dgl.sampling.sample_neighbors(graph, graph.nodes(), 2)] if case == "a sampled graph" else []

    def low_bit(rest, *args):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", lowbit.FloatModuleWarning)  # of the reduce function
            return lowbit.calibrate(lowbit.quantize(Net(rest), lowbit.QuantConfig(8), *args), *args).eval()

    with pytest.raises(lowbit.FreezeError, match=remedy):
        lowbit.freeze(low_bit(refused, graph, feat), graph, feat)
    if instead is None:
        model = low_bit(refused, graph, feat)
        with pytest.warns(lowbit.FloatModuleWarning):
            packed = lowbit.freeze(model, graph, feat, partial=True)
        torch.testing.assert_close(packed(graph, feat), model(graph, feat), atol=1e-4, rtol=1e-4)
        return
    model = low_bit(instead, graph, feat, *more)
    got, expected = lowbit.freeze(model, graph, feat, *more)(graph, feat, *more), model(graph, feat, *more)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
