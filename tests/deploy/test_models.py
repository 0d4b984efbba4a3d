"""Whole models of many layers: frozen whole, in parts, as stages, by type, in batches."""

import dgl
import dgl.nn
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit
from tests.conftest import GRAPHS, features, homogeneous
from tests.nn.layers import hetero


class Mixed(nn.Module):
    """Attention, norms, jumping knowledge, activations of many kinds, and several outputs."""

    def __init__(self):
        super().__init__()
        self.conv1 = dgl.nn.GATConv(12, 8, 4, feat_drop=0.5, attn_drop=0.5, activation=F.elu)
        self.batch_norm, self.layer_norm, self.prelu = nn.BatchNorm1d(32), nn.LayerNorm(32), nn.PReLU()
        self.cat, self.max = dgl.nn.JumpingKnowledge("cat"), dgl.nn.JumpingKnowledge("max")
        self.conv2, self.conv3 = dgl.nn.GATConv(64, 5, 3), dgl.nn.GATv2Conv(32, 7, 2)
        self.head = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.LogSoftmax(dim=1))
        nn.init.uniform_(self.batch_norm.running_mean)
        nn.init.uniform_(self.batch_norm.running_var, 0.5, 2)
        nn.init.uniform_(self.batch_norm.bias)

    def forward(self, graph, feat):
        h = self.conv1(graph, feat).flatten(1)
        first, second = self.batch_norm(h), F.leaky_relu(self.layer_norm(h), 0.2)
        h = -self.cat([first, self.prelu(second)]) / 2
        h = F.normalize(torch.sigmoid(self.conv2(graph, h).mean(1)))
        return self.head(h), self.conv3(graph, self.max([first, second])), first.view(first.shape[0], -1)


def calibrated(model, *args, bits=4):
    torch.manual_seed(0)
    model = lowbit.quantize(model, lowbit.QuantConfig(bits)).eval()
    return lowbit.calibrate(model, *args)


def assert_equal(got, expected):
    assert len(got) == len(expected)
    for mine, theirs in zip(got, expected):
        assert mine.shape == theirs.shape
        torch.testing.assert_close(mine, theirs.detach(), rtol=1e-5, atol=1e-5)


def test_a_model_of_many_layers(graph, tmp_path):
    feat = features(graph, 12)
    model = calibrated(Mixed(), graph, feat)
    packed = lowbit.freeze(model)
    assert_equal(packed(graph, feat), model(graph, feat))
    assert "forward: standardise" in packed.info["float32"] and "conv1 (GATConv): elu" in packed.info["float32"]
    loaded = lowbit.load(packed.save(tmp_path / "mixed.safetensors"))
    assert all(map(torch.equal, loaded(graph, feat), packed(graph, feat)))


class ByType(nn.Module):
    """Two heterogeneous convolutions, with a dict of features read in a loop between them."""

    def __init__(self, aggregate):
        super().__init__()
        conv, sage = dgl.nn.GraphConv, dgl.nn.SAGEConv
        self.conv1 = dgl.nn.HeteroGraphConv(
            {"cites": conv(6, 8), "writes": sage((6, 5), 8, "mean"), "prints": sage((3, 5), 8, "pool")}, aggregate
        )
        self.conv2 = dgl.nn.HeteroGraphConv(
            {"cites": dgl.nn.GATConv(8, 4, 2), "writes": dgl.nn.GATConv(8, 4, 2), "prints": conv(3, 8)}, aggregate
        )
        self.out = nn.Linear(8, 3)

    def forward(self, graph, x):
        h = self.conv1(graph, {name: 2 * value for name, value in x.items()})
        h = {name: F.relu(value) for name, value in h.items()}
        h = {name: value.flatten(1) for name, value in self.conv2(graph, h).items()}
        return {name: self.out(value) for name, value in h.items()}


