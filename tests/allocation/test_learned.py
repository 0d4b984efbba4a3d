"""Bits learned under a budget: that it is kept, by all components, and what is left is an ordinary model."""

import dgl
import dgl.nn
import pytest
import torch

import dgl_lowbit as lowbit
from dgl_lowbit.allocation import LearnedBits, cost
from dgl_lowbit.allocation.budget import excess, within_budget
from dgl_lowbit.quant import LearnedBitsQuantizer
from dgl_lowbit.quant.learned import WIDTHS

from .test_allocate import BUDGETS, GAT, GCN, Own, Typed, case, trials


def trained(learned, *call, steps=12, lr=0.2):
    """A few steps of a loop of one's own."""
    bits = {module.bits for module in learned.model.modules() if isinstance(module, LearnedBitsQuantizer)}
    optimizer = torch.optim.Adam([p for p in bits if p.requires_grad], lr=lr)
    with torch.no_grad():
        expected = learned.model.eval()(*call)
    learned.model.train()
    for _ in range(steps):
        out = learned.model(*call)
        pairs = [(out[key], expected[key]) for key in out] if isinstance(out, dict) else [(out, expected)]
        loss = sum((one - other - 0.1).square().mean() for one, other in pairs) + learned.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        learned.step()


@pytest.mark.slow
@pytest.mark.parametrize("make", [GCN, GAT, Own, Typed])
def test_every_layer_learns_bits_and_is_frozen_with_them(make):
    model, *call = case(make)
    low, high = (cost(model, lowbit.QuantConfig(bits), *call)["model"] for bits in (1, 8))
    budget = {"model": (2 * low + high) / 3}
    learned = LearnedBits(model, *call, budget=budget)
    begun = dict(learned.bits)
    trained(learned, *call)
    assert set(begun) == set(trials(model, *call).names)
    assert any(bits != begun[name] for name, bits in learned.bits.items())
    config, low_bit = learned.config(), learned.settled()
    assert {name for name, _ in config.overrides} == set(begun)
    assert cost(model, config, *call)["model"] <= budget["model"]
    assert not any(isinstance(module, LearnedBitsQuantizer) for module in low_bit.modules())
    packed, expected = lowbit.freeze(low_bit.eval(), *call)(*call), low_bit(*call)
    for key in expected if make is Typed else [slice(None)]:
        torch.testing.assert_close(packed[key], expected[key], rtol=1e-4, atol=1e-4)


def test_what_is_settled_begins_anew_at_the_bits_that_were_found():
    model, *call = case(GCN)
    learned = LearnedBits(model, *call, budget={"bits": 3})
    trained(learned, *call, steps=3)
    for module in learned.model.modules():
        if isinstance(module, LearnedBitsQuantizer) and module.bits.requires_grad:
            module.bits.data.fill_(3)
    fresh = lowbit.calibrate(lowbit.quantize(model, lowbit.QuantConfig(3)), *call)
    assert torch.equal(learned.settled().eval()(*call), fresh.eval()(*call))
    assert not torch.equal(learned.model.eval()(*call), fresh(*call))  # whose ranges have moved
    assert learned.widths() == dict.fromkeys(learned.bits, 3)


@pytest.mark.parametrize("measure", BUDGETS)
def test_bits_begin_where_the_budget_is_kept(measure):
    model, *call = case(GCN)
    learned = LearnedBits(model, *call, budget={measure: BUDGETS[measure]})
    begun = set(learned.bits.values())
    assert len(begun) == 1 and learned.loss() < 1e-3
    assert cost(model, learned.config(), *call)[measure] <= BUDGETS[measure]
    for name in learned.bits:
        _parameter(learned, name).data.add_(0.1)
    assert learned.loss() > 1e-3  # there is no room for more


