"""Low-bit layers against their parents, dense algebra, and bad input."""

import copy
import inspect
import pickle

import dgl
import dgl.nn
import pytest
import torch
import torch.nn.functional as F
from dgl import DGLError
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.smoothness import dirichlet_energy
from tests.conftest import GRAPHS, features, homogeneous

CONVOLUTIONS = {
    "graphconv": lambda cls, **kw: cls(12, 5, norm="both", allow_zero_in_degree=True, activation=F.relu, **kw),
    "graphconv_wide": lambda cls, **kw: cls(5, 12, norm="right", allow_zero_in_degree=True, **kw),
    "graphconv_left": lambda cls, **kw: cls(12, 5, norm="left", bias=False, allow_zero_in_degree=True, **kw),
    "mean": lambda cls, **kw: cls(12, 5, "mean", **kw),
    "mean_wide": lambda cls, **kw: cls(5, 12, "mean", norm=F.normalize, **kw),
    "gcn": lambda cls, **kw: cls(12, 5, "gcn", **kw),
    "gcn_wide": lambda cls, **kw: cls(5, 12, "gcn", bias=False, **kw),
    "pool": lambda cls, **kw: cls(12, 5, "pool", activation=F.relu, **kw),
    "lstm": lambda cls, **kw: cls(6, 5, "lstm", **kw),
}
CLASSES = {name: "GraphConv" if name.startswith("graphconv") else "SAGEConv" for name in CONVOLUTIONS}


def build(name, low_bit=True, **options):
    torch.manual_seed(0)
    cls = getattr(lowbit.nn if low_bit else dgl.nn, CLASSES[name])
    return CONVOLUTIONS[name](cls, **options)


