"""The layers' formulas over dense matrices in float64, with what the layers' own quantisers make of operands."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.nn.layers import HEADS, IN, OUT, TYPES, ready


class Twin:
    """A calibrated layer, its arguments, the dense matrices of its graph, and its quantisers as functions."""

    def __init__(self, name, bits, weighted=False):
        self.layer, self.args, self.keywords = ready(name, bits, weighted)
        graph = self.graph = self.args[0]
        self.source, self.target = graph.edges(order="eid")
        size = graph.num_edges()
        self.starts = torch.zeros(size, graph.num_src_nodes()).double()
        self.starts[torch.arange(size), self.source] = 1
        self.ends = torch.zeros(size, graph.num_dst_nodes()).double()
        self.ends[torch.arange(size), self.target] = 1
        weights = list(self.keywords.values())
        self.weight = weights[0].double().view(-1) if weights else torch.ones(size).double()
        self.adjacency = self.ends.T @ (self.weight[:, None] * self.starts)
        self.in_degrees = self.ends.sum(0)[:, None].clamp(min=1)
        self.out_degrees = self.starts.sum(0)[:, None].clamp(min=1)

    def q(self, name, x):
        return self.layer.quantizers[name](x.detach().float()).double()

    def own(self, x):
        """Rows of the destination nodes."""
        return x[: self.graph.num_dst_nodes()]

    def apply(self, module, x):
        """A module's result on float32, where its own layers are low-bit."""
        return module(x.float()).double()

    def steps(self, h, count, side=None):
        """Direct messages: h, Ã h, Ã² h, …"""
        powers = [h.double()]
        for step in range(count):
            powers.append(self.received(self.q(f"messages_{step}", self.sent(powers[-1], side))))
        return powers

    def sent(self, h, side=None):
        degrees = self.out_degrees if side == "out" else self.in_degrees
        return h if self.keywords else h * degrees**-0.5

    def received(self, messages):
        if not self.keywords:
            return self.in_degrees**-0.5 * (self.adjacency @ messages)
        norm = (self.adjacency.sum(0)[self.source] * self.adjacency.sum(1)[self.target]) ** -0.5
        return self.ends.T @ ((self.weight * norm)[:, None] * (self.starts @ messages))

    def check(self, expected):
        got = self.layer(*self.args, **self.keywords)
        torch.testing.assert_close(got.double(), expected.detach().view_as(got), rtol=1e-4, atol=1e-4)


BITS = pytest.mark.parametrize("bits", [2, 4, 8])
WITH_WEIGHTS = pytest.mark.parametrize("weighted", [False, True])


def softmax_by_target(twin, score):
    """Softmax over the edges of each target, (E, heads)."""
    exp = (score - score.max()).exp()
    return exp / (twin.ends @ (twin.ends.T @ exp))


def attended(twin, attention, messages, heads):
    """Σ over edges of attention times message, (N, heads · D)."""
    by_head = (twin.starts @ messages).view(len(attention), heads, -1)
    return twin.ends.T @ (attention[:, :, None] * by_head).flatten(1)


@BITS
@WITH_WEIGHTS
@pytest.mark.parametrize("name", ["gat", "gat_residual", "gat_identity", "gat_pair"])
def test_gatconv_against_dense_algebra(name, bits, weighted):
    twin = Twin(name, bits, weighted)
    layer, feat = twin.layer, twin.args[1]
    heads = layer._num_heads
    if isinstance(feat, tuple):
        inputs, own = twin.q("inputs", feat[0]), twin.q("inputs_dst", feat[1])
        source = inputs @ twin.q("weights", layer.fc_src.weight.t())
        target = own @ twin.q("weights_dst", layer.fc_dst.weight.t())
    else:
        inputs = twin.q("inputs", feat)
        source, own = inputs @ twin.q("weights", layer.fc.weight.t()), twin.own(inputs)
        target = twin.own(source)
    left = twin.q("scores_src", (source.view(-1, heads, layer._out_feats) * layer.attn_l).sum(-1))
    right = twin.q("scores_dst", (target.view(-1, heads, layer._out_feats) * layer.attn_r).sum(-1))
    score = F.leaky_relu(twin.starts @ left + twin.ends @ right, 0.2)
    attention = twin.q("attention", (softmax_by_target(twin, score) * twin.weight[:, None])[:, :, None])[:, :, 0]
    expected = attended(twin, attention, twin.q("messages", source), heads)
    if isinstance(layer.res_fc, nn.Linear):
        expected = expected + own @ twin.q("weights_res", layer.res_fc.weight.t()) + layer.res_fc.bias
    elif layer.res_fc is not None:
        expected = expected + twin.own(feat)
    if layer.bias is not None:
        expected = expected + layer.bias
    twin.check(expected if layer.activation is None else layer.activation(expected))


