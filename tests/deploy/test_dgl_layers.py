"""Layers of DGL that have no class here: low-bit by their calls over edges, frozen whole, equal on other graphs."""

import dgl
import dgl.nn
import pytest
import torch
from torch import nn

import dgl_lowbit as lowbit

IN, OUT, EDGE = 12, 8, 5
pytestmark = pytest.mark.filterwarnings("ignore::dgl_lowbit.FloatModuleWarning")  # parameters of their own


class Net(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.first, self.layer = nn.Linear(IN, IN), layer

    def forward(self, graph, feat, *more):
        return self.layer(graph, self.first(feat), *more)


def graph(seed, nodes=30):
    generator = torch.Generator().manual_seed(seed)
    ends = torch.randint(nodes, (2, 4 * nodes), generator=generator)
    return dgl.add_self_loop(dgl.graph(tuple(ends), num_nodes=nodes))


def batch(seed):
    return dgl.batch([graph(seed + n, nodes) for n, nodes in enumerate((9 + seed, 12, 7))])


def edge_feats(graph):
    return torch.randn(graph.num_edges(), EDGE)


def types(count):
    return torch.arange(count) % 3


# How a layer is built, what follows graph and features in a call, and whether it reads graphs of a batch.
LAYERS = {
    "AGNNConv": (lambda: dgl.nn.AGNNConv(), lambda g: (), False),
    "CFConv": (lambda: dgl.nn.CFConv(IN, EDGE, OUT, OUT), lambda g: (edge_feats(g),), False),
    "DotGatConv": (lambda: dgl.nn.DotGatConv(IN, 4, 3), lambda g: (), False),
    "EdgeConv": (lambda: dgl.nn.EdgeConv(IN, OUT), lambda g: (), False),
    "EGATConv": (lambda: dgl.nn.EGATConv(IN, EDGE, 4, 6, 3), lambda g: (edge_feats(g),), False),
    "EGNNConv": (
        lambda: dgl.nn.EGNNConv(IN, OUT, OUT, EDGE),
        lambda g: (torch.randn(g.num_nodes(), 3), edge_feats(g)),
        False,
    ),
    "GatedGraphConv": (lambda: dgl.nn.GatedGraphConv(IN, IN, 2, 3), lambda g: (types(g.num_edges()),), False),
    "GMMConv": (lambda: dgl.nn.GMMConv(IN, OUT, EDGE, 2, "mean"), lambda g: (edge_feats(g),), False),
    "HGTConv": (
        lambda: dgl.nn.HGTConv(IN, 4, 3, 3, 3),
        lambda g: (types(g.num_nodes()), types(g.num_edges())),
        False,
    ),
    "NNConv": (
        lambda: dgl.nn.NNConv(IN, OUT, nn.Linear(EDGE, IN * OUT), "mean"),
        lambda g: (edge_feats(g),),
        False,
    ),
    "PNAConv": (
        lambda: dgl.nn.PNAConv(IN, OUT, ["mean", "max", "moment3"], ["identity", "amplification", "attenuation"], 2.5),
        lambda g: (),
        False,
    ),
    "GlobalAttentionPooling": (lambda: dgl.nn.GlobalAttentionPooling(nn.Linear(IN, 1)), lambda g: (), True),
    "Set2Set": (lambda: dgl.nn.Set2Set(IN, 2, 1), lambda g: (), True),
    "SortPooling": (lambda: dgl.nn.SortPooling(3), lambda g: (), True),
    "WeightAndSum": (lambda: dgl.nn.WeightAndSum(IN), lambda g: (), True),
}
# Whose messages are summed by a reduce function, or of which only the linear layers before them are low-bit.
IN_FLOAT = {"PNAConv", "GlobalAttentionPooling", "Set2Set", "SortPooling", "WeightAndSum"}


@pytest.mark.parametrize("name", [name for name in LAYERS if hasattr(dgl.nn, name)])
def test_layers_without_a_class_are_low_bit_where_dgl_runs_them(name, tmp_path):
    build, more, takes_batch = LAYERS[name]
    torch.manual_seed(0)
    example, other = (batch if takes_batch else graph)(0), (batch if takes_batch else graph)(3)
    calls = [(g, torch.randn(g.num_nodes(), IN), *more(g)) for g in (example, other)]
    model = lowbit.quantize(Net(build()).eval(), lowbit.QuantConfig(8), *calls[0])
    lowbit.calibrate(model, *calls[0]).eval()
    coded = {key for key, _ in model.named_parameters() if ".update_all" in key or ".apply_edges" in key}
    assert bool(coded) == (name not in IN_FLOAT)
    packed = lowbit.load(lowbit.freeze(model, *calls[0]).save(tmp_path / "layer.safetensors"))
    for call in calls:
        with torch.no_grad():
            got, expected = packed(*call), model(*call)
        for ours, theirs in zip(*(x if isinstance(x, tuple) else (x,) for x in (got, expected))):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