def width(layer):
    return layer._in_feats if hasattr(layer, "_in_feats") else layer._in_src_feats


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("config", [None, lowbit.QuantConfig(32)])
@pytest.mark.parametrize("weighted", [False, True])
def test_off_equals_the_parent_to_the_last_bit(name, config, weighted, any_graph):
    ours, theirs = build(name, config=config), build(name, low_bit=False)
    feat = features(any_graph, width(ours))
    edge_weight = torch.rand(any_graph.num_edges(), 1) if weighted else None
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert torch.equal(ours(any_graph, feat, edge_weight=edge_weight), theirs(any_graph, feat, edge_weight=edge_weight))


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_8_bits_come_close_to_the_parent(name, weighted, any_graph):
    ours, theirs = build(name, config=lowbit.QuantConfig(8)), build(name, low_bit=False)
    feat = features(any_graph, width(ours))
    edge_weight = torch.rand(any_graph.num_edges(), 1) if weighted else None
    got, expected = (layer(any_graph, feat, edge_weight=edge_weight) for layer in (ours, theirs))
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= 0.03 * expected.abs().max() + 1e-6


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_gradients_reach_every_parameter_and_frames_stay_empty(name, graph):
    layer = build(name, config=lowbit.QuantConfig(4))
    feat = features(graph, width(layer)).requires_grad_()
    layer(graph, feat).square().sum().backward()
    missing = [n for n, p in layer.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    off = [n for n, q in layer.quantizers.items() if q.format.is_float]
    assert missing == [f"quantizers.{n}.drift" for n in off] and feat.grad.abs().sum() > 0
    assert not graph.ndata and not graph.edata


@pytest.mark.parametrize("name", [n for n in CONVOLUTIONS if n != "lstm"])
def test_permuting_edges_changes_nothing(name, graph):
    layer = build(name, config=lowbit.QuantConfig(2))
    feat, order = features(graph, width(layer)), torch.randperm(graph.num_edges())
    source, target = graph.edges()
    other = dgl.graph((source[order], target[order]), num_nodes=graph.num_nodes())
    lowbit.calibrate(layer, graph, feat)
    layer.eval()
    assert torch.equal(layer(graph, feat), layer(other, feat))


def dense_adjacency(graph):
    source, target = graph.edges()
    size = graph.num_dst_nodes(), graph.num_src_nodes()
    return torch.zeros(size).index_put((target, source), torch.ones(len(source)), accumulate=True)


@pytest.mark.parametrize("bits", [2, 8])
def test_graphconv_against_dense_algebra(bits, graph):
    layer = lowbit.nn.GraphConv(12, 5, config=lowbit.QuantConfig(bits)).eval()
    feat = features(graph, 12)
    lowbit.calibrate(layer, graph, feat)
    adjacency = dense_adjacency(graph).double()
    q = {
        name: lambda x, quantizer=quantizer: quantizer(x.float()).double()
        for name, quantizer in layer.quantizers.items()
    }
    h = q["inputs"](feat) @ q["weights"](layer.weight) * graph.out_degrees()[:, None] ** -0.5
    expected = adjacency @ q["messages"](h) * graph.in_degrees()[:, None] ** -0.5 + layer.bias
    torch.testing.assert_close(layer(graph, feat).double(), expected, rtol=1e-4, atol=1e-5)


def test_smpconv_off_follows_its_formula(graph):
    layer = lowbit.nn.SMPConv(7, k=3, eta=0.2, lambda1=2.0)
    h = features(graph, 7)
    norm_out, norm_in = graph.out_degrees()[:, None] ** -0.5, graph.in_degrees()[:, None] ** -0.5
    f = h
    for _ in range(3):
        f = (1 - 3 * 0.2) * f + 2 * 0.2 * norm_in * (dense_adjacency(graph) @ (norm_out * f)) + 0.2 * h
    torch.testing.assert_close(layer(graph, h), f, rtol=1e-4, atol=1e-5)


def test_smpconv_correction_descends_on_the_energy_of_the_change(graph):
    """F_k = F̂ − 2ηλ_k L (F̂ − F_{k−1}), against a dense L; the correction shrinks tr(ΔᵀLΔ)."""
    graph = dgl.to_bidirected(dgl.to_simple(graph))
    layer = lowbit.nn.SMPConv(7, k=3, eta=0.2, lambda1=2.0, threshold=1.0, acts="gradient").eval()
    strengths = [0.5, 0.0, 1.5]
    for control, strength in zip(layer.controls, strengths):
        control.multiplier.multiplier.fill_(strength)
    norm = graph.in_degrees()[:, None] ** -0.5
    smooth = norm * dense_adjacency(graph) * norm.T
    laplacian = torch.eye(graph.num_nodes()) - smooth
    h = f = features(graph, 7)
    for strength in strengths:
        change = (1 - 3 * 0.2) * f + 2 * 0.2 * smooth @ f + 0.2 * h - f
        corrected = change - 2 * 0.2 * strength * laplacian @ change
        assert torch.trace(corrected.T @ laplacian @ corrected) <= torch.trace(change.T @ laplacian @ change)
        f = f + corrected
    torch.testing.assert_close(layer(graph, h), f, rtol=1e-4, atol=1e-5)


def test_smpconv_takes_the_step_its_multipliers_set(graph):
    """F_k = F_{k−1} + (F̂ − F_{k−1}) / (1 + λ_k)."""
    layer = lowbit.nn.SMPConv(7, k=2, threshold=1.0).eval()
    h = f = features(graph, 7)
    for control, strength in zip(layer.controls, (3.0, 0.25)):
        control.multiplier.multiplier.fill_(strength)
    for strength in (3.0, 0.25):
        norm_out, norm_in = graph.out_degrees()[:, None] ** -0.5, graph.in_degrees()[:, None] ** -0.5
        target = 0.9 * norm_in * (dense_adjacency(graph) @ (norm_out * f)) + 0.1 * h
        f = f + (target - f) / (1 + strength)
    torch.testing.assert_close(layer(graph, h), f, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("acts", ["step", "projection", "gradient"])
def test_smpconv_multipliers_pull_a_violated_bound_back(acts):
    graph = dgl.to_bidirected(dgl.to_simple(homogeneous()))
    h = features(graph, 7)

    def change(layer):
        one = lowbit.nn.SMPConv(7, k=1, threshold=layer.threshold, acts=acts)
        one.load_state_dict({k: v for k, v in layer.state_dict().items() if k.startswith("controls.0.")})
        return (dirichlet_energy(graph, one.eval()(graph, h) - h) / graph.num_edges()).item()

    free = change(lowbit.nn.SMPConv(7, k=1, threshold=1e9, acts=acts))
    layer = lowbit.nn.SMPConv(7, k=1, threshold=0.7 * free, multiplier_lr=0.05, acts=acts)
    for _ in range(300):
        layer.train()(graph, h)
    multiplier = layer.controls[0].multiplier.multiplier
    assert 0 < multiplier < 5
    assert change(layer) == pytest.approx(0.7 * free, rel=0.02)
    assert layer.controls[0].multiplier.violation.abs() < 0.02

    held = lowbit.nn.SMPConv(7, k=1, threshold=2 * free, multiplier_lr=0.05, acts=acts)
    for _ in range(50):
        held.train()(graph, h)
    assert held.controls[0].multiplier.multiplier == 0
    before = multiplier.clone()
    layer.eval()(graph, h)
    assert multiplier == before


def test_multiplier_of_a_step_solved_by_hand():
    """Two joined nodes, F = (1, −1): ÃF = −F, so F̂ = −0.8 F, Δ̂ = −1.8 F and tr(Δ̂ᵀLΔ̂) = 2 · 1.8² · 2 = 12.96.

    A bound of 0.72 on each of two edges is met by a step with (1 + λ)² = 12.96 / 1.44, λ = 2, to F = 1 − 1.8 / 3.
    """
    graph, feat = dgl.graph(([0, 1], [1, 0])), torch.tensor([[1.0], [-1.0]])
    layer = lowbit.nn.SMPConv(1, k=1, threshold=0.72)
    path = []
    for _ in range(200):
        layer(graph, feat)
        path.append(layer.controls[0].multiplier.multiplier.item())
    assert path[0] < path[1] < path[2] and path[-1] == pytest.approx(2, rel=1e-2)
    torch.testing.assert_close(layer.eval()(graph, feat), 0.4 * feat, rtol=1e-2, atol=0)
    layer.train().controls[0].threshold = 12.96  # slack now: the multiplier falls back to 0
    for _ in range(200):
        layer(graph, feat)
    assert layer.controls[0].multiplier.multiplier == 0
    torch.testing.assert_close(layer.eval()(graph, feat), -0.8 * feat)


@pytest.mark.slow
def test_tight_bounds_are_met_by_steps_and_not_by_the_gradient():
    graph, violation = dgl.to_bidirected(dgl.to_simple(homogeneous())), {}
    for acts in ("step", "gradient"):
        layer = lowbit.nn.SMPConv(7, k=1, threshold=1e-4, acts=acts)
        for _ in range(400):
            layer(graph, features(graph, 7))
        violation[acts] = layer.controls[0].multiplier.violation.item()
    assert violation["step"] < 0.05 and violation["gradient"] > 1


def test_smpconv_stays_close_over_depth_with_delta_messages(graph):
    h = features(graph, 7)
    exact = lowbit.nn.SMPConv(7, k=32)(graph, h)
    error = {}
    for messages in ("delta", "direct"):
        layer = lowbit.nn.SMPConv(7, k=32, messages=messages, config=lowbit.QuantConfig(2)).eval()
        lowbit.calibrate(layer, graph, h)
        error[messages] = ((layer(graph, h) - exact).norm() / exact.norm()).item()
    assert error["delta"] < 0.1 < error["direct"]


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_layers_copy_pickle_and_reload(name, graph):
    layer = build(name, config=lowbit.QuantConfig(2))
    feat = features(graph, width(layer))
    lowbit.calibrate(layer, graph, feat)
    layer.eval()
    fresh = build(name, config=lowbit.QuantConfig(2)).eval()
    fresh.load_state_dict(layer.state_dict())
    for other in (fresh, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(graph, feat), layer(graph, feat))
    layer.load_state_dict(build(name, low_bit=False).state_dict())  # a float checkpoint fits, ranges stay
    assert layer.quantizers["messages"].calibrated


def test_constructors_show_the_parents_signature():
    for ours, theirs in ((lowbit.nn.GraphConv, dgl.nn.GraphConv), (lowbit.nn.Linear, nn.Linear)):
        names = list(inspect.signature(ours).parameters)
        assert names == [*inspect.signature(theirs).parameters, "config"]


BAD_FEATURES = [
    (lambda g: torch.rand(40, 13), "width 12, got shape \\(40, 13\\)"),
    (lambda g: torch.rand(39, 12), "row for each of 40 nodes, got 39 rows"),
    (lambda g: torch.ones(40, 12).long(), "floating point, got torch.int64"),
    (lambda g: torch.full((40, 12), float("nan")), "NaN or infinity"),
    (lambda g: torch.full((40, 12), float("inf")), "NaN or infinity"),
    (lambda g: [[1.0]], "as a torch.Tensor, got list"),
]


@pytest.mark.parametrize(("make", "message"), BAD_FEATURES)
@pytest.mark.parametrize("name", ["graphconv", "mean", "gcn", "pool"])
def test_bad_features_are_refused(name, make, message, graph):
    layer = build(name, config=lowbit.QuantConfig(4))
    with pytest.raises(DGLError, match=message):
        layer(graph, make(graph))


def test_other_bad_input_is_refused(graph):
    conv = lowbit.nn.GraphConv(12, 5, config=lowbit.QuantConfig(4))
    feat = features(graph, 12)
    with pytest.raises(DGLError, match="0-in-degree nodes"):
        conv(GRAPHS["isolated"](), torch.rand(9, 12))
    with pytest.raises(DGLError, match="External weight is provided"):
        conv(graph, feat, weight=torch.rand(12, 5))
    with pytest.raises(DGLError, match="edge_weight of shape"):
        conv(graph, feat, edge_weight=torch.rand(3))
    with pytest.raises(DGLError, match="NaN or infinity in edge_weight"):
        conv(graph, feat, edge_weight=torch.full((graph.num_edges(),), float("nan")))
    with pytest.raises(DGLError, match="pair of features"):
        lowbit.nn.SAGEConv(5, 2, "mean", config=lowbit.QuantConfig(4))(GRAPHS["bipartite"](), torch.rand(13, 5))
    with pytest.raises(DGLError, match="homogeneous graph"):
        lowbit.nn.SMPConv(5)(GRAPHS["bipartite"](), torch.rand(13, 5))
    with pytest.raises(ValueError, match="config must be a QuantConfig"):
        lowbit.nn.Linear(3, 2, config={"bits": 2})
    for options, message in (
        ({"k": 0}, "whole number of steps"),
        ({"eta": 0}, "eta must be positive"),
        ({"messages": "sparse"}, "'delta' or 'direct'"),
        ({"threshold": -1}, "threshold must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            lowbit.nn.SMPConv(5, **options)
