"""freeze(model)(graph, feat) against model.eval()(graph, feat), layer by layer."""

import dgl
import dgl.nn
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.nn.ops import Quantized, TorchOps
from dgl_lowbit.nn.typed import TypedProducts
from numba_kernels import Graph, reference
from numba_kernels.spec import MOST_HALVINGS
from tests.conftest import GRAPHS, features

BITS = (2, 4, 8)


def flat_codes(values):
    for value in values:
        if isinstance(value, tuple) and not isinstance(value, Quantized):
            yield from value
        else:
            yield value


STATES = [
    {},
    {"states": 8},
    {"states": 2},
    {"states": 2, "messages_granularity": "shift", "states_granularity": "shift"},
]


def recorded_codes(model, monkeypatch, *args, **kwargs):
    """Output of ``model`` and the centred codes its quantisers gave, in order."""
    seen = []

    def quantize(quantizer, x, norm=None, original=TorchOps.quantize):
        seen.append(original(quantizer, x, norm))
        return seen[-1]

    def delta_quantize(quantizer, x, state, original=TorchOps.delta_quantize):
        codes, after = original(quantizer, x, state)
        seen.append(codes)
        return codes, after

    def aggregate_by_type(
        ops, graph, codes, weight_quantizer, weights, quantizer, *args, of=TorchOps.aggregate_by_type
    ):
        products = TypedProducts(codes, weight_quantizer, weights)  # the plan codes all of them, training those sent
        for number in range(products.types):
            quantize(quantizer, products.of(number, slice(None)))
        return of(ops, graph, codes, weight_quantizer, weights, quantizer, *args)

    with monkeypatch.context() as patch:
        patch.setattr(TorchOps, "aggregate_by_type", aggregate_by_type)
        patch.setattr(TorchOps, "quantize", staticmethod(quantize))
        patch.setattr(TorchOps, "delta_quantize", staticmethod(delta_quantize))
        with torch.no_grad():
            output = model(*args, **kwargs)
    return output, [codes.centered for codes in flat_codes(seen)]


def count_equal(ours, theirs):
    """How many codes of the twin are those that training sees, and of how many."""
    equal = total = 0
    for part, seen in zip(ours, theirs):
        centered = torch.from_numpy(part.codes.astype("float32") - part.zero)
        if part.unit is not None:  # in training a row's power of two goes with its codes
            centered *= 2.0**-MOST_HALVINGS * torch.from_numpy(part.powers()).unsqueeze(1)
        assert centered.shape == seen.shape
        equal, total = equal + (centered == seen).sum().item(), total + seen.numel()
    return equal, total


def assert_contract(model, monkeypatch, graph, feat, **kwargs):
    model.eval()
    lowbit.calibrate(model, graph, feat, **kwargs)
    packed = lowbit.freeze(model)
    expected, codes = recorded_codes(model, monkeypatch, graph, feat, **kwargs)
    got = packed(graph, feat, **kwargs)

    assert got.shape == expected.shape and got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)

    plan = packed.plan
    read = (entry["value"] for entry in plan.inputs if entry["kind"] != "constant")
    inputs = dict(zip(read, packed_inputs(graph, feat, **kwargs)))
    values = reference.run(plan, {entry["value"]: None for entry in plan.inputs} | inputs)
    plain = [values[op["out"]] for op in plan.ops if op["op"] in ("quantize", "delta")]
    plain = [part for value in plain for part in (value if isinstance(value, tuple) else (value,))]
    if hasattr(model, "smoothness"):  # states are coded in its hook
        plain = plain[: len(codes)]
    assert len(plain) == len(codes) > 0
    equal, total = count_equal(plain, codes)
    assert equal >= 0.999 * total
    if not kwargs:  # without float edge weights, even the floats are the same
        assert torch.equal(got, torch.from_numpy(values[plan.outputs[0]]))
    return packed


