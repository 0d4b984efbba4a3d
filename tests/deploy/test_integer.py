"""Integer arithmetic between accumulators and codes: packed models equal trained ones to the bit."""

import dgl
import dgl.nn
import pytest
import torch
import torch.nn.functional as F
from dgl import DGLError
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.deploy.errors import FreezeError
from dgl_lowbit.deploy.integer import computing_in
from dgl_lowbit.deploy.packed import kernel_graph
from dgl_lowbit.quant.sparse import SparseFeatures
from numba_kernels import reference


class Net(nn.Module):
    """Layers with ReLU and dropout between them, and with what came before added where it fits."""

    def __init__(self, *layers, residual=False, jumps=False):
        super().__init__()
        self.layers, self.dropout = nn.ModuleList(layers), nn.Dropout()
        self.residual, self.jumps = residual, jumps

    def forward(self, graph, h):
        seen = []
        for layer in self.layers:
            out = layer(h) if isinstance(layer, nn.Linear) else layer(graph, h)
            out = out if layer is self.layers[-1] else F.relu(out)
            h = self.dropout(out + h if self.residual and out.shape == h.shape else out)
            seen.append(h)
        return torch.cat(seen, 1) if self.jumps else h


def gcn(*widths, norm="both", **options):
    made = [dgl.nn.GraphConv(*pair, norm=norm, allow_zero_in_degree=True) for pair in zip(widths, widths[1:])]
    return Net(*made, **options)


def sage(aggregator, **options):
    return Net(*(dgl.nn.SAGEConv(*pair, aggregator) for pair in ((19, 12), (12, 12), (12, 5))), **options)


def gin(aggregator, **options):
    inner = [nn.Sequential(nn.Linear(w, 12), nn.ReLU(), nn.Linear(12, 12)) for w in (19, 12)]
    return Net(*(dgl.nn.GINConv(part, aggregator, **options) for part in inner), jumps=True)


MODELS = {
    "both": lambda: gcn(19, 12, 12, 5),
    "right": lambda: gcn(19, 12, 12, 5, norm="right", residual=True),
    "none": lambda: gcn(19, 12, 24, norm="none", jumps=True),
    "left": lambda: gcn(19, 12, 5, norm="left"),
    "mean": lambda: sage("mean"),
    "gcn": lambda: sage("gcn", residual=True),
    "gin": lambda: gin("sum", init_eps=0.3, learn_eps=True),
    "gin mean": lambda: gin("mean"),
    "linear": lambda: Net(nn.Linear(19, 12), nn.Linear(12, 5, bias=False)),
}


def drawn(seed, nodes=40, edges=300, width=19):
    generator = torch.Generator().manual_seed(seed)
    ends = torch.randint(nodes, (2, edges), generator=generator)
    return dgl.graph((ends[0], ends[1]), num_nodes=nodes), torch.randn(nodes, width, generator=generator)


def low_bit(make, bits=2, **options):
    torch.manual_seed(0)
    model = lowbit.quantize(make(), lowbit.QuantConfig(bits, arithmetic="integer", **options))
    return lowbit.calibrate(model, *drawn(0)).eval()


def in_floats(model):
    """``model`` computing in floats, for a while."""
    return computing_in("float", {n: m for n, m in model.named_modules() if isinstance(m, lowbit.nn.LowBitLayer)})


def output(model, *given):
    with torch.no_grad():
        return model(*given)


@pytest.mark.parametrize("bits", [2, pytest.param(4, marks=pytest.mark.slow), 8])
@pytest.mark.parametrize("name", MODELS)
def test_packed_equals_trained_and_the_twin_to_the_bit(name, bits, tmp_path):
    model = low_bit(MODELS[name], bits)
    packed = lowbit.freeze(model)
    packed.save(tmp_path / "model.safetensors")
    loaded = lowbit.load(tmp_path / "model.safetensors")
    assert loaded.info["arithmetic"] == "integer" and "float32" not in loaded.info
    for seed, nodes, edges in ((1, 70, 900), (2, 7, 2000), (3, 5, 0)):
        graph, feat = drawn(seed, nodes, edges)
        expected = output(model, graph, 5 * feat)
        assert torch.equal(loaded(graph, 5 * feat), expected)
        of_plan = {"graph": kernel_graph(graph), "features": (5 * feat).numpy()}
        inputs = {entry["value"]: of_plan[entry["kind"]] for entry in loaded.plan.inputs}
        twin = reference.run(loaded.plan, inputs)[loaded.plan.outputs[0]]
        assert torch.equal(torch.from_numpy(twin), expected)


def test_blocks_and_some_nodes_are_equal_to_the_bit():
    graph, feat = drawn(1, 60, 500)
    block = dgl.to_block(dgl.in_subgraph(graph, torch.arange(20)), torch.arange(20))
    of_sources = feat[block.srcdata[dgl.NID]]
    for make in (lambda: Net(dgl.nn.SAGEConv(19, 5, "mean")), lambda: Net(dgl.nn.SAGEConv(19, 24, "gcn"))):
        model = low_bit(make)
        packed = lowbit.freeze(model)
        assert torch.equal(packed(block, of_sources), output(model, block, of_sources))
        assert torch.equal(packed(graph, feat, nodes=torch.arange(9)), output(model, graph, feat)[:9])


