"""Packed models on some nodes of a DGLGraph, and brought up to date, against runs of all of them, to the bit."""

import dgl
import dgl.function as fn
import dgl.nn
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit
import numba_kernels.run.part as part
from numba_kernels.subgraph import Limits
from tests.conftest import GRAPHS, features
from tests.contract.test_every_layer_packed import Constant
from tests.nn.layers import LAYERS, arguments, make


@pytest.fixture(autouse=True)
def always_a_part(monkeypatch):
    """Small graphs are cut too."""
    monkeypatch.setattr(part, "_ENCODED", Limits())
    monkeypatch.setattr(part, "_CODED", Limits())


def sparse(nodes=300, edges=450):
    """Few edges a node, some of them twice, a node of many, nodes without."""
    generator = torch.Generator().manual_seed(0)
    source, target = torch.randint(nodes - 5, (2, edges), generator=generator)
    many = torch.randint(nodes, (60,), generator=generator)
    return dgl.graph(
        (torch.cat([source, source[:20], many]), torch.cat([target, target[:20], torch.full((60,), 7)])),
        num_nodes=nodes,
    )


def test_nodes_may_be_tensors_lists_and_masks(packed, graph, feat):
    whole = packed(graph, feat)
    assert packed.hops == 2
    for nodes in (torch.tensor([3, 3, 1]), torch.arange(40) % 7 == 0):
        assert torch.equal(packed(graph, feat, nodes=nodes), whole[nodes])
    assert torch.equal(packed(graph, feat, nodes=[5]), whole[[5]])
    assert packed(graph, feat, nodes=[]).shape == (0, 3)
    with pytest.raises(dgl.DGLError, match="nodes must be from 0 to 39, got 40 to 40"):
        packed(graph, feat, nodes=torch.tensor([40]))


def test_a_prepared_model_keeps_its_arguments(packed, graph, feat):
    whole, prepared = packed(graph, feat), packed.prepare(graph, feat)
    feat.zero_()  # only their codes are read
    assert torch.equal(prepared(), whole) and torch.equal(prepared([5, 5, 2]), whole[[5, 5, 2]])
    assert torch.equal(prepared(torch.arange(40) < 3), whole[:3])
    with pytest.raises(dgl.DGLError, match="nodes must be from 0 to 39, got 40 to 40"):
        prepared([40])
    with pytest.raises(dgl.DGLError, match="expected features of width"):
        packed.prepare(graph, torch.zeros(40, 5))


def test_updates_follow_features_edges_and_nodes_of_a_graph(packed, graph, feat):
    feat = feat.clone()
    assert torch.equal(packed.update(graph, feat), packed(graph, feat))
    feat[4] += 1
    assert torch.equal(packed.update(graph, feat, changed=torch.tensor([4])), packed(graph, feat))
    ends = graph.find_edges(torch.tensor([11]))
    graph.remove_edges(torch.tensor([11]))
    graph.add_edges(torch.tensor([2]), torch.tensor([30]))
    both = tuple(torch.cat([end, torch.tensor([node])]) for end, node in zip(ends, (2, 30)))
    assert torch.equal(packed.update(graph, feat, changed_edges=both), packed(graph, feat))
    graph.add_nodes(1)
    graph.add_edges(torch.tensor([40, 8, 40]), torch.tensor([40, 40, 3]))
    feat = torch.cat([feat, feat[:1]])
    assert torch.equal(packed.update(graph, feat, changed=torch.tensor([])), packed(graph, feat))


class OfFrame(nn.Module):
    """Reads the graph's own features."""

    def __init__(self):
        super().__init__()
        self.conv = dgl.nn.GraphConv(12, 3)

    def forward(self, g):
        return self.conv(g, g.ndata["feat"])


def test_features_may_stand_in_the_graph(graph):
    graph.ndata["feat"] = features(graph, 12)
    model = lowbit.calibrate(lowbit.quantize(OfFrame(), lowbit.QuantConfig(2)), graph).eval()
    packed = lowbit.freeze(model, graph)
    assert packed.hops == 1 and torch.equal(packed(graph, nodes=[9, 2]), packed(graph)[[9, 2]])


class OwnNodes(nn.Module):
    """Takes an argument of that name itself."""

    def __init__(self):
        super().__init__()
        self.conv = dgl.nn.GraphConv(12, 3)

    def forward(self, g, x, nodes):
        return self.conv(g, x)[nodes]


def test_a_model_with_an_argument_of_that_name_gets_it(graph, feat):
    nodes = torch.tensor([1, 8, 8])
    model = lowbit.calibrate(lowbit.quantize(OwnNodes(), lowbit.QuantConfig(2)), graph, feat, nodes).eval()
    packed = lowbit.freeze(model, graph, feat, nodes)
    assert torch.equal(packed(graph, feat, nodes=nodes), packed(graph, feat, nodes))
    assert packed(graph, feat, nodes=nodes).shape == (3, 3)


def test_blocks_and_several_types_are_refused_in_words(packed, graph, feat):
    with pytest.raises(dgl.DGLError, match="blocks name theirs already"):
        packed(GRAPHS["block"](), features(GRAPHS["block"](), 12), nodes=[0])


class Own(nn.Module):
    """Message passing written out."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, 6)

    def forward(self, g, x):
        with g.local_scope():
            g.ndata["h"] = self.linear(x)
            g.update_all(lambda edges: {"m": torch.tanh(edges.src["h"] + edges.dst["h"])}, fn.sum("m", "h"))
            return F.relu(g.ndata["h"])


@pytest.mark.slow
def test_message_passing_of_ones_own_gives_the_same():
    graph = sparse()
    feat = features(graph, 12)
    model = lowbit.calibrate(lowbit.quantize(Own(), lowbit.QuantConfig(4)), graph, feat).eval()
    packed = lowbit.freeze(model, graph, feat)
    whole, nodes = packed(graph, feat), torch.tensor([7, 2, 290])
    assert torch.equal(packed(graph, feat, nodes=nodes), whole[nodes])
    packed.update(graph, feat)
    feat = feat.clone()
    feat[5] += 1
    assert torch.equal(packed.update(graph, feat, changed=[5]), packed(graph, feat))


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "name", [name for name, layer in LAYERS.items() if "homogeneous" in layer.graphs and name != "sage_lstm"]
)
def test_every_layer_gives_the_rows_it_gives_of_all_nodes(name, weighted):
    if weighted and not LAYERS[name].weight:
        pytest.skip("takes no weights")
    graph, layer = sparse(), make(name, 4).eval()
    args, keywords = arguments(name, graph, weighted)
    if name == "cheb":
        layer, args = Constant(layer, args[-1]).eval(), args[:-1]
    layer = lowbit.calibrate(layer, *args, **keywords)
    packed = lowbit.freeze(layer, graph=graph)
    assert name in ("cheb", "linear") or packed.hops is not None
    whole = packed(*args, **keywords)
    prepared = packed.prepare(*args, **keywords)
    assert torch.equal(prepared(), whole)
    for nodes in (torch.tensor([7, 3, 100, 3]), torch.arange(0, 300, 11)):
        assert torch.equal(packed(*args, nodes=nodes, **keywords), whole[nodes])
        assert torch.equal(prepared(nodes), whole[nodes])
    if not LAYERS[name].takes_graph:
        return
    packed.update(*args, **keywords)
    changed = args[1].clone()
    changed[[3, 40]] += 0.5
    args = args[0], changed, *args[2:]
    assert torch.equal(packed.update(*args, changed=[3, 40], **keywords), packed(*args, **keywords))
