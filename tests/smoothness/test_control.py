"""Bounds on layers: what they measure, how their multipliers move, and that they leave no trace."""

import copy

import dgl
import dgl.nn
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.smoothness import SmoothnessControl, SmoothnessRegularizer, collapse_gauge, dirichlet_energy
from tests.conftest import features, homogeneous


class Stack(nn.Module):
    def __init__(self, layers=4, width=8, **options):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(
            dgl.nn.GraphConv(width, width, activation=torch.tanh, **options) for _ in range(layers)
        )

    def forward(self, graph, feat):
        for layer in self.layers:
            feat = layer(graph, feat)
        return feat


@pytest.fixture
def undirected():
    return dgl.to_bidirected(dgl.to_simple(homogeneous()))


@pytest.fixture
def feat(undirected):
    return features(undirected, 8)


def laplacian(graph):
    adjacency = torch.tensor(graph.adj_external(scipy_fmt="csr").todense())
    norm = adjacency.sum(1).clamp(min=1).rsqrt()
    return torch.eye(len(adjacency)) - norm[:, None] * adjacency * norm


def test_report_is_what_dense_algebra_says(undirected, feat):
    model, dense = Stack(2), laplacian(undirected)
    plain = copy.deepcopy(model)
    reg = SmoothnessRegularizer(model, threshold=0.01, acts="loss")
    rows = reg.measure(undirected, feat)
    states = [feat, plain.layers[0](undirected, feat), plain(undirected, feat)]
    for before, after, row in zip(states, states[1:], rows):
        change = after - before
        assert row["value"] == pytest.approx(torch.trace(change.T @ dense @ change).item(), rel=1e-4)
        assert row["energy"] == pytest.approx(torch.trace(before.T @ dense @ before).item(), rel=1e-4)
        assert row["bound"] == pytest.approx(0.01 * undirected.num_edges())
        assert row["violation"] == pytest.approx(row["value"] / row["bound"] - 1, rel=1e-4)
        assert row["gauge"] == pytest.approx(collapse_gauge(undirected, after).item(), rel=1e-4)


def test_relative_bounds_are_shares_of_the_energy(undirected, feat):
    reg = SmoothnessRegularizer(Stack(), threshold=0.25, relative=True)
    for row in reg.measure(undirected, feat):
        assert row["bound"] == pytest.approx(0.25 * row["energy"], rel=1e-5)


def test_a_step_is_between_what_came_in_and_what_was_computed(undirected, feat):
    model = Stack(1).eval()
    target = model(undirected, feat)
    SmoothnessRegularizer(model, threshold=1.0)
    model.layers[0].smoothness.multiplier.multiplier.fill_(3.0)
    torch.testing.assert_close(model(undirected, feat), 0.75 * feat + 0.25 * target)


def test_arguments_by_name_are_understood(undirected, feat):
    model = Stack(1).eval()
    SmoothnessRegularizer(model, threshold=1.0)
    layer = model.layers[0]
    layer.smoothness.multiplier.multiplier.fill_(3.0)
    expected = layer(undirected, feat)
    assert torch.equal(layer(graph=undirected, feat=feat), expected)
    assert torch.equal(layer(feat=feat, graph=undirected), expected)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("acts", ["step", "projection"])
@pytest.mark.parametrize("threshold", [1e-1, *(pytest.param(each, marks=pytest.mark.slow) for each in (1e-2, 1e-3))])
def test_bounds_are_met_in_the_forward(acts, relative, threshold, undirected, feat):
    model = Stack()
    reg = SmoothnessRegularizer(model, threshold, relative, acts)
    free = SmoothnessRegularizer(copy.deepcopy(Stack()), threshold, relative, "loss").measure(undirected, feat)
    assert max(row["violation"] for row in free) > 0.5
    for _ in range(1 if acts == "projection" else 150):
        model(undirected, feat)
    violations = [row["violation"] for row in reg.report()]
    assert max(violations) < (1e-4 if acts == "projection" else 0.05)
    before = reg.report()
    model.eval()(undirected, feat)
    assert reg.report() == before  # at inference nothing moves


