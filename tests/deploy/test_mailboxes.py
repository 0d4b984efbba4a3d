"""Reduce functions over mailboxes: computed edge by edge in packed models, or refused by what they do."""

import math

import dgl
import dgl.function as fn
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dgl_lowbit as lowbit
from tests.conftest import homogeneous

WIDTH = 6
pytestmark = pytest.mark.filterwarnings("ignore::dgl_lowbit.convert.FloatModuleWarning")  # these sums stay float32


class Reduces(nn.Module):
    """A linear layer, messages of both ends of an edge, a reduce function."""

    def __init__(self, reduce):
        super().__init__()
        self.linear, self.inner, self.reduce = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), reduce

    def forward(self, graph, feat):
        with graph.local_scope():
            graph.ndata["h"] = self.linear(feat)
            graph.update_all(fn.u_sub_v("h", "h", "m"), lambda nodes: {"h": self.reduce(self, nodes)})
            return graph.ndata["h"]


def attention(model, nodes):
    messages = nodes.mailbox["m"]
    scores = F.leaky_relu((messages * nodes.data["h"].unsqueeze(1)).sum(-1, keepdim=True), 0.2)
    return (F.softmax(scores, dim=1) * messages).sum(1) + nodes.data["h"]


def moments(model, nodes):
    messages = nodes.mailbox["m"]
    centered = messages - messages.mean(1, keepdim=True).expand_as(messages)
    parts = [messages.std(dim=1, unbiased=False), messages.max(1)[0], torch.min(messages, dim=1).values]
    return torch.cat([*parts, torch.mean(centered**3, dim=1), torch.var(messages, 1, False)], dim=1)


def pooled(model, nodes):
    messages = torch.relu(model.inner(nodes.mailbox["m"]))
    messages = torch.cat([messages, nodes.mailbox["m"].view(*messages.shape[:2], WIDTH)], dim=-1)[..., ::2]
    return 1 - torch.amax(messages.transpose(2, -1).flatten(2), (1,)) * messages.unsqueeze(2).squeeze(2).sum(dim=1)


def scaled(model, nodes):
    messages = nodes.mailbox["m"]
    degree = messages.size(1)
    return (
        messages.sum(1) * (np.log(degree + 1) / 2.5) + messages.view(len(messages), degree, -1).sum(dim=1) / degree**0.5
    )


def prepared(reduce, graph):
    torch.manual_seed(0)
    feat = torch.randn(graph.num_nodes(), WIDTH)
    model = lowbit.quantize(Reduces(reduce), lowbit.QuantConfig(8), graph, feat)
    return lowbit.calibrate(model, graph, feat).eval(), feat


@pytest.mark.parametrize("reduce", [attention, moments, pooled, scaled, lambda model, nodes: nodes.mailbox["m"].sum(1)])
def test_reduce_functions_run_edge_by_edge(reduce, tmp_path):
    """Also on a graph with nodes that receive nothing, which the example has none of."""
    example = dgl.add_self_loop(homogeneous())
    model, feat = prepared(reduce, example)
    packed = lowbit.load(lowbit.freeze(model, example, feat).save(tmp_path / "model.safetensors"))
    assert any("reduce_edges" in part for part in packed.info["float32"])
    other = dgl.graph(([0, 1, 2, 2, 1], [4, 4, 4, 1, 2]), num_nodes=6)
    for graph in (example, other):
        feat = torch.randn(graph.num_nodes(), WIDTH)
        with torch.no_grad():
            torch.testing.assert_close(packed(graph, feat), model(graph, feat), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("reduce", "message"),
    [
        (lambda model, nodes: nodes.mailbox["m"].sum(1) / nodes.mailbox["m"].shape[1], "depend on the in-degree"),
        (
            lambda model, nodes: nodes.mailbox["m"].sum(1) / math.log(nodes.mailbox["m"].size(1)),
            "an in-degree as a number",
        ),
        (lambda model, nodes: nodes.mailbox["m"][:, 0], "some of the messages in a reduce function at .*test_mail"),
        (lambda model, nodes: nodes.mailbox["m"].cumsum(1).sum(1), "cumsum in a reduce function"),
        (lambda model, nodes: nodes.mailbox["m"].sum((1, 2)), r"sum over dimension \(1, 2\)"),
        (lambda model, nodes: nodes.mailbox["m"].reshape(-1, WIDTH), "a shape of"),
        (lambda model, nodes: nodes.mailbox["m"] + torch.ones(7, 1), "a tensor of shape"),
        (lambda model, nodes: nodes.mailbox["m"].norm(dim=1), "norm"),
        (lambda model, nodes: nodes.mailbox["m"].softmax(1), "a result without a row for each node"),
    ],
)
def test_what_needs_the_mailbox_itself_is_refused(reduce, message):
    graph = dgl.add_self_loop(homogeneous())
    model = Reduces(lambda model, nodes: nodes.mailbox["m"].sum(1))
    feat = torch.randn(graph.num_nodes(), WIDTH)
    model = lowbit.calibrate(lowbit.quantize(model, lowbit.QuantConfig(8), graph, feat), graph, feat).eval()
    model.reduce = reduce
    with pytest.raises(lowbit.FreezeError, match=f"{message}.*or write it with dgl.function"):
        lowbit.freeze(model, graph, feat)
