"""What a forward does in Python and torch: followed, or refused with its line."""

import dgl
import dgl.nn
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit
from tests.conftest import features
from tests.deploy.conftest import TwoLayers


def refusal(model, graph, feat, match):
    lowbit.calibrate(model, graph, feat)
    with pytest.raises(lowbit.FreezeError, match=match) as caught:
        lowbit.freeze(model)
    return str(caught.value)


class Forward(TwoLayers):
    """The two layers with a forward given by the test."""

    def __init__(self, forward):
        super().__init__()
        self.act, self.body, self.calls = nn.ReLU(inplace=True), forward, 0

    def forward(self, g, x, w=None):
        return self.body(self, g, x, w)


def branch(self, g, x, w):
    h = self.conv1(g, x)
    if h.sum() > 0:
        h = -h
    return self.conv2(g, h)


def number(self, g, x, w):
    return self.conv2(g, self.conv1(g, x)) * x.max().item()


def array(self, g, x, w):
    h = self.conv1(g, x)
    h.numpy()[0] = 0
    return self.conv2(g, h)


def view(self, g, x, w):
    h = self.conv1(g, x)
    h[:, 0].zero_()
    return self.conv2(g, h)


def counted(self, g, x, w):
    self.calls += 1
    return self.conv2(g, self.conv1(g, x) * self.calls)


def loop(self, g, x, w):
    h = self.conv1(g, x)
    for _ in range(g.num_nodes()):
        h = h + 1
    return self.conv2(g, h)


def constant_rows(self, g, x, w):
    return self.conv2(g, self.conv1(g, x)) + torch.from_numpy(np.ones((g.num_nodes(), 1), np.float32))


def own_graph(self, g, x, w):
    return self.conv2(g, self.conv1(dgl.to_simple(g), x))