@BITS
@pytest.mark.parametrize("name", ["gatv2", "gatv2_shared", "gatv2_pair"])
def test_gatv2conv_against_dense_algebra(name, bits):
    twin = Twin(name, bits)
    layer, feat = twin.layer, twin.args[1]
    if isinstance(feat, tuple):
        inputs, own = twin.q("inputs", feat[0]), twin.q("inputs_dst", feat[1])
    else:
        inputs = twin.q("inputs", feat)
        own = twin.own(inputs)
    bias = (0, 0) if layer.fc_src.bias is None else (layer.fc_src.bias, layer.fc_dst.bias)
    source = inputs @ twin.q("weights", layer.fc_src.weight.t()) + bias[0]
    own_weights = "weights" if layer.share_weights else "weights_dst"
    target = own @ twin.q(own_weights, layer.fc_dst.weight.t()) + bias[1]
    sums = twin.starts @ twin.q("scores_src", source) + twin.ends @ twin.q("scores_dst", target)
    score = (F.leaky_relu(sums, 0.2).view(-1, HEADS, OUT) * layer.attn).sum(-1)
    attention = twin.q("attention", softmax_by_target(twin, score)[:, :, None])[:, :, 0]
    expected = attended(twin, attention, twin.q("messages", source), HEADS)
    if layer.res_fc is not None:
        residual = own @ twin.q("weights_res", layer.res_fc.weight.t())
        expected = expected + residual + (0 if layer.res_fc.bias is None else layer.res_fc.bias)
    twin.check(expected)


@BITS
@WITH_WEIGHTS
@pytest.mark.parametrize("how", ["sum", "mean", "max"])
def test_ginconv_against_dense_algebra(how, bits, weighted):
    twin = Twin(f"gin_{how}", bits, weighted)
    layer, feat = twin.layer, twin.args[1]
    messages = twin.q("messages", feat)
    if how == "max":
        each = twin.weight[:, None] * (twin.starts @ messages)
        total = torch.stack([each[column > 0].amax(0) for column in twin.ends.T])
    else:
        total = twin.adjacency @ messages / (twin.in_degrees if how == "mean" else 1)
    twin.check(torch.tanh(twin.apply(layer.apply_func, (1 + layer.eps) * feat + total)))


@BITS
def test_gineconv_against_dense_algebra(bits):
    twin = Twin("gine", bits)
    layer, (_, feat, edge) = twin.layer, twin.args
    both = twin.q("messages", torch.cat([feat, edge]))
    nodes, edges = both[: len(feat)], both[len(feat) :]
    total = twin.ends.T @ (twin.starts @ nodes + edges).relu()
    twin.check(twin.apply(layer.apply_func, (1 + layer.eps) * feat + total))


@BITS
@WITH_WEIGHTS
def test_appnpconv_against_dense_algebra(bits, weighted):
    twin = Twin("appnp_direct", bits, weighted)
    h = feat = twin.args[1].double()
    for step in range(3):
        received = twin.received(twin.q(f"messages_{step}", twin.sent(h, "out")))
        h = 0.8 * received + 0.2 * feat
    twin.check(h)


@BITS
@WITH_WEIGHTS
def test_appnpconv_with_changes_as_messages_against_dense_algebra(bits, weighted):
    twin = Twin("appnp", bits, weighted)
    h = feat = twin.args[1].double()
    known = received = torch.zeros_like(h)
    for step in range(3):
        change = twin.q(f"messages_{step}", twin.sent(h, "out") - known)
        known, received = known + change, received + twin.received(change)
        h = 0.8 * received + 0.2 * feat
    twin.check(h)


