"""Bits of groups of nodes: the budget is kept, and what it buys is near the best."""

import itertools

import dgl
import dgl.nn
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.allocation import LearnedBits, allocate_groups, hidden_bytes
from dgl_lowbit.allocation.groups import row_bytes
from dgl_lowbit.data import load_graph
from dgl_lowbit.quant import GroupQuantizer
from dgl_lowbit.quant.learned import WIDTHS

GROUPS = lowbit.QuantConfig(2, node_groups=3)


class GCN(nn.Module):
    def __init__(self, width=40, classes=4):
        super().__init__()
        self.layers = nn.ModuleList([dgl.nn.GraphConv(70, width), dgl.nn.GraphConv(width, classes)])

    def forward(self, graph, feat):
        return self.layers[1](graph, F.relu(self.layers[0](graph, feat)))


class Skipping(nn.Module):
    """The layer that is called first stands last, and a third reads the features as well."""

    def __init__(self):
        super().__init__()
        self.last, self.skip, self.first = dgl.nn.GraphConv(40, 4), nn.Linear(70, 4), dgl.nn.GraphConv(70, 40)

    def forward(self, graph, feat):
        return self.last(graph, F.relu(self.first(graph, feat))) + self.skip(feat)


@pytest.fixture
def case():
    torch.manual_seed(0)
    graph = dgl.add_self_loop(dgl.rand_graph(90, 400))
    return GCN(), graph, torch.rand(90, 70) * (3 * torch.rand(90, 1)).exp()


def hidden(model):
    return model.layers[1].quantizers["inputs"]


def test_what_the_model_is_given_is_no_hidden_state(case):
    _, *call = case
    low_bit = lowbit.calibrate(lowbit.quantize(Skipping(), GROUPS), *call)
    assert hidden_bytes(low_bit, *call) == 90 * 10
    with pytest.raises(ValueError, match="define layers in the order in which they are called"):
        allocate_groups(low_bit, *call, budget=90 * 12)


def test_features_may_come_in_a_store(case):
    model, graph, feat = case
    store = lowbit.compress(feat, bits=8)
    groups = lowbit.calibrate(lowbit.quantize(model, GROUPS), graph, store)
    assert hidden_bytes(groups, graph, store) == hidden_bytes(groups, graph, store[:])
    budget = 1.2 * hidden_bytes(groups, graph, store)
    allocate_groups(groups, graph, store, budget=budget)
    assert hidden_bytes(groups, graph, store) <= budget
    config = lowbit.QuantConfig(4)
    assert lowbit.allocation.cost(model, config, graph, store) == lowbit.allocation.cost(model, config, graph, feat)
    assert LearnedBits(model, graph, store, budget={"bits": 2}).widths()


def test_hidden_bytes_are_rows_at_the_bits_of_their_groups(case):
    model, *call = case
    plain = lowbit.calibrate(lowbit.quantize(model, lowbit.QuantConfig(2)), *call)
    assert hidden_bytes(plain, *call) == 90 * 10
    low_bit = lowbit.calibrate(lowbit.quantize(model, GROUPS), *call)
    assert hidden_bytes(low_bit, *call) == 90 * (10 + 1)
    hidden(low_bit).bits.copy_(torch.tensor([1, 3, 8]))
    met = []
    hidden(low_bit).watch = lambda quantizer, x, params: met.append(params.group)
    low_bit.eval()(*call)
    hidden(low_bit).watch = None
    counts = torch.bincount(met[0], minlength=3).tolist()
    assert hidden_bytes(low_bit, *call) == sum(n * (size + 1) for n, size in zip(counts, (5, 20, 40)))
    assert [row_bytes(9, bits) for bits in (1, 2, 3, 4, 8)] == [2, 3, 5, 5, 9]


@pytest.mark.parametrize("share", [0.8, pytest.param(5, marks=pytest.mark.slow)])
def test_the_budget_is_kept_and_buys_what_is_near_the_best(case, share):
    """Of all bits of three groups that keep it, by the errors of groups at each width."""
    model, *call = case
    budget = share * 900
    low_bit = lowbit.calibrate(lowbit.quantize(model, GROUPS), *call)
    quantizer, met = hidden(low_bit), []
    quantizer.watch = lambda quantizer, x, params: met.append((x, params.group))
    low_bit.eval()(*call)
    quantizer.watch = None
    ((x, group),) = met
    errors, counts = quantizer.errors(x).tolist(), torch.bincount(group, minlength=3).tolist()
    allocate_groups(low_bit, *call, budget=budget)
    assert hidden_bytes(low_bit, *call) <= budget
    found = {}
    for bits in itertools.product((1, 2, 3, 4, 8), repeat=3):
        if sum(n * (row_bytes(40, width) + 1) for n, width in zip(counts, bits)) <= budget:
            found[bits] = sum(errors[WIDTHS.index(width)][k] for k, width in enumerate(bits))
    assert found[tuple(quantizer.bits.tolist())] <= 1.1 * min(found.values())
    assert share != 5 or quantizer.bits.tolist() == [8, 8, 8]


@pytest.mark.slow
def test_fit_chooses_bits_between_its_stages(small_planted):
    graph = dgl.add_self_loop(load_graph())
    feat = graph.ndata["feat"] = graph.ndata["feat"][:, :70]
    options, rows = {"epochs": 2, "progress": False}, graph.num_nodes()
    fitted = lowbit.fit(GCN(classes=7), graph, GROUPS, budget={"hidden": 0.8 * rows * 10}, **options)
    assert 0.6 * rows * 10 < hidden_bytes(fitted.model, graph, feat) <= 0.8 * rows * 10
    assert len(set(hidden(fitted.model).bits.tolist())) > 1
    packed = lowbit.freeze(fitted.model, graph, feat)(graph, feat)
    torch.testing.assert_close(packed, fitted.model(graph, feat).detach(), rtol=1e-5, atol=1e-6)
    model = GCN(classes=7)
    before = [parameter.clone() for parameter in model.parameters()]
    for budget, message in (({"model": 9}, "'hidden': bytes"), ({"hidden": 9}, f"1 bit, is {rows * 6:,}")):
        with pytest.raises(ValueError, match=message):
            lowbit.fit(model, graph, GROUPS, budget=budget, **options)
    with pytest.raises(ValueError, match="that of fit with QuantConfig"):
        lowbit.fit(model, graph, lowbit.QuantConfig(2), budget={"hidden": 900}, **options)
    assert all(map(torch.equal, before, model.parameters()))


def test_refusals(case):
    model, *call = case
    with pytest.raises(ValueError, match="no groups of nodes"):
        allocate_groups(lowbit.quantize(model, lowbit.QuantConfig(2)), *call, budget=900)
    for budget in (0, -1, float("nan"), True, "9"):
        with pytest.raises(ValueError, match="a positive number of bytes"):
            allocate_groups(lowbit.quantize(model, GROUPS), *call, budget=budget)
    with pytest.raises(ValueError, match="least possible, at 1 bit, is 540 bytes"):
        allocate_groups(lowbit.quantize(model, GROUPS), *call, budget=500)
    with pytest.raises(ValueError, match="leave node_groups out"):
        LearnedBits(model, *call, budget={"bits": 2}, config=GROUPS)
    assert not any(isinstance(module, GroupQuantizer) for module in model.modules())