@pytest.mark.parametrize(
    ("forward", "match"),
    [
        (branch, r"__bool__ hands numbers .* at .*test_followed.py:\d+ \(if h.sum\(\) > 0:\)"),
        (number, r"item hands numbers .*x.max\(\).item"),
        (array, r"numpy hands numbers .*h.numpy\(\)"),
        (view, r"read that was changed in place under another name .*self.conv2\(g, h\)"),
        (counted, r"mul is given \d+, on a larger graph \d+"),
        (own_graph, r"a graph that forward makes in a way that cannot be followed at .*to_simple"),
        (lambda self, g, x, w: self.conv2(g, F.dropout(self.conv1(g, x))), "dropout draws random numbers at .*dropout"),
        (
            lambda self, g, x, w: self.conv2(g, torch.special.i0(self.conv1(g, x))),
            "special_i0 has no packed form at .*i0",
        ),
        (lambda self, g, x, w: [[self.conv2(g, self.conv1(g, x))]], "tuples, lists or dicts within each other"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_its_line(forward, match, graph, feat):
    refusal(lowbit.quantize(Forward(forward)), graph, feat, match)


def test_parts_without_a_packed_form_are_named(graph, feat):
    def sage(*shape):
        return dgl.nn.SAGEConv(*shape, "lstm")

    refusal(lowbit.quantize(TwoLayers(sage)), graph, feat, r"conv1 \(SAGEConv\).*\(lstm\); mean, gcn and pool")
    for component in ("inputs", "weights", "messages"):
        model = lowbit.quantize(TwoLayers(), lowbit.QuantConfig(4, **{component: 32}))
        refusal(model, graph, feat, rf"conv1 \(GraphConv\) cannot be frozen: its {component} are float32")


def in_place_function(self, g, x, w):
    h = self.conv1(g, x)
    F.relu_(h)
    return self.conv2(g, h)


def in_place_option(self, g, x, w):
    h = self.conv1(g, x)
    F.relu(h, inplace=True)
    return self.conv2(g, h)


def in_place_module(self, g, x, w):
    h = self.conv1(g, x)
    self.act(h)
    return self.conv2(g, h)


def in_place_method(self, g, x, w):
    h = self.conv1(g, x)
    h.clamp_(min=0)
    return self.conv2(g, h)


def in_place_item(self, g, x, w):
    h = self.conv1(g, x)
    h[0] = 0
    h[:, 1:3] = 2.0
    return self.conv2(g, h)


def in_place_alias(self, g, x, w):
    h = k = self.conv1(g, x)
    h += x[:, :8]
    return self.conv2(g, k)


def in_place_used(self, g, x, w):
    h = self.act(self.conv1(g, x))
    h = h.relu_()
    h += h * 0.5
    return self.conv2(g, F.relu(h, inplace=True))


def erf(self, g, x, w):
    return self.conv2(g, torch.erf(self.conv1(g, x)))


def frames(self, g, x, w):
    g.ndata["h"] = self.conv1(g, x)
    return self.conv2(g, g.ndata.pop("h"))


def instance_norm(self, g, x, w):
    return self.conv2(g, F.instance_norm(self.conv1(g, x).unsqueeze(0)).squeeze(0))


def gelu(self, g, x, w):
    return self.conv2(g, F.gelu(self.conv1(g, x)))


def argument_too(self, g, x, w):
    return self.conv2(g, torch.add(self.conv1(g, x), 1.0, alpha=3)), x


def sizes(self, g, x, w):
    h = torch.cat([self.conv1(g, x).view(x.shape[0], 2, -1), torch.zeros(g.num_nodes(), 2, 1)], 2)
    return self.conv2(g, h[:, :, 1:].reshape(len(x), 8) / g.num_edges())


@pytest.mark.parametrize(
    "forward",
    [
        *(in_place_function, in_place_option, in_place_module, in_place_method, in_place_item, in_place_alias),
        *(in_place_used, erf, frames, instance_norm, gelu, argument_too, sizes),
    ],
)
def test_what_python_and_torch_do_is_followed(forward, graph, feat):
    model = lowbit.calibrate(lowbit.quantize(Forward(forward)), graph, feat).eval()
    packed = lowbit.freeze(model, graph, feat)
    other = dgl.add_self_loop(dgl.rand_graph(23, 70))
    for g, x in ((graph, feat), (other, features(other, 12))):
        got, expected = packed(g, x), model(g, x)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("forward", "match"),
    [(loop, "is called .* on a larger graph"), (constant_rows, "differs from one graph to another")],
)
@pytest.mark.parametrize("keeps", [False, True])
def test_what_follows_from_the_number_of_nodes_binds_a_model_that_keeps_so_many(forward, match, keeps, graph, feat):
    """Others are meant for graphs of every size, and refused."""
    model = lowbit.calibrate(lowbit.quantize(Forward(forward)), graph, feat).eval()
    if not keeps:
        with pytest.raises(lowbit.FreezeError, match=f"{match}.* at .*test_followed|read at .*test_followed.*{match}"):
            lowbit.freeze(model, graph, feat)
        return
    model.register_buffer("weight_of_nodes", torch.ones(graph.num_nodes()))
    packed = lowbit.freeze(model, graph, feat)
    torch.testing.assert_close(packed(graph, feat), model(graph, feat).detach(), rtol=1e-4, atol=1e-5)
    other = dgl.add_self_loop(dgl.rand_graph(23, 70))
    with pytest.raises(dgl.DGLError, match="frozen for 40 nodes of type _N, here there are 23"):
        packed(other, features(other, 12))


def choice(self, g, x, w):
    h = self.conv1(g, x, edge_weight=w)
    if w is None:
        h = F.relu(h)
    return self.conv2(g, h)


def test_an_argument_that_chooses_the_course_is_part_of_the_model(graph, feat):
    model, weight = (
        lowbit.calibrate(lowbit.quantize(Forward(choice)), graph, feat).eval(),
        torch.rand(graph.num_edges()),
    )
    without, weighted = lowbit.freeze(model, graph, feat), lowbit.freeze(model, graph, feat, weight)
    torch.testing.assert_close(without(graph, feat), model(graph, feat).detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weighted(graph, feat, weight), model(graph, feat, weight).detach(), rtol=1e-5, atol=1e-6)
    with pytest.raises(TypeError, match="w is None in this model, got ndarray; freeze it with another"):
        without(graph, feat, weight)
    with pytest.raises(TypeError, match="w is missing"):
        weighted(graph, feat)
