"""Bits under a budget: what costs are, that budgets are kept, and that searches find what there is to find."""

import itertools

import dgl
import dgl.nn
import numpy as np
import pytest
import torch
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.allocation import cost, relaxed
from dgl_lowbit.allocation.allocate import METHODS
from dgl_lowbit.allocation.search import excess, within
from dgl_lowbit.allocation.trials import Trials
from dgl_lowbit.allocation.widths import with_bits
from numba_kernels.layout import row_bytes

WIDTHS = (1, 2, 4, 8)


class GCN(nn.Module):
    def __init__(self, inputs=24, hidden=20, classes=3):
        super().__init__()
        self.conv1 = dgl.nn.GraphConv(inputs, hidden)
        self.conv2 = dgl.nn.GraphConv(hidden, classes)

    def forward(self, graph, feat):
        return self.conv2(graph, self.conv1(graph, feat).relu())


class Own(nn.Module):
    """Message passing written out, and a readout of nothing else."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(24, 3)

    def forward(self, graph, feat):
        with graph.local_scope():
            graph.ndata["h"] = self.linear(feat)
            graph.update_all(dgl.function.copy_u("h", "m"), dgl.function.sum("m", "h"))
            return graph.ndata["h"]


class Typed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = dgl.nn.HeteroGraphConv(
            {"follows": dgl.nn.GraphConv(24, 3), "likes": dgl.nn.SAGEConv(24, 3, "mean")}
        )

    def forward(self, graph, feat):
        return self.conv(graph, feat)


class GAT(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = dgl.nn.GATConv(24, 3, num_heads=2)

    def forward(self, graph, feat):
        return self.conv(graph, feat).mean(1)


def case(make, seed=0):
    """A model whose biases are no zeros, a graph and features."""
    torch.manual_seed(seed)
    model = make()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter)
    if make is Typed:
        edges = {("a", "follows", "a"): torch.randint(30, (2, 90)), ("b", "likes", "a"): torch.randint(30, (2, 70))}
        graph = dgl.heterograph({kind: tuple(ends) for kind, ends in edges.items()}, {"a": 30, "b": 30})
        graph = dgl.add_self_loop(graph, etype="follows")
        return model, graph, {"a": torch.randn(30, 24), "b": torch.randn(30, 24)}
    graph = dgl.add_self_loop(dgl.graph(tuple(torch.randint(40, (2, 150))), num_nodes=40))
    return model, graph, torch.randn(40, 24)


def trials(model, *args, config=None, widths=WIDTHS, nodes=None):
    return Trials(model, config or lowbit.QuantConfig(), widths, nodes, args, {})


@pytest.mark.slow
@pytest.mark.parametrize("make", [GCN, GAT, Own])
@pytest.mark.parametrize("bits", [8, 3, 1])
def test_bytes_of_the_model_are_those_of_its_file(make, bits):
    model, *call = case(make)
    config = lowbit.QuantConfig(bits, overrides={"conv1.weights": 4} if make is GCN else {})
    packed = lowbit.freeze(lowbit.calibrate(lowbit.quantize(model, config, *call), *call), *call)
    arrays = sum(array.nbytes for array in packed.plan.arrays.values())
    assert cost(model, config, *call)["model"] == arrays < len(packed.to_bytes())


def test_states_and_edges_are_rows_as_kernels_pad_them():
    model, graph, feat = case(lambda: GCN(300, 200, 3))
    config = lowbit.QuantConfig(8, overrides={"conv1.messages": 2})
    feat = torch.randn(40, 300)
    first, second = row_bytes(200, 2), row_bytes(3, 8)
    assert (first, second) == (64, 16)
    measured = cost(model, config, graph, feat)
    assert measured["edges"] == graph.num_edges() * (first + second)
    assert measured["states"] == 40 * (row_bytes(300, 8) + first + row_bytes(200, 8) + second)
    assert measured["bits"] == (5 * 8 + 2) / 6


def test_edges_of_each_type_and_of_calls_are_counted():
    model, graph, feat = case(Typed)
    assert cost(model, lowbit.QuantConfig(8), graph, feat)["edges"] == 16 * graph.num_edges()
    model, graph, feat = case(Own)
    assert cost(model, lowbit.QuantConfig(8), graph, feat)["edges"] == 16 * graph.num_edges()


BUDGETS = {"model": 600, "states": 3500, "edges": 7000, "bits": 6}


@pytest.mark.parametrize(
    "measure", ["model", *(pytest.param(name, marks=pytest.mark.slow) for name in BUDGETS if name != "model")]
)
def test_a_budget_is_kept_by_the_config_that_comes_of_it(measure):
    model, *call = case(GCN)
    config = lowbit.allocate(model, *call, budget={measure: BUDGETS[measure]}, progress=False)
    assert cost(model, config, *call)[measure] <= BUDGETS[measure] < cost(model, lowbit.QuantConfig(), *call)[measure]


def test_several_budgets_are_kept_at_once():
    model, *call = case(GCN)
    budget = {"model": 600, "edges": 7000}
    measured = cost(model, lowbit.allocate(model, *call, budget=budget, progress=False), *call)
    assert all(measured[name] <= most for name, most in budget.items())


def deep():
    return lowbit.nn.DeepGraphConv(24, 3)


@pytest.mark.parametrize("make", [GCN, deep], ids=["GCN", "DeepGraphConv"])
def test_what_a_trial_measures_is_what_the_config_gives(make):
    model, *call = case(make)
    tried = trials(model.eval(), *call)
    expected = model(*call).double().log_softmax(-1)
    count = len(tried.names)
    for bits in [(8,) * count, *((2, 1, 4, 8, 2, 1)[:count], (2, 8, 4, 2, 2, 1)[:count], (2, 1, 4, 8, 2, 1)[:count])]:
        low_bit = lowbit.quantize(model, with_bits(lowbit.QuantConfig(), dict(zip(tried.names, bits))), *call)
        got = lowbit.calibrate(low_bit, *call).eval()(*call).double().log_softmax(-1)
        loss = (expected.exp() * (expected - got)).sum(-1).mean().item()
        assert tried.loss(bits) == pytest.approx(loss, rel=1e-9)


@pytest.mark.slow
def test_exhaustive_finds_the_least_loss_and_others_come_near():
    _, *call = case(GCN)
    model = dgl.nn.GraphConv(24, 3)
    tried = trials(model, *call)
    for most in (2, 5):
        budget = {"bits": most}
        best = METHODS["exhaustive"](tried, budget)
        everything = [bits for bits in itertools.product(WIDTHS, repeat=3) if sum(bits) <= 3 * most]
        assert sorted(within(tried, budget)) == sorted(everything)
        assert tried.loss(best) == min(map(tried.loss, everything))
        for name in ("greedy", "tree"):
            found = METHODS[name](trials(model, *call), budget)
            assert excess(tried, found, budget) == 0 and tried.loss(found) <= 1.05 * tried.loss(best), name
        found = METHODS["relaxed"](trials(model, *call), budget)
        assert excess(tried, found, budget) == 0 and tried.loss(found) <= 1.5 * tried.loss(best)


@pytest.mark.parametrize(
    "make", [GCN, *(pytest.param(make, marks=pytest.mark.slow) for make in (deep, GAT, Own, Typed))]
)
def test_a_mixture_of_one_width_is_that_width(make):
    model, graph, feat = case(make)
    if make is GCN:  # whose zeros are left out
        feat = feat.relu() * (torch.rand_like(feat) < 0.4)
    tried = trials(model.eval(), graph, feat)
    for width in WIDTHS:
        tried.loss((width,) * len(tried.names))
    for bits in [(8,) * len(tried.names), (2, 1, 4, 8, 2, 1, *(4,) * len(tried.names))[: len(tried.names)]]:
        expected, shares = tried.loss(bits), torch.tensor([[float(width == own) for width in WIDTHS] for own in bits])
        assert tried.loss_of_mixtures(shares).item() == pytest.approx(expected, rel=0.02)  # a code may fall otherwise


def test_shares_of_wide_codes_lower_the_loss():
    tried = trials(*case(GCN))
    for width in WIDTHS:
        tried.loss((width,) * 6)
    shares = torch.full((6, 4), 0.25, requires_grad=True)
    (gradient,) = torch.autograd.grad(tried.loss_of_mixtures(shares), shares)
    assert gradient[:, -1].sum() < gradient[:, 0].sum()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["greedy", "relaxed"])
@pytest.mark.parametrize("make", [GAT, Own, Typed])
def test_any_message_passing_is_allocated_and_frozen(make, method, monkeypatch):
    monkeypatch.setattr(relaxed, "_STEPS", 10)
    model, *call = case(make)
    least = cost(model, lowbit.QuantConfig(1), *call)["states"]
    most = cost(model, lowbit.QuantConfig(8), *call)["states"]
    config = lowbit.allocate(model, *call, budget={"states": (least + most) / 2}, method=method, progress=False)
    assert {bits for _, bits in config.overrides} <= set(WIDTHS) and config.overrides
    low_bit = lowbit.calibrate(lowbit.quantize(model, config, *call), *call).eval()
    packed, trained = lowbit.freeze(low_bit, *call)(*call), low_bit(*call)
    for key in trained if make is Typed else [slice(None)]:
        torch.testing.assert_close(packed[key], trained[key], rtol=1e-4, atol=1e-4)


def test_bits_that_the_config_gives_are_kept():
    model, *call = case(GCN)
    config = lowbit.QuantConfig(inputs=8, overrides={"conv2.weights": 4})
    found = lowbit.allocate(model, *call, config=config, budget={"bits": 2}, progress=False)
    named = dict(found.overrides)
    assert named.pop("conv2.weights") == 4 and set(named) == {"conv1.weights", "conv1.messages", "conv2.messages"}
    assert found.inputs == 8 and sum(named.values()) <= 3 * 2
    again = lowbit.QuantConfig(**found.to_dict())
    assert again == found


def test_bits_are_kept_where_there_is_one_width():
    model, *call = case(GAT)
    config = lowbit.QuantConfig(overrides={"conv.weights": 4})
    tried = trials(model, *call, config=config, widths=(2,))
    assert tried.costs.kept == {"conv.weights": 4, "conv.scores": 8, "conv.attention": 8}
    assert set(tried.names) == {"conv.inputs", "conv.messages"}


def test_what_a_layer_keeps_is_propagated_anew_at_other_bits():
    def kept(cached):
        model, *call = case(lambda: dgl.nn.SGConv(24, 3, k=2, cached=cached))
        tried = trials(model, *call, widths=(2, 8))
        assert model._cached_h is None
        # Few at 2 bits first: the ranges that the others need are known by then, and nothing is observed.
        return [tried.loss(bits) for bits in sorted(itertools.product((8, 2), repeat=3), key=sum, reverse=True)]

    assert kept(True) == kept(False)


@pytest.mark.slow
def test_the_model_and_the_callers_frames_stay_as_they_were():
    model, graph, feat = case(Own)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = torch.random.get_rng_state()
    for method in ("greedy", "relaxed"):
        options = {"budget": {"bits": 5}, "method": method, "progress": False}
        first, second = (lowbit.allocate(model, graph, feat, **options) for _ in range(2))
        assert first == second
    assert model.training and type(model) is Own and not graph.ndata
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(drawn, torch.random.get_rng_state())


def test_nodes_that_are_compared():
    model, graph, feat = case(GCN)
    mask = torch.arange(40) < 7
    bits = (2,) * 6
    chosen, every = trials(model, graph, feat, nodes=mask).loss(bits), trials(model, graph, feat).loss(bits)
    graph.ndata["val_mask"] = mask
    assert trials(model, graph, feat).loss(bits) == chosen != every
    assert trials(model, graph, feat, nodes=torch.arange(7)).loss(bits) == chosen


def test_zeros_of_features_are_left_out_where_the_model_takes_it():
    for make in (GCN, Own):
        model, graph, feat = case(make)
        few = feat * (torch.rand_like(feat) < 0.1)
        tried = trials(model, graph, few)
        low_bit = lowbit.calibrate(lowbit.quantize(model, lowbit.QuantConfig(2), graph, few), graph, few)
        expected, got = (m.eval()(graph, few).double().log_softmax(-1) for m in (model, low_bit))
        loss = (expected.exp() * (expected - got)).sum(-1).mean().item()
        assert tried.loss((2,) * len(tried.names)) == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": {"bits": 0.9}}, "least possible, at 1 bits, are mean bits: 1 for 0.9"),
        ({"budget": {"model": 100}}, r"least possible.*bytes of the packed model's arrays: [\d,]+ for 100"),
        ({"budget": 1000}, "budget maps measures, 'model', 'states', 'edges', 'bits'"),
        ({"budget": {}}, "budget maps measures"),
        ({"budget": {"speed": 2}}, "budget maps measures"),
        ({"budget": {"bits": -1}}, "a budget is a positive number"),
        ({"budget": {"bits": np.int64(0)}}, "a budget is a positive number"),
        ({"budget": {"bits": float("inf")}}, "a budget is a positive number"),
        ({"budget": {"model": np.int64(100)}}, "least possible"),
        ({"budget": {"bits": "2"}}, "a budget is a positive number"),
        ({"budget": {"bits": 2}, "method": "random"}, "method must be one of greedy, exhaustive, tree, relaxed"),
        ({"budget": {"bits": 2}, "widths": (2, 5)}, "widths are among"),
        ({"budget": {"bits": 2}, "widths": (2, 2)}, "widths are among"),
        ({"budget": {"bits": 2}, "widths": (1, 2, 3, 4, 8), "method": "exhaustive"}, "15,625 assignments"),
        ({"budget": {"bits": 2}, "config": lowbit.QuantConfig(2, ends=4)}, "gives every component bits of its own"),
        ({"budget": {"bits": 2}, "config": 2}, "config must be a QuantConfig"),
    ],
)
def test_what_cannot_be_is_said(options, message):
    model, *call = case(GCN)
    with pytest.raises(ValueError, match=message):
        lowbit.allocate(model, *call, progress=False, **options)


def test_an_output_without_classes_is_refused():
    _, *call = case(GCN)
    with pytest.raises(ValueError, match="the model's output has one column"):
        lowbit.allocate(dgl.nn.GraphConv(24, 1), *call, budget={"bits": 2}, progress=False)


def test_states_of_their_own_bits_are_refused():
    _, *call = case(GCN)
    model = dgl.nn.TAGConv(24, 3)
    with pytest.raises(ValueError, match="choose bits with QuantConfig\\(states=32\\)"):
        lowbit.allocate(model, *call, config=lowbit.QuantConfig(states=4), budget={"bits": 2}, progress=False)