@pytest.mark.parametrize("aggregate", ["sum", "mean", "max"])
def test_heterogeneous_graphs(aggregate):
    graph, widths = hetero(), {"author": 6, "paper": 5, "venue": 3}
    x = {name: torch.randn(graph.num_nodes(name), width) for name, width in widths.items()}
    model = calibrated(ByType(aggregate), graph, x)
    packed = lowbit.freeze(model, graph=graph)
    got, expected = packed(graph, x), model(graph, x)
    assert got.keys() == expected.keys()
    assert_equal([got[name] for name in expected], expected.values())
    with pytest.raises(dgl.DGLError, match="x must be a dict with an entry 'venue', got one with author, paper"):
        packed(graph, {name: x[name] for name in ("author", "paper")})
    with pytest.raises(dgl.DGLError, match=r"the model reads edges of type \('author', 'cites', 'author'\)"):
        packed(dgl.edge_type_subgraph(graph, ["writes", "prints"]), x)


class OnBlocks(nn.Module):
    def __init__(self):
        super().__init__()
        layers = {"cites": (6, 6), "writes": (6, 5), "prints": (3, 5)}
        convs = {name: dgl.nn.SAGEConv(widths, 8, "mean") for name, widths in layers.items()}
        self.convs = nn.ModuleList([dgl.nn.HeteroGraphConv(convs)])

    def forward(self, blocks, x):
        for conv, block in zip(self.convs, blocks):
            x = conv(block, x)
        return x["paper"], x["author"]


def test_heterogeneous_blocks():
    graph, widths = hetero(), {"author": 6, "paper": 5, "venue": 3}
    sampler = dgl.dataloading.MultiLayerFullNeighborSampler(1)
    chosen = {"paper": torch.arange(8), "author": torch.tensor([2, 9])}
    nodes, _, blocks = sampler.sample_blocks(graph, chosen)
    x = {name: torch.randn(len(nodes[name]), width) for name, width in widths.items()}
    model = calibrated(OnBlocks(), blocks, x)
    packed = lowbit.freeze(model, graph=graph)
    assert_equal(packed(blocks, x), model(blocks, x))
    assert [len(part) for part in packed(blocks, x)] == [8, 2]


def test_a_type_that_no_batch_held_is_named():
    graph, widths = hetero(), {"author": 6, "paper": 5, "venue": 3}
    nodes, _, blocks = dgl.dataloading.MultiLayerFullNeighborSampler(1).sample_blocks(
        graph, {"paper": torch.tensor([1])}
    )
    x = {name: torch.randn(len(nodes[name]), width) for name, width in widths.items()}
    model = calibrated(OnBlocks(), blocks, x)  # no author is a destination
    with pytest.raises(lowbit.FreezeError, match=r"convs.0.mods.cites.quantizers.\w+.* has no range yet"):
        lowbit.freeze(model, graph=graph)


class GraphClassifier(nn.Module):
    def __init__(self):
        super().__init__()
        mlp = (nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 12))
        self.conv = dgl.nn.GINConv(nn.Sequential(*mlp), "sum", learn_eps=True)
        self.pools = nn.ModuleList([dgl.nn.SumPooling(), dgl.nn.AvgPooling(), dgl.nn.MaxPooling()])
        self.out = nn.Linear(36, 4)

    def forward(self, graph, feat):
        h = F.relu(self.conv(graph, feat))
        return self.out(torch.cat([pool(graph, h) for pool in self.pools], dim=1))


@pytest.mark.parametrize("count", [1, 6])
def test_batched_graphs(count):
    torch.manual_seed(0)
    graph = dgl.batch([dgl.rand_graph(5 + i, 20) for i in range(count)])
    feat = torch.randn(graph.num_nodes(), 12)
    model = calibrated(GraphClassifier(), graph, feat)
    packed = lowbit.freeze(model)
    got = packed(graph, feat)
    assert got.shape == (count, 4)
    torch.testing.assert_close(got, model(graph, feat).detach(), rtol=1e-5, atol=1e-5)
    assert torch.equal(packed.inference(graph, feat, batch_size=7), got)


