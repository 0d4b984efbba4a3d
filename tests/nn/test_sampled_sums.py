"""Sums on blocks that know the degrees of the graph they are sampled from."""

from functools import partial

import dgl
import pytest
import torch
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.graphs.degrees import times_drawn
from dgl_lowbit.nn import GINConv, GINEConv, GraphConv, SAGEConv, with_degrees
from dgl_lowbit.training.options import counts_neighbours

CONFIG = lowbit.QuantConfig(8)
LAYERS = {
    **{f"GraphConv, {norm}": partial(GraphConv, 6, 4, norm=norm) for norm in ("both", "left", "right", "none")},
    "GraphConv, product last": partial(GraphConv, 4, 6),
    **{f"GINConv, {kind}": partial(GINConv, None, kind) for kind in ("sum", "mean")},
    **{f"SAGEConv, {kind}": partial(SAGEConv, 6, 4, kind) for kind in ("gcn", "mean")},
}  # fmt: skip


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


@pytest.mark.parametrize(
    ("name", "arithmetic"), [(n, a) for n in LAYERS for a in ("float", "integer") if (n[:3], a) != ("GIN", "integer")]
)
def test_whichever_neighbours_are_drawn_sums_are_whole(name, arithmetic, graph):
    """All nodes send the same here, but for themselves where they count as a neighbour too."""
    feat = torch.tensor([1.0, -0.5, 0.25, 2.0, -1.0, 0.5])[: 4 if "last" in name else 6].repeat(60, 1)
    layer = made(LAYERS[name], graph, feat, lowbit.QuantConfig(8, arithmetic=arithmetic))
    whole = layer(graph, feat).detach()
    assert graph.in_degrees().max() > 9
    block = sampled(with_degrees(graph), 3)
    assert block.num_edges() < graph.num_edges()
    near = partial(torch.allclose, whole, atol=0.01 * float(whole.abs().max()))
    assert near(layer(block, feat[block.srcdata[dgl.NID]]))
    plain = layer(sampled(graph, 3), feat[block.srcdata[dgl.NID]])
    assert near(plain) != layer.counts_neighbours or "gcn" in name


def test_sums_over_all_neighbours_in_a_block_are_those_on_the_graph(graph):
    feat = torch.randn(60, 6, generator=torch.Generator().manual_seed(1))
    layer = made(LAYERS["GraphConv, both"], graph, feat)
    chosen = torch.arange(40, 60)
    (block,) = dgl.dataloading.MultiLayerFullNeighborSampler(1).sample_blocks(with_degrees(graph), chosen)[2]
    assert torch.equal(layer(block, feat[block.srcdata[dgl.NID]]), layer(graph, feat)[chosen])


def test_weights_of_edges_are_taken_as_they_are(graph):
    """As those that are normalised over what was drawn, whose sums are means."""
    feat, norm = torch.ones(60, 6), dgl.nn.EdgeWeightNorm("right")
    layer = GraphConv(6, 4, norm="none", config=CONFIG, allow_zero_in_degree=True)
    ones = torch.ones(graph.num_edges())
    lowbit.calibrate(layer, graph, feat, edge_weight=norm(graph, ones))
    whole = layer.eval()(graph, feat, edge_weight=norm(graph, ones))
    block = sampled(with_degrees(graph), 3)
    weight = norm(block, ones[: block.num_edges()])
    assert torch.allclose(layer(block, feat[block.srcdata[dgl.NID]], edge_weight=weight), whole, atol=1e-4)
    assert times_drawn(ones, block) is not None


def test_edges_features_count_as_often_as_their_messages(graph):
    feat, edge = torch.ones(60, 6), torch.full((300, 6), 0.5)
    layer = GINEConv(nn.Linear(6, 2), config=CONFIG)
    lowbit.calibrate(layer, graph, feat, edge)
    block = sampled(with_degrees(graph), 3)
    found = layer.eval()(block, feat[block.srcdata[dgl.NID]], edge[: block.num_edges()])
    assert torch.allclose(found, layer(graph, feat, edge), atol=1e-4)


def test_gradients_are_as_often_as_messages(graph):
    feat = torch.ones(60, 6)
    layer, block = made(LAYERS["GraphConv, none"], graph, feat), sampled(with_degrees(graph), 3)
    x = feat[block.srcdata[dgl.NID]].requires_grad_()
    layer(block, x).sum().backward()
    y = feat.clone().requires_grad_()
    layer(graph, y).sum().backward()
    assert torch.allclose(x.grad.sum(0), y.grad.sum(0), rtol=1e-4)


@pytest.mark.parametrize(("layer", "counts"), [(GraphConv(2, 2, norm="right"), False), (GraphConv(2, 2), True)])
def test_models_that_count_are_told(layer, counts):
    assert not counts_neighbours(nn.Sequential(layer))
    assert counts_neighbours(lowbit.quantize(nn.Sequential(layer), lowbit.QuantConfig(2))) == counts