@BITS
@WITH_WEIGHTS
def test_sgconv_against_dense_algebra(bits, weighted):
    twin = Twin("sg", bits, weighted)
    layer, last = twin.layer, twin.steps(twin.args[1], 2)[-1]
    twin.check(twin.q("inputs", last) @ twin.q("weights", layer.fc.weight.t()) + layer.fc.bias)


@BITS
@WITH_WEIGHTS
def test_tagconv_against_dense_algebra(bits, weighted):
    twin = Twin("tag", bits, weighted)
    layer, powers = twin.layer, twin.steps(twin.args[1], 2)
    product = twin.q("inputs", torch.cat(powers, 1)) @ twin.q("weights", layer.lin.weight.t())
    twin.check((product + layer.lin.bias).relu())


@BITS
def test_chebconv_against_dense_algebra(bits):
    twin = Twin("cheb", bits)
    layer, (_, feat, (largest,)) = twin.layer, twin.args
    terms = [feat.double()]
    for step in range(2):
        h = terms[-1]
        received = twin.received(twin.q(f"messages_{step}", twin.sent(h)))
        scaled = 2 / largest * (h - received) - h  # L̂ h
        terms.append(scaled if step == 0 else 2 * scaled - terms[-2])
    product = twin.q("inputs", torch.cat(terms, 1)) @ twin.q("weights", layer.linear.weight.t())
    twin.check((product + layer.linear.bias).relu())


@BITS
@WITH_WEIGHTS
@pytest.mark.parametrize("name", ["gcn2", "gcn2_two"])
def test_gcn2conv_against_dense_algebra(name, bits, weighted):
    twin = Twin(name, bits, weighted)
    layer, (_, feat, initial) = twin.layer, twin.args
    alpha, beta = 0.2, torch.log(torch.tensor(1.5)).double()
    received = twin.received(twin.q("messages_0", twin.sent(feat.double())))
    smoothed = (1 - alpha) * received + alpha * initial
    weight = twin.q("weights", layer.weight1)
    if name == "gcn2":
        twin.check((1 - beta) * smoothed + beta * twin.q("aggregates", smoothed) @ weight + layer.bias)
    else:
        product = (1 - alpha) * twin.q("aggregates", received) @ weight
        product = product + alpha * twin.q("inputs", initial) @ twin.q("weights_initial", layer.weight2)
        twin.check(((1 - beta) * smoothed + beta * product).relu())


@BITS
@WITH_WEIGHTS
@pytest.mark.parametrize("name", ["rel", "rel_basis", "rel_bdd"])
def test_relgraphconv_against_dense_algebra(name, bits, weighted):
    twin = Twin(name, bits, weighted)
    layer, (_, feat, types) = twin.layer, twin.args
    if name == "rel":
        weights = layer.linear_r.W
    elif name == "rel_basis":
        weights = torch.einsum("rb,bio->rio", layer.linear_r.coeff, layer.linear_r.W)
    else:
        weights = torch.zeros(TYPES, IN, 6)
        blocks = layer.linear_r.W.detach().view(TYPES, 3, 4, 2)
        for relation in range(TYPES):
            for block in range(3):
                rows, columns = slice(4 * block, 4 * block + 4), slice(2 * block, 2 * block + 2)
                weights[relation, rows, columns] = blocks[relation, block]
    side_by_side = torch.cat(list(weights), 1)
    inputs = twin.q("inputs", feat)
    products = (inputs @ twin.q("weights", side_by_side)).view(len(feat), TYPES, 6)
    messages = twin.q("messages", products.transpose(0, 1)).transpose(0, 1)
    expected = twin.ends.T @ (twin.weight[:, None] * messages[twin.source, types])
    if layer.layer_norm:
        expected = twin.apply(layer.layer_norm_weight, expected)
    if layer.bias:
        expected = expected + layer.h_bias
    if layer.self_loop:
        expected = expected + twin.own(inputs) @ twin.q("weights_loop", layer.loop_weight)
    twin.check(expected if layer.activation is None else layer.activation(expected))