# -- inference layer by layer ---------------------------------------------------------------------------
class OverBlocks(nn.Module):
    def __init__(self):
        super().__init__()
        sizes = ((12, 16, "mean"), (16, 16, "pool"), (16, 4, "gcn"))
        self.layers = nn.ModuleList(dgl.nn.SAGEConv(*size) for size in sizes)

    def forward(self, blocks, x):
        for layer, block in zip(self.layers, blocks):
            x = layer(block, F.relu(x))
        return x


@pytest.mark.parametrize("batch_size", [1, 9, 1000])
def test_inference_in_batches(batch_size, graph, tmp_path):
    feat = features(graph, 12)
    packed = lowbit.freeze(calibrated(OverBlocks(), [graph] * 3, feat))
    expected = packed([graph] * 3, feat)
    assert torch.equal(packed.inference(graph, feat, batch_size=batch_size), expected)
    on_disk = np.memmap(tmp_path / "feat", np.float64, "w+", shape=tuple(feat.shape))
    on_disk[:] = feat
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.float32, tuple(expected.shape))
    packed.inference([graph] * 3, on_disk, batch_size=batch_size, out=out)
    np.testing.assert_array_equal(out, expected)
    (tmp_path / "states").mkdir()
    options = {"folder": tmp_path / "states", "most_memory": 300, "batch_size": batch_size}
    assert torch.equal(packed.inference(graph, feat, out=tmp_path / "file.npy", **options), expected)
    told = packed.estimate(graph)
    assert told == packed.estimate(nodes=40, edges=graph.num_edges())._replace(seconds=told.seconds)
    assert told == packed.estimate([graph] * 3)._replace(seconds=told.seconds)
    assert told.results == expected.numel() * 4


def test_inference_names_what_does_not_fit(graph):
    feat = features(graph, 12)
    packed = lowbit.freeze(calibrated(OverBlocks(), [graph] * 3, feat))
    for options, message in (
        ({"batch_size": 0}, "batch_size must be a whole number, at least 1"),
        ({"out": np.zeros((3, 3), np.float32)}, r"out must have shape \(40, 4\), got \(3, 3\)"),
        ({"out": np.zeros((40, 4))}, "out must be a writeable C-contiguous float32 matrix"),
    ):
        with pytest.raises(dgl.DGLError, match=message):
            packed.inference(graph, feat, **options)
    with pytest.raises(dgl.DGLError, match="a row for each of 40 source nodes, got 5"):
        packed.inference(graph, feat[:5])
    bad = feat.clone()
    bad[31, 3] = torch.nan
    with pytest.raises(dgl.DGLError, match="x holds NaN or infinity"):
        packed.inference(graph, bad, batch_size=8)


# -- arrays of more dimensions --------------------------------------------------------------------------
class Three(nn.Module):
    """Does something with the heads of a GAT."""

    def __init__(self, what):
        super().__init__()
        self.conv, self.what = dgl.nn.GATConv(12, 4, 3), what

    def forward(self, graph, feat):
        return self.what(self.conv(graph, feat))


