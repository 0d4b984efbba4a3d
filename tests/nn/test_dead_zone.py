"""Changes too small to send: what propagation makes of them, by hand; gradients, ranges, packed models."""

import dgl
import dgl.nn
import pytest
import torch
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.nn import APPNPConv, DeepGraphConv, SMPConv
from dgl_lowbit.nn.propagation import silent_shares
from dgl_lowbit.quant import QLRQuantizer
from dgl_lowbit.quant.dead_zone import DeadZone


@pytest.fixture
def graph():
    torch.manual_seed(0)
    return dgl.add_self_loop(dgl.rand_graph(60, 200))


@pytest.fixture
def feat(graph):
    return torch.randn(graph.num_nodes(), 7)


def made(layer, graph, feat):
    lowbit.calibrate(layer, graph, feat)
    return layer.eval()


def zones(size=0.3, of="rows", **more):
    return lowbit.QuantConfig(2, dead_zone=size, dead_zone_of=of, **more)


@pytest.mark.parametrize("of", ["rows", "entries"])
def test_neighbours_keep_what_they_have_of_a_silent_node(graph, feat, of):
    layer = made(APPNPConv(4, 0.1, config=zones(of=of)), graph, feat)
    adjacency = torch.zeros(60, 60).index_put((graph.edges()[1], graph.edges()[0]), torch.ones(()), accumulate=True)
    out_norm, in_norm = (d.float().rsqrt()[:, None] for d in (adjacency.sum(0), adjacency.sum(1)))
    thresholds, h, known, shares = 0.3 * layer.quantizers["messages_0"].qparams(feat).scale, feat, 0, []
    for step in range(4):
        change, quantizer = h * out_norm - known, layer.quantizers[f"messages_{step}"]
        sent = torch.ones_like(change, dtype=torch.bool)
        if step:
            reaches = change.abs() >= thresholds
            sent = reaches.any(1, keepdim=True).expand_as(reaches)
            change = torch.where(reaches, change, 0) if of == "entries" else change
            shares.append(1 - sent[:, 0].float().mean().item())
        known = known + torch.where(sent, quantizer.dequantize(quantizer.codes(change)), 0)
        h = 0.9 * (adjacency @ known) * in_norm + 0.1 * feat
    torch.testing.assert_close(layer(graph, feat), h, rtol=1e-5, atol=1e-6)
    assert silent_shares(layer, graph, feat) == pytest.approx(shares, abs=1e-6)
    assert 0 < shares[-1] < 1


def test_gradients_go_through_what_is_not_sent_and_ranges_come_of_what_is():
    first, late = QLRQuantizer(2).train(), QLRQuantizer(2).train()
    first.observe(torch.tensor([[-1.5, 1.5]]))
    change = torch.tensor([[0.01, -0.02], [0.8, 0.01]], requires_grad=True)
    zone = DeadZone(first, 0.1)
    codes = zone.quantized(late, change)
    values = codes.centered * codes.scale
    assert values[0].tolist() == [0, 0] and values[1, 0] > 0
    assert late.low == 0.01 or late.low <= 0.01  # of the second row alone
    assert late.high == pytest.approx(0.8)
    upstream = torch.tensor([[3.0, 5.0], [1.0, 1.0]])
    values.backward(upstream)
    assert change.grad[0].tolist() == [3, 5]
    with torch.no_grad():
        first.log_alpha += 1.0
    assert zone.thresholds().item() == pytest.approx(0.1 * first.qparams().scale.item())


def test_a_dead_zone_of_everything_leaves_the_first_message(graph, feat):
    layer = made(APPNPConv(5, 0.1, config=zones(1e6)), graph, feat)
    assert silent_shares(layer, graph, feat) == [1.0] * 4
    once = made(APPNPConv(1, 0.1, config=lowbit.QuantConfig(2)), graph, feat)
    torch.testing.assert_close(layer(graph, feat), once(graph, feat))


def test_sums_with_weights_take_everything(graph, feat):
    weight = torch.rand(graph.num_edges()) + 0.5
    layers = [APPNPConv(4, 0.1, config=config) for config in (zones(10.0), lowbit.QuantConfig(2))]
    for layer in layers:
        lowbit.calibrate(layer, graph, feat, edge_weight=weight)
    with_zone, without = (layer.eval()(graph, feat, edge_weight=weight) for layer in layers)
    assert torch.equal(with_zone, without)


class Wrapped(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, graph, feat):
        return self.layer(graph, feat)


LAYERS = {
    "smp": lambda config: SMPConv(7, k=4, config=config),
    "appnp": lambda config: APPNPConv(4, 0.1, config=config),
    "deep": lambda config: DeepGraphConv(7, 4, config=config),
    "states": lambda config: SMPConv(7, k=4, config=lowbit.QuantConfig(**{**config.to_dict(), "states": 2})),
}


@pytest.mark.parametrize("of", ["rows", "entries"])
@pytest.mark.parametrize("name", LAYERS)
def test_packed_is_trained(graph, feat, name, of, tmp_path):
    model = made(Wrapped(LAYERS[name](zones(0.2, of))), graph, feat)
    packed = lowbit.freeze(model, graph, feat)
    assert sum("dead_zone" in op for op in packed.plan.ops) == 3
    packed.save(tmp_path / "model.safetensors")
    again = lowbit.load(tmp_path / "model.safetensors")
    trained = model(graph, feat)
    assert any(share > 0 for share in silent_shares(model, graph, feat))
    torch.testing.assert_close(again(graph, feat), trained, rtol=1e-5, atol=1e-6)
    nodes = torch.tensor([5, 2, 40])
    assert torch.equal(packed(graph, feat, nodes=nodes), packed(graph, feat)[nodes])


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"dead_zone": 0}, "above 0"),
        ({"dead_zone": True}, "above 0"),
        ({"dead_zone": float("nan")}, "above 0"),
        ({"dead_zone": "0.1"}, "above 0"),
        ({"dead_zone": 0.1, "dead_zone_of": "nodes"}, "rows, entries"),
        ({"dead_zone": 0.1, "messages_granularity": "shift"}, "power of two"),
        ({"dead_zone": 0.1, "dead_zone_of": "entries", "messages": 1}, "code for 0"),
        ({"dead_zone": 0.1, "dead_zone_of": "entries", "quantizer": "bt*"}, "code for 0"),
    ],
)
def test_dead_zones_that_are_none_are_refused(options, fault):
    with pytest.raises(ValueError, match=fault):
        lowbit.QuantConfig(2, **options)