def test_values_are_those_of_float_arithmetic_but_for_roundings():
    for name in ("both", "mean", "gin"):
        model, (graph, feat) = low_bit(MODELS[name], 8), drawn(1)
        exact = output(model, graph, feat)
        with in_floats(model):
            floats = output(model, graph, feat)
        assert 0 < (exact - floats).abs().max() < 0.02 * floats.abs().max()


def test_gradients_are_those_of_float_arithmetic_straight_through():
    model, (graph, feat) = low_bit(MODELS["both"], 8), drawn(1)

    def gradients():
        model.zero_grad()
        model(graph, feat).square().sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    integer = gradients()
    with in_floats(model):
        floats = gradients()
    assert (integer - floats).norm() < 0.05 * floats.norm() and floats.norm() > 0


def test_sparse_features_train_on_the_codes_of_dense_ones():
    model, (graph, feat) = low_bit(MODELS["both"], 2, grid="affine"), drawn(1)
    feat = feat * (feat > 1)
    sparse = SparseFeatures.from_dense(feat)
    assert torch.equal(output(model, graph, sparse), output(model, graph, feat))


def test_freezing_in_integers_what_trained_in_floats():
    grids = {"inputs_granularity": "tensor", "aggregates_granularity": "tensor"}
    model = lowbit.quantize(MODELS["both"](), lowbit.QuantConfig(4, **grids))
    graph, feat = drawn(0)
    lowbit.calibrate(model, graph, feat).eval()
    packed = lowbit.freeze(model, arithmetic="integer")
    assert packed.info["arithmetic"] == "integer" and model.layers[0].config.arithmetic == "float"
    with computing_in("integer", {str(n): layer for n, layer in enumerate(model.layers)}):
        assert torch.equal(packed(graph, feat), output(model, graph, feat))
    assert not torch.equal(lowbit.freeze(model)(graph, feat), packed(graph, feat))


def test_grids_that_data_decide_are_refused():
    with pytest.raises(ValueError, match="known before the data: inputs_granularity must be 'tensor'"):
        lowbit.QuantConfig(2, arithmetic="integer", inputs_granularity="row")
    with pytest.raises(ValueError, match="messages_granularity must be 'tensor'.*got 'shift'"):
        lowbit.QuantConfig(2, arithmetic="integer", messages_granularity="shift")
    with pytest.raises(ValueError, match="arithmetic must be one of float, integer"):
        lowbit.QuantConfig(2, arithmetic="fixed")
    model = lowbit.calibrate(lowbit.quantize(MODELS["both"]()), *drawn(0))
    with pytest.raises(FreezeError, match="layers.0 cannot be frozen in integer arithmetic: .*inputs_granularity"):
        lowbit.freeze(model, arithmetic="integer")
    with pytest.raises(ValueError, match="arithmetic must be one of float, integer"):
        lowbit.freeze(model, arithmetic="fixed")


def test_layers_without_integer_arithmetic_are_refused():
    config = lowbit.QuantConfig(2, arithmetic="integer")
    for layer in (dgl.nn.GATConv(19, 4, 2), dgl.nn.SAGEConv(19, 4, "pool"), dgl.nn.GINConv(None, "max")):
        with pytest.raises(ValueError, match=f"{type(layer).__name__} has no integer arithmetic, which GraphConv"):
            lowbit.quantize(nn.ModuleList([layer]), config)
    with pytest.raises(ValueError, match="Linear has weights of 32 bits"):
        lowbit.quantize(nn.ModuleList([nn.Linear(3, 2)]), lowbit.QuantConfig(2, weights=32, arithmetic="integer"))
    for options in ({"quantizer": "bt"}, {"grid": "levels"}, {"protect": (0.0, 0.1)}):
        with pytest.raises(ValueError, match="integer arithmetic goes with quantizer='qlr'"):
            low_bit(MODELS["both"], 2, **options)


def test_edge_weights_and_batch_norms_are_refused():
    graph, feat = drawn(0)
    layer = lowbit.nn.GraphConv(19, 4, config=lowbit.QuantConfig(2, arithmetic="integer"), allow_zero_in_degree=True)
    with pytest.raises(DGLError, match="GraphConv has no integer arithmetic for edge weights"):
        layer(graph, feat, edge_weight=torch.ones(graph.num_edges()))
    normed = nn.Sequential(nn.Linear(19, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    model = lowbit.calibrate(lowbit.quantize(normed, lowbit.QuantConfig(4, arithmetic="integer")), feat).eval()
    with pytest.raises(FreezeError, match="columns are multiplied by float32 numbers, as BatchNorm does"):
        lowbit.freeze(model)