@pytest.mark.parametrize(
    "what",
    [
        lambda h: F.softmax(h, dim=1),
        lambda h: h.flatten(1).cumsum(0),
        lambda h: torch.cat([h, h], dim=-1),
        lambda h: h.flatten(1) + h.mean(1).repeat(1, 3),
        lambda h: F.layer_norm(h, (4,)),
        lambda h: F.elu(h, 1.0, True).mean(0),
        lambda h: h.view(-1, 6),
        lambda h: h.max(dim=1)[0],
        lambda h: h.transpose(1, 2).sum(2, keepdim=True),
        lambda h: torch.einsum("nhd,nkd->nhk", h, h),
        lambda h: torch.where(h > 0, h, torch.zeros_like(h)).sum(-1),
    ],
)
def test_arrays_of_more_dimensions(what, graph):
    feat = features(graph, 12)
    model = calibrated(Three(what), graph, feat)
    packed = lowbit.freeze(model)
    other = dgl.add_self_loop(dgl.rand_graph(23, 70))
    for g, x in ((graph, feat), (other, features(other, 12))):
        torch.testing.assert_close(packed(g, x), model(g, x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("conv", [dgl.nn.GATConv, dgl.nn.GATv2Conv])
def test_attention_of_a_steep_slope_is_that_of_training(conv, graph):
    """Beyond the slopes that kernels take it is summed by edges."""
    feat = features(graph, 12)
    model = calibrated(conv(12, 4, 3, negative_slope=1e8), graph, feat)
    torch.testing.assert_close(lowbit.freeze(model)(graph, feat), model(graph, feat).detach(), rtol=1e-4, atol=1e-5)


def test_batch_norm_that_depends_on_the_batch_is_refused(graph):
    model = nn.Sequential(nn.Linear(12, 4), nn.BatchNorm1d(4, track_running_stats=False))
    model = calibrated(model, features(graph, 12))
    with pytest.raises(lowbit.FreezeError, match="BatchNorm without running statistics"):
        lowbit.freeze(model)


# -- without training -----------------------------------------------------------------------------------
def test_observers_set_ranges_as_they_say():
    layer = lowbit.nn.Linear(4, 3, config=lowbit.QuantConfig(8, inputs_granularity="tensor", grid="affine"))
    x = torch.linspace(0, 1, 400).view(100, 4)
    x[0, 0] = 100.0
    ranges = {}
    for observer in ("minmax", "percentile", "error"):
        lowbit.calibrate(layer, x, observer=observer, percentile=99.0)
        quantizer = layer.quantizers["inputs"]
        ranges[observer] = (quantizer.alpha * quantizer.high).item()
    assert ranges["minmax"] == 100.0
    assert ranges["percentile"] == pytest.approx(0.99, abs=0.01)
    for options, message in (
        ({"observer": "mean"}, "observer must be"),
        ({"percentile": 0}, "percentile must be above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            lowbit.calibrate(layer, x, **options)


def test_percentiles_per_row_and_per_channel():
    config = lowbit.QuantConfig(8, grid="affine", messages_granularity="channel", aggregates_granularity="row")
    layer, graph = lowbit.nn.GraphConv(3, 5, config=config), GRAPHS["homogeneous"]()
    lowbit.calibrate(layer, graph, features(graph, 3), observer="percentile", percentile=90)
    assert (layer.quantizers["messages"].alpha < 1).all() and layer.quantizers["messages"].alpha.shape == (3,)
    assert layer.quantizers["aggregates"].alpha.item() <= 1


def test_sensitivity_names_the_layer_that_suffers(graph):
    feat = features(graph, 12)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    with torch.no_grad():
        model[2].weight[:, 0] = 50.0  # one large weight a row leaves the others few codes
    rows = lowbit.sensitivity(model, feat, config=lowbit.QuantConfig(2), metric=lambda out: out.abs().mean())
    assert [row["layer"] for row in rows] == ["2", "0"] and rows[0]["snr"] < rows[1]["snr"]
    assert all(np.isfinite(row["change"]) for row in rows)
    assert not any(isinstance(module, lowbit.nn.LowBitLayer) for module in model.modules())


class Gated(nn.Module):
    """A convolution whose result a gate of its own opens, number by number."""

    def __init__(self):
        super().__init__()
        self.conv, self.gate = dgl.nn.GraphConv(5, 6), dgl.nn.GraphConv(5, 6)

    def forward(self, graph, feat):
        return torch.sigmoid(self.gate(graph, feat)) * self.conv(graph, feat)


def test_values_are_multiplied_number_by_number():
    graph = homogeneous()
    feat = features(graph, 5)
    model = lowbit.calibrate(lowbit.quantize(Gated(), lowbit.QuantConfig(8)), graph, feat).eval()
    packed = lowbit.freeze(model)
    assert [op["op"] for op in packed.plan.ops].count("multiply") == 1
    torch.testing.assert_close(packed(graph, feat), model(graph, feat), rtol=1e-5, atol=1e-5)
