"""Sums on blocks that know the degrees of the graph they are sampled from."""

from functools import partial

import dgl
import pytest
import torch
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.graphs.degrees import times_drawn
from dgl_lowbit.nn import GINConv, GraphConv, SAGEConv, ops, sums, with_degrees
from dgl_lowbit.quant import passes
from dgl_lowbit.training.options import counts_neighbours

CONFIG = lowbit.QuantConfig(8)
LAYERS = {
    "multiplied first": partial(GraphConv, 6, 4),
    "multiplied last": partial(GraphConv, 4, 6),
}
# Those that sum as on any block.
OTHERS = {
    **{f"GraphConv, {norm}": partial(GraphConv, 6, 4, norm=norm) for norm in ("left", "right", "none")},
    **{f"GINConv, {kind}": partial(GINConv, None, kind) for kind in ("sum", "mean")},
    **{f"SAGEConv, {kind}": partial(SAGEConv, 6, 4, kind) for kind in ("gcn", "mean")},
}


@pytest.fixture
def graph():
    """Nodes that all send to five others, and receive from 0 to many."""
    generator = torch.Generator().manual_seed(0)
    chances = torch.linspace(0.01, 1, 60).repeat(60, 1)
    targets = torch.multinomial(chances, 5, generator=generator)
    return dgl.graph((torch.arange(60).repeat_interleave(5), targets.flatten()))


def sampled(graph, fanout):
    torch.manual_seed(0)
    dgl.seed(0)
    (block,) = dgl.dataloading.NeighborSampler([fanout]).sample_blocks(graph, torch.arange(60))[2]
    return block


def made(make, graph, feat, config=CONFIG):
    torch.manual_seed(0)
    layer = make(config=config)
    layer._allow_zero_in_degree = True
    lowbit.calibrate(layer, graph, feat)
    return layer.eval()


@pytest.mark.parametrize("arithmetic", ["float", "integer"])
@pytest.mark.parametrize("name", LAYERS)
def test_whichever_neighbours_are_drawn_sums_are_whole(name, arithmetic, graph):
    """All nodes send the same here."""
    feat = torch.tensor([1.0, -0.5, 0.25, 2.0, -1.0, 0.5])[: 4 if "last" in name else 6].repeat(60, 1)
    layer = made(LAYERS[name], graph, feat, lowbit.QuantConfig(8, arithmetic=arithmetic))
    whole = layer(graph, feat).detach()
    assert graph.in_degrees().max() > 9
    block = sampled(with_degrees(graph), 3)
    assert block.num_edges() < graph.num_edges()
    near = partial(torch.allclose, whole, atol=0.01 * float(whole.abs().max()))
    assert near(layer(block, feat[block.srcdata[dgl.NID]]))
    assert not near(layer(sampled(graph, 3), feat[block.srcdata[dgl.NID]]))


def test_packed_sums_count_as_often(graph, monkeypatch):
    """As those of DGL, which serve what is small."""
    feat, found = torch.randn(60, 4, generator=torch.Generator().manual_seed(1)), []
    layer, block = made(LAYERS["multiplied last"], graph, feat), sampled(with_degrees(graph), 3)
    called: list = []
    monkeypatch.setattr(ops, "sum_packed", lambda *args: called.append(True) or sums.sum_packed(*args))
    for least in (1 << 20, 0):
        monkeypatch.setattr(sums, "_LEAST", least)
        monkeypatch.setattr(passes, "_LEAST", least)
        found.append(layer(block, feat[block.srcdata[dgl.NID]]))
        assert bool(called) == (least == 0)
    assert torch.allclose(*found, rtol=1e-5)


@pytest.mark.parametrize("name", OTHERS)
def test_others_sum_as_on_any_block(name, graph):
    feat = torch.randn(60, 6, generator=torch.Generator().manual_seed(1))
    layer = made(OTHERS[name], graph, feat)
    block, plain = sampled(with_degrees(graph), 3), sampled(graph, 3)
    assert torch.equal(block.srcdata[dgl.NID], plain.srcdata[dgl.NID])
    x = feat[block.srcdata[dgl.NID]]
    assert torch.equal(layer(block, x), layer(plain, x))
    assert times_drawn(x, block) is not None


def test_sums_over_all_neighbours_in_a_block_are_those_on_the_graph(graph):
    feat = torch.randn(60, 6, generator=torch.Generator().manual_seed(1))
    layer = made(LAYERS["multiplied first"], graph, feat)
    chosen = torch.arange(40, 60)
    (block,) = dgl.dataloading.MultiLayerFullNeighborSampler(1).sample_blocks(with_degrees(graph), chosen)[2]
    assert torch.equal(layer(block, feat[block.srcdata[dgl.NID]]), layer(graph, feat)[chosen])


def test_weights_of_edges_are_taken_as_they_are(graph):
    """They may be normalised over what was drawn."""
    feat, norm = torch.randn(60, 6, generator=torch.Generator().manual_seed(1)), dgl.nn.EdgeWeightNorm("right")
    layer, x, weight = made(LAYERS["multiplied first"], graph, feat), [], []
    for block in (sampled(with_degrees(graph), 3), sampled(graph, 3)):
        weight.append(norm(block, torch.ones(block.num_edges())))
        x.append(layer(block, feat[block.srcdata[dgl.NID]], edge_weight=weight[-1]))
    assert torch.equal(*weight) and torch.equal(*x)


def test_gradients_are_as_often_as_messages(graph):
    feat = torch.ones(60, 6)
    layer, block = made(LAYERS["multiplied first"], graph, feat), sampled(with_degrees(graph), 3)
    x = feat[block.srcdata[dgl.NID]].requires_grad_()
    layer(block, x).sum().backward()
    y = feat.clone().requires_grad_()
    layer(graph, y).sum().backward()
    assert torch.allclose(x.grad.sum(0), y.grad.sum(0), rtol=1e-4)


@pytest.mark.parametrize(("layer", "counts"), [(GraphConv(2, 2, norm="right"), False), (GraphConv(2, 2), True)])
def test_models_that_count_are_told(layer, counts):
    assert not counts_neighbours(nn.Sequential(layer))
    assert counts_neighbours(lowbit.quantize(nn.Sequential(layer), lowbit.QuantConfig(2))) == counts