def test_settling_sets_the_least_multipliers(undirected, feat):
    model = Stack()
    reg = SmoothnessRegularizer(model, 1e-2)
    rows = reg.settle(undirected, feat)
    assert model.training
    again = reg.measure(undirected, feat)
    assert [row["multiplier"] for row in again] == [row["multiplier"] for row in rows]
    for row in again:
        assert row["violation"] == pytest.approx(0, abs=1e-3) or row["multiplier"] == 0
    with pytest.raises(ValueError, match="act in the loss"):
        SmoothnessRegularizer(Stack(), 1e-2, acts="loss").settle(undirected, feat)


def trained_under_a_loss_term(undirected, feat, lr, damping):
    model = Stack(2)
    reg = SmoothnessRegularizer(model, 0.5, acts="loss", lr=lr, damping=damping)
    target = torch.randn(undirected.num_nodes(), 8, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(300):
        loss = F.mse_loss(model(undirected, feat), target) + reg.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        reg.step()
    return reg.report()


@pytest.mark.slow
@pytest.mark.parametrize("damping", [0.0, 1.0])
def test_a_term_in_the_loss_drives_the_bound_inside(damping, undirected, feat):
    free = trained_under_a_loss_term(undirected, feat, 1e-9, 0.0)
    assert free[0]["violation"] > 0.5
    first, second = trained_under_a_loss_term(undirected, feat, 0.05, damping)
    assert first["violation"] == pytest.approx(0, abs=0.05) and first["multiplier"] > 0.1
    assert second["violation"] < 0 and second["multiplier"] == 0


def test_loss_is_the_lagrangian(undirected, feat):
    model = Stack(1)
    reg = SmoothnessRegularizer(model, 0.02, acts="loss", damping=3.0, initial=2.0)
    model(undirected, feat)
    row = reg.report()[0]
    assert reg.loss().item() == pytest.approx(2 * row["violation"] + 1.5 * min(row["violation"], 10) ** 2, rel=1e-4)
    reg.loss().backward()
    assert model.layers[0].weight.grad.abs().sum() > 0
    reg.step()
    assert reg.loss() == 0.0  # until the next forward


def test_detaching_leaves_the_model_as_found(undirected, feat):
    model = Stack()
    keys, expected = list(model.state_dict()), model(undirected, feat)
    reg = SmoothnessRegularizer(model, 1e-3)
    model(undirected, feat)
    assert not torch.equal(model(undirected, feat), expected) and len(model.state_dict()) > len(keys)
    with pytest.raises(ValueError, match="has a bound already"):
        SmoothnessRegularizer(model, 1e-3)
    reg.detach()
    assert list(model.state_dict()) == keys and torch.equal(model(undirected, feat), expected)
    assert not any(layer._forward_hooks for layer in model.layers)
    assert SmoothnessRegularizer.attached(model) is None


def test_copies_checkpoints_and_low_bit_models_carry_the_bounds(undirected, feat):
    model = Stack()
    SmoothnessRegularizer(model, 1e-3)
    for _ in range(20):
        model(undirected, feat)
    twin = Stack()
    SmoothnessRegularizer(twin, 1e-3)
    twin.load_state_dict(model.state_dict())
    student = lowbit.quantize(model, lowbit.QuantConfig(8, states=8))
    for other in (twin, copy.deepcopy(model), student):
        rows = SmoothnessRegularizer.attached(other).report()
        assert rows == SmoothnessRegularizer.attached(model).report()
    before = SmoothnessRegularizer.attached(model).report()
    twin(undirected, feat)
    assert SmoothnessRegularizer.attached(model).report() == before
    model.load_state_dict(Stack().state_dict())  # one without bounds fits


def test_blocks_are_bounded_on_the_edges_they_compute_both_ends_of(undirected):
    feat, model = features(undirected, 8), Stack(1, allow_zero_in_degree=True)
    reg = SmoothnessRegularizer(model, 0.01, acts="loss")
    inner = dgl.node_subgraph(undirected, torch.arange(12))
    block = dgl.to_block(dgl.in_subgraph(undirected, torch.arange(12)), torch.arange(12))
    source = feat[block.srcdata[dgl.NID]]
    after = model.layers[0](block, source)
    expected = dirichlet_energy(inner, after.detach() - source[:12])
    assert reg.report()[0]["value"] == pytest.approx(expected.item(), rel=1e-4)
    assert reg.report()[0]["bound"] == pytest.approx(0.01 * inner.num_edges())


def hetero(seed=0):
    generator = torch.Generator().manual_seed(seed)
    user, item = (torch.randint(count, (25,), generator=generator) for count in (10, 7))
    edges = {
        ("user", "follows", "user"): tuple(torch.randint(10, (2, 30), generator=generator)),
        ("user", "buys", "item"): (user, item),
        ("item", "bought-by", "user"): (item, user),
    }
    return dgl.heterograph(edges, num_nodes_dict={"user": 10, "item": 7})


@pytest.mark.slow
@pytest.mark.parametrize("acts", ["step", "projection", "loss"])
def test_heterogeneous_layers_have_a_bound_for_each_edge_type(acts):
    graph, model = hetero(), nn.ModuleList()
    torch.manual_seed(0)
    layer = dgl.nn.HeteroGraphConv({etype: dgl.nn.GraphConv(6, 6) for etype in graph.etypes})
    model.append(layer)
    feats = {ntype: torch.randn(graph.num_nodes(ntype), 6) for ntype in graph.ntypes}
    plain = layer(graph, feats)
    reg = SmoothnessRegularizer(model, 1e-3, acts=acts)
    assert list(reg.controls) == ["0"]
    for _ in range(150):
        out = layer(graph, feats)
    rows = {row["relation"]: row for row in reg.report()}
    assert set(rows) == set(graph.etypes)
    if acts == "loss":
        change = {ntype: plain[ntype] - feats[ntype] for ntype in feats}
        for source, etype, target in graph.canonical_etypes:
            expected = dirichlet_energy(graph[etype], (change[source], change[target])).item()
            assert rows[etype]["value"] == pytest.approx(expected, rel=1e-4)
        reg.loss().backward()
    else:
        assert max(row["violation"] for row in rows.values()) < (1e-4 if acts == "projection" else 0.05)
        step = rows["follows"]["step"]
        for ntype in feats:
            torch.testing.assert_close(
                out[ntype] - feats[ntype], step * (plain[ntype] - feats[ntype]), rtol=0.1, atol=1e-3
            )
    reg.detach()
    torch.testing.assert_close(layer(graph, feats), plain)


def test_edge_types_a_batch_lacks_keep_their_multipliers():
    graph, layer = hetero(), dgl.nn.HeteroGraphConv({etype: dgl.nn.GraphConv(6, 6) for etype in hetero().etypes})
    reg = SmoothnessRegularizer(nn.ModuleList([layer]), 1e-3)
    feats = {ntype: torch.randn(graph.num_nodes(ntype), 6) for ntype in graph.ntypes}
    for _ in range(20):
        layer(graph, feats)
    before = {row["relation"]: row["multiplier"] for row in reg.report()}
    without = dgl.remove_edges(graph, graph.edges("eid", etype="buys"), etype="buys")
    for _ in range(20):
        layer(without, feats)
    after = {row["relation"]: row["multiplier"] for row in reg.report()}
    assert after["buys"] == pytest.approx(before["buys"], rel=1e-3) and after["follows"] != before["follows"]


def test_gauge_of_collapsed_and_of_other_features(undirected):
    roots = undirected.in_degrees().float().sqrt().unsqueeze(1)
    flat = torch.cat([torch.ones_like(roots), roots, 2 - 3 * roots], 1)
    assert collapse_gauge(undirected, flat) < 1e-5
    random = features(undirected, 16)
    basis = torch.linalg.qr(flat[:, :2].double()).Q
    rest = random.double() - basis @ (basis.T @ random.double())
    expected = (rest.square().sum() / random.double().square().sum()).item()
    assert collapse_gauge(undirected, random).item() == pytest.approx(expected, rel=1e-5)
    assert collapse_gauge(undirected, torch.zeros(40, 3)) == 0
    assert collapse_gauge(dgl.graph(([0, 1], [1, 0])), torch.tensor([[1.0], [-1.0]])) == 1


def test_energy_without_a_gradient_is_the_same(undirected, feat):
    with_grad = dirichlet_energy(undirected, feat.clone().requires_grad_())
    torch.testing.assert_close(dirichlet_energy(undirected, feat), with_grad.detach(), rtol=1e-5, atol=1e-5)


def test_bad_settings_are_refused():
    for options, message in (
        ({"threshold": 0}, "threshold must be positive"),
        ({"threshold": 1, "acts": "gradient"}, "acts must be"),
        ({"threshold": 1, "layers": ["nowhere"]}, "no layer nowhere"),
        ({"threshold": 1, "lr": 0}, "lr must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            SmoothnessRegularizer(Stack(), **options)
    with pytest.raises(ValueError, match="is low-bit already; bound the float model"):
        SmoothnessRegularizer(lowbit.quantize(Stack()), 1.0)
    with pytest.raises(ValueError, match="holds no layer of dgl.nn"):
        SmoothnessRegularizer(nn.Linear(2, 2), 1.0)
    with pytest.raises(ValueError, match="acts must be one of"):
        SmoothnessControl(1.0, acts="somehow")
    graphless = nn.ModuleList([dgl.nn.GraphConv(8, 8), nn.Linear(8, 8)])
    with pytest.raises(ValueError, match="1 takes no graph with its features; bound layers of dgl.nn"):
        SmoothnessRegularizer(graphless, 1.0, layers=["0", "1"])


class Heads(nn.Module):
    """Attention of some heads that keeps the width, whose output may have its attention beside it."""

    def __init__(self, heads, get_attention):
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.get_attention = dgl.nn.GATConv(8, 8 // heads, heads), get_attention

    def forward(self, graph, feat):
        h = self.conv(graph, feat, get_attention=self.get_attention)
        return h[0].flatten(1) if self.get_attention else h.flatten(1)


@pytest.mark.parametrize(("heads", "get_attention"), [(1, True), (2, False)])
def test_heads_are_bounded_side_by_side_and_frozen_so(heads, get_attention, undirected, feat):
    graph, model = dgl.add_self_loop(undirected), Heads(heads, get_attention)
    whole = model(graph, feat).detach()
    regularizer = SmoothnessRegularizer(model, 1e-3, acts="projection", layers=["conv"])
    for config in (lowbit.QuantConfig(8), lowbit.QuantConfig(8, states=8)):
        low_bit = lowbit.calibrate(lowbit.quantize(model, config), graph, feat)
        bounds = SmoothnessRegularizer.attached(low_bit)
        (row,) = bounds.settle(graph, feat)
        assert row["multiplier"] > 0 and row["violation"] == pytest.approx(0, abs=1e-3)
        expected = low_bit.eval()(graph, feat)
        torch.testing.assert_close(lowbit.freeze(low_bit, graph, feat)(graph, feat), expected, rtol=1e-4, atol=1e-4)
    model.train()(graph, feat)
    step = regularizer.report()[0]["step"]
    torch.testing.assert_close(model.eval()(graph, feat), (1 - step) * feat + step * whole)