def test_bits_over_the_budget_are_priced_by_what_they_cost():
    model, *call = case(lambda: GCN(300, 20, 3))
    call[1] = torch.randn(40, 300)
    learned = LearnedBits(model, *call, budget={"model": 3000})
    for name in learned.bits:
        _parameter(learned, name).data.fill_(6.0)
    at = [cost(model, lowbit.QuantConfig(bits), *call)["model"] for bits in (4, 8)]
    assert learned.loss().item() == pytest.approx(sum(at) / 2 / 3000 - 1)
    learned.loss().backward()
    of_weights = cost(model, lowbit.QuantConfig(4, overrides={"conv1.weights": 8}), *call)["model"] - at[0]
    assert _parameter(learned, "conv1.weights").grad == pytest.approx(of_weights / 4 / 3000)


def _parameter(learned, name):
    layer, _, component = name.rpartition(".")
    return learned.model.get_submodule(layer).quantizers[component].bits


def test_quantisers_of_a_component_have_one_number_of_bits():
    torch.manual_seed(0)
    graph, feat = dgl.add_self_loop(dgl.rand_graph(20, 60)), torch.randn(20, 8)
    learned = LearnedBits(dgl.nn.SAGEConv(8, 4, "mean"), graph, feat, budget={"bits": 4})
    quantizers = learned.model.quantizers
    weights = [q for name, q in quantizers.items() if learned.model.operands()[name].component == "weights"]
    assert len(weights) == 2 and weights[0].bits is weights[1].bits is not quantizers["inputs"].bits


def test_bits_that_the_config_gives_are_kept():
    model, *call = case(GCN)
    config = lowbit.QuantConfig(overrides={"conv1.weights": 8, "conv2.inputs": 2})
    learned = LearnedBits(model, *call, budget={"bits": 3}, config=config)
    assert not learned.bits.keys() & {"conv1.weights", "conv2.inputs"}
    trained(learned, *call)
    kept = dict(learned.config().overrides)
    assert kept["conv1.weights"] == 8 and kept["conv2.inputs"] == 2
    assert [_parameter(learned, name).item() for name in ("conv1.weights", "conv2.inputs")] == [8, 2]


@pytest.mark.parametrize("measure", BUDGETS)
def test_wanted_bits_are_brought_within_a_budget(measure):
    tried = trials(*case(GCN), widths=WIDTHS)
    draw = torch.Generator().manual_seed(0)
    budget = {measure: BUDGETS[measure]}
    for _ in range(20):
        wanted = dict(zip(tried.names, (1 + 7 * torch.rand(len(tried.names), generator=draw)).tolist()))
        bits = within_budget(tried.costs, wanted, WIDTHS, budget)
        higher = [{**bits, name: WIDTHS[WIDTHS.index(width) + 1]} for name, width in bits.items() if width < 8]
        assert excess(tried.costs.of(bits), budget) == 0
        assert all(excess(tried.costs.of(more), budget) > 0 for more in higher)
    assert within_budget(tried.costs, dict.fromkeys(tried.names, 3.4), WIDTHS, {"bits": 3}) == dict.fromkeys(bits, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": {"bits": 0.9}}, "least possible, at 1 bits, are mean bits: 1 for 0.9"),
        ({"budget": 3}, "budget maps measures"),
        ({"budget": {"bits": 2}, "config": lowbit.QuantConfig(quantizer="bt")}, "learned ranges.*got 'bt'"),
        (
            {"budget": {"bits": 2}, "config": lowbit.QuantConfig(3, grid="levels")},
            "grid of auto, affine, half, got 'lev",
        ),
        ({"budget": {"bits": 2}, "config": lowbit.QuantConfig(2, ends=4)}, "gives every component bits of its own"),
        ({"budget": {"bits": 2}, "config": 2}, "config must be a QuantConfig"),
    ],
)
def test_what_cannot_be_is_said(options, message):
    model, *call = case(GCN)
    with pytest.raises(ValueError, match=message):
        LearnedBits(model, *call, **options)
