"""Groups of nodes with bits of their own: layers trained against packed, in files, on graphs that are new."""

import dataclasses

import dgl
import dgl.nn
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit
import numba_kernels
from dgl_lowbit.allocation import hidden_bytes
from dgl_lowbit.quant import GroupQuantizer, QLRQuantizer
from tests.conftest import features

from .test_trained_equals_packed import assert_contract, packed_inputs

GROUPS = lowbit.QuantConfig(2, node_groups=3)
LAYERS = {
    "gcn": lambda: lowbit.nn.GraphConv(12, 5, config=GROUPS),
    "gcn, sum first": lambda: lowbit.nn.GraphConv(12, 70, config=GROUPS),
    "sage": lambda: lowbit.nn.SAGEConv(12, 5, "mean", config=GROUPS),
    "gat": lambda: lowbit.nn.GATConv(12, 5, 3, config=GROUPS),
    "gin": lambda: lowbit.quantize(dgl.nn.GINConv(nn.Linear(12, 5), "sum"), GROUPS),
}


def of_widths(model, bits=(1, 4, 2)):
    """``model`` with groups of such bits, which calibration leaves."""
    for quantizer in model.modules():
        if isinstance(quantizer, GroupQuantizer):
            quantizer.bits.copy_(torch.tensor(bits))
    return model


@pytest.mark.parametrize(
    "kind", ["gcn", "gcn, sum first", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("sage", "gat", "gin"))]
)
def test_layers(kind, graph, monkeypatch):
    torch.manual_seed(0)
    layer, feat = of_widths(LAYERS[kind]()), features(graph, 12) * torch.rand(graph.num_nodes(), 1)
    if kind == "gat":
        lowbit.calibrate(layer.eval(), graph, feat)
        torch.testing.assert_close(lowbit.freeze(layer)(graph, feat), layer(graph, feat).detach(), rtol=1e-5, atol=1e-6)
        return
    packed = assert_contract(layer, monkeypatch, graph, feat)
    grids = [op["quantizer"] for op in packed.plan.ops if op["op"] == "quantize"]
    grouped = [grid for grid in grids if grid["granularity"] == "group"]
    assert grouped and all(grid["widths"] == (1, 4, 2) and grid["bits"] == 4 for grid in grouped)


class Two(nn.Module):
    def __init__(self, cls=dgl.nn.GraphConv):
        super().__init__()
        self.first, self.second = cls(12, 32), cls(32, 4)

    def forward(self, graph, feat):
        return self.second(graph, F.relu(self.first(graph, feat)))


def model_of(graph):
    torch.manual_seed(0)
    model, feat = Two(), features(graph, 12) * torch.rand(graph.num_nodes(), 1)
    return model, feat, lowbit.quantize(model, GROUPS)


def test_a_model_is_trained_kept_in_a_file_and_run_alone(graph, tmp_path):
    """From training on: the file gives what the model gives, on this and another graph, also without torch."""
    model, feat, low_bit = model_of(graph)
    of_widths(lowbit.calibrate(low_bit, graph, feat))
    wanted, losses = torch.randn(graph.num_nodes(), 4), []
    optimizer = torch.optim.Adam(low_bit.train().parameters(), 0.02)
    for _ in range(20):
        loss = (low_bit(graph, feat) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    path = lowbit.freeze(low_bit, graph, feat).save(tmp_path / "model.safetensors")
    low_bit.eval()
    other = dgl.add_self_loop(dgl.rand_graph(70, 300))
    for g, x in ((graph, feat), (other, features(other, 12))):
        packed = lowbit.load(path)(g, x)
        torch.testing.assert_close(packed, low_bit(g, x).detach(), rtol=1e-5, atol=1e-6)
        g, x, _ = packed_inputs(g, x)
        np.testing.assert_array_equal(numba_kernels.load(path)(g, x), packed.numpy())
    again = lowbit.quantize(model, GROUPS)
    again.load_state_dict(low_bit.state_dict())
    assert torch.equal(again.eval()(graph, feat), low_bit(graph, feat))


def test_features_keep_a_scale_a_row_and_hidden_states_have_groups(graph):
    _, _, low_bit = model_of(graph)
    kinds = {name: type(part) for name, part in low_bit.named_modules() if "quantizers." in name}
    grouped = {name for name, kind in kinds.items() if kind is GroupQuantizer}
    assert grouped == {"first.quantizers.aggregates", "second.quantizers.inputs"}
    narrowing = nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 4))
    first, second = lowbit.quantize(narrowing, GROUPS)
    assert (type(first.quantizers["inputs"]), type(second.quantizers["inputs"])) == (QLRQuantizer, GroupQuantizer)
    chosen = lowbit.quantize(Two(), lowbit.QuantConfig(2, node_groups=3, overrides={"first": 4, "second.inputs": 32}))
    assert chosen.first.quantizers["aggregates"].bits.tolist() == [4] * 3
    assert chosen.second.quantizers["inputs"].format.is_float


@pytest.mark.slow
def test_tools_take_groups(graph):
    model, feat, low_bit = model_of(graph)
    of_widths(lowbit.calibrate(low_bit, graph, feat))
    rows = {row["quantizer"]: row for row in lowbit.diagnose(low_bit, graph, feat)}
    hidden = rows["second.quantizers.inputs"]
    assert hidden["bits"] == 4 and 0 < hidden["snr"] < 40 and sum(hidden["shares"]) == pytest.approx(1)
    assert len(lowbit.sensitivity(model, graph, feat, config=GROUPS)) == 2
    assert lowbit.allocation.cost(model, GROUPS, graph, feat)["bits"] == 2
    chosen = lowbit.allocate(model, graph, feat, budget={"bits": 3}, config=GROUPS, widths=(2, 8), progress=False)
    assert chosen.node_groups == 3
    x = features(graph, 12)
    assert hidden_bytes(low_bit, graph, x) > 0 and lowbit.QuantConfig(**GROUPS.to_dict()) == GROUPS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"node_groups": 1}, "2 to 256 groups of nodes, got 1"),
        ({"node_groups": "8"}, "got '8'"),
        ({"node_groups": 8, "quantizer": "bt"}, "node_groups goes with quantizer='qlr'.*got 'bt'"),
        ({"node_groups": 8, "grid": "sign"}, "a grid of auto, affine, half.*'sign'"),
        ({"node_groups": 8, "protect": (0, 0.1)}, "no protected rows"),
        ({"node_groups": 8, "arithmetic": "integer"}, "arithmetic='float'"),
        ({"inputs_granularity": "group"}, "needs the number of groups: node_groups=8"),
        ({"messages_granularity": "group", "node_groups": 8}, "messages_granularity must be one of"),
    ],
)
def test_configs_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        lowbit.QuantConfig(2, **options)


def test_other_granularities_stay_with_what_names_them():
    config = lowbit.QuantConfig(2, node_groups=4, aggregates_granularity="tensor")
    assert (config.inputs_granularity, config.aggregates_granularity) == ("group", "tensor")
    assert dataclasses.replace(config, inputs_granularity="row").inputs_granularity == "row"