def packed_inputs(graph, feat, edge_weight=None):
    indptr, indices, edge_ids = (part.numpy() for part in graph.adj_tensors("csc"))
    edge_ids = edge_ids if len(edge_ids) else None
    yield Graph(indptr, indices, graph.num_src_nodes(), edge_ids, graph.is_block)
    yield tuple(part.numpy() for part in feat) if isinstance(feat, tuple) else feat.numpy()
    yield None if edge_weight is None else edge_weight.numpy()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("norm", ["none", "both", "right", "left"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("width", [(12, 5), (5, 12)])
def test_graphconv(bits, norm, weighted, width, any_graph, monkeypatch):
    torch.manual_seed(0)
    layer = lowbit.nn.GraphConv(
        *width, norm=norm, activation=F.relu, allow_zero_in_degree=True, config=lowbit.QuantConfig(bits)
    )
    nn.init.uniform_(layer.bias)
    kwargs = {"edge_weight": torch.rand(any_graph.num_edges())} if weighted else {}
    assert_contract(layer, monkeypatch, any_graph, features(any_graph, width[0]), **kwargs)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("make", [lowbit.nn.GraphConv, lambda *a, **k: lowbit.nn.SAGEConv(*a, "gcn", **k)])
@pytest.mark.parametrize("width", [(12, 5), (5, 12)])
def test_messages_with_a_power_of_two_a_node(bits, make, width, any_graph, monkeypatch):
    torch.manual_seed(0)
    layer = make(*width, config=lowbit.QuantConfig(bits, messages_granularity="shift"))
    layer._allow_zero_in_degree = True
    feat = features(any_graph, width[0])
    if not isinstance(feat, tuple):
        feat = feat * 2.0 ** torch.randint(-9, 1, (len(feat), 1))
    assert_contract(layer, monkeypatch, any_graph, feat)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("aggregator", ["mean", "gcn"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("width", [(12, 5), (5, 12)])
def test_sageconv(bits, aggregator, weighted, width, any_graph, monkeypatch):
    torch.manual_seed(0)
    layer = lowbit.nn.SAGEConv(*width, aggregator, config=lowbit.QuantConfig(bits))
    kwargs = {"edge_weight": torch.rand(any_graph.num_edges())} if weighted else {}
    assert_contract(layer, monkeypatch, any_graph, features(any_graph, width[0]), **kwargs)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("width", [(12, 5), (5, 12)])
def test_sageconv_with_different_widths_of_a_pair(bits, width, monkeypatch):
    graph = GRAPHS["bipartite"]()
    torch.manual_seed(0)
    layer = lowbit.nn.SAGEConv((width[0], 9), width[1], "mean", config=lowbit.QuantConfig(bits))
    feat = features(graph, width[0])[0], torch.randn(graph.num_dst_nodes(), 9)
    assert_contract(layer, monkeypatch, graph, feat)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("messages", ["delta", "direct"])
@pytest.mark.parametrize("acts", [None, "step", "gradient"])
@pytest.mark.parametrize(
    ("kind", "states"),
    [*((kind, {}) for kind in ("isolated", "one_node", "zero_edges")), *(("homogeneous", states) for states in STATES)],
)
def test_smpconv(bits, messages, acts, kind, states, monkeypatch):
    graph = GRAPHS[kind]()
    bounds = {} if acts is None else {"threshold": 1e-3, "acts": acts}
    layer = lowbit.nn.SMPConv(
        7, k=4, messages=messages, allow_zero_in_degree=True, config=lowbit.QuantConfig(bits, **states), **bounds
    )
    feat = features(graph, 7)
    for _ in range(3):
        layer(graph, feat)  # the multipliers of violated bounds leave 0
    assert_contract(layer, monkeypatch, graph, feat)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("messages", ["delta", "direct"])
@pytest.mark.parametrize("threshold", [None, 0.01])
@pytest.mark.parametrize("identity", [False, True])
@pytest.mark.parametrize("states", STATES)
def test_deepgraphconv(bits, messages, threshold, identity, states, monkeypatch):
    torch.manual_seed(0)
    graph = GRAPHS["homogeneous"]()
    layer = lowbit.nn.DeepGraphConv(
        9, 5, threshold, identity=identity, messages=messages, config=lowbit.QuantConfig(bits, **states)
    )
    nn.init.normal_(layer.bias)
    feat = features(graph, 9)
    for _ in range(3):
        layer(graph, feat)
    assert_contract(layer, monkeypatch, graph, feat)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("states", [32, 8])
@pytest.mark.parametrize("kind", ["homogeneous", "block", "isolated"])
def test_layers_under_a_smoothness_bound(bits, states, kind, monkeypatch):
    torch.manual_seed(0)
    graph, model = GRAPHS[kind](), nn.Sequential(dgl.nn.GraphConv(6, 6, allow_zero_in_degree=True, activation=F.relu))
    lowbit.SmoothnessRegularizer(model, 1e-3)
    layer = lowbit.quantize(model, lowbit.QuantConfig(bits, states=states))[0]
    feat = features(graph, 6)
    for _ in range(5):
        layer(graph, feat)
    assert kind == "isolated" or layer.smoothness.step_size < 0.9
    assert_contract(layer, monkeypatch, graph, feat)


@pytest.mark.parametrize(
    ("quantizer", "bits"), [("qlr", 1), ("qlr", 2), ("qlr", 3), ("bt", 1), ("bt", 2), ("bt*", 1), ("bt*", 2)]
)
@pytest.mark.parametrize("grid", ["auto", "affine"])
@pytest.mark.parametrize("options", [{}, {"inputs_granularity": "tensor", "messages_granularity": "channel"}])
def test_quantizers_and_granularities(quantizer, grid, options, bits, graph, monkeypatch):
    torch.manual_seed(0)
    config = lowbit.QuantConfig(bits, quantizer=quantizer, grid=grid, outputs=8, **options)
    layer = lowbit.nn.GraphConv(12, 5, config=config)
    assert_contract(layer, monkeypatch, graph, features(graph, 12))


class Net(nn.Module):
    """What users write: a loop over layers, dropout, a residual, an operator, blocks or a graph."""

    def __init__(self, layers, residual):
        super().__init__()
        self.layers, self.dropout, self.residual = nn.ModuleList(layers), nn.Dropout(0.5), residual
        self.head = nn.Linear(16, 3)

    def forward(self, graphs, x):
        h = x
        for i, (layer, g) in enumerate(zip(self.layers, graphs)):
            new = F.relu(layer(g, self.dropout(h)))
            h = 0.5 * (h + new) if self.residual and i else new
        return self.head(h)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("make", [lambda i, o: dgl.nn.GraphConv(i, o), lambda i, o: dgl.nn.SAGEConv(i, o, "mean")])
def test_whole_models(bits, make, graph, monkeypatch):
    torch.manual_seed(0)
    model = lowbit.quantize(Net([make(12, 16), make(16, 16), make(16, 16)], residual=True), lowbit.QuantConfig(bits))
    feat = features(graph, 12)
    graphs = [graph] * 3
    lowbit.calibrate(model, graphs, feat)
    model.eval()
    packed = lowbit.freeze(model)
    torch.testing.assert_close(packed(graphs, feat), model(graphs, feat).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", BITS)
def test_blocks(bits, graph):
    torch.manual_seed(0)
    layers = [dgl.nn.SAGEConv(12, 16, "mean"), dgl.nn.SAGEConv(16, 16, "gcn")]
    model = lowbit.quantize(Net(layers, residual=False), lowbit.QuantConfig(bits))
    nodes, _, blocks = dgl.dataloading.NeighborSampler([4, 4]).sample_blocks(graph, torch.tensor([3, 5, 8]))
    feat = features(graph, 12)[nodes]
    lowbit.calibrate(model, blocks, feat)
    model.eval()
    got = lowbit.freeze(model)(blocks, feat)
    assert got.shape == (3, 3)
    torch.testing.assert_close(got, model(blocks, feat).detach(), rtol=1e-5, atol=1e-6)


class ExplicitDestination(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = dgl.nn.SAGEConv(12, 4, "mean")

    def forward(self, block, x):
        return self.conv(block, (x, x[: block.num_dst_nodes()]))


def test_explicit_destination_rows():
    graph = GRAPHS["block"]()
    model = lowbit.quantize(ExplicitDestination(), lowbit.QuantConfig(4)).eval()
    feat = features(graph, 12)
    lowbit.calibrate(model, graph, feat)
    torch.testing.assert_close(lowbit.freeze(model)(graph, feat), model(graph, feat).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("states", [{}, {"states": 8}, {"states": 8, "messages": 8}])
def test_states_of_a_hub(states, monkeypatch):
    """Sums beyond 2^24 stay exact in training too, so that the codes of states agree, step after step."""
    generator = torch.Generator().manual_seed(0)
    source = torch.cat([torch.randint(300, (100_000,), generator=generator), torch.arange(300)])
    target = torch.cat([torch.zeros(100_000, dtype=torch.long), torch.arange(300)])
    graph = dgl.graph((source, target), num_nodes=300)
    layer = lowbit.nn.SMPConv(5, k=3, config=lowbit.QuantConfig(8, **states))
    assert_contract(layer, monkeypatch, graph, features(graph, 5))
