"""Signs at 1 bit and weights on levels: layers trained against packed, in files, by every way to round."""

import dgl.nn
import pytest
import torch
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.quant import LevelsQuantizer, QLRQuantizer, SignQuantizer
from tests.conftest import features

from .test_trained_equals_packed import assert_contract

SIGNS = lowbit.QuantConfig(1, messages=2, grid="sign")
CONFIGS = {
    "signs": SIGNS,
    "signs, all else at 8 bits": lowbit.QuantConfig(8, inputs=1, weights=1, aggregates=1, grid="sign"),
    "signs, one scale a weight": lowbit.QuantConfig(1, messages=2, grid="sign", weights_granularity="tensor"),
    **{f"levels at {bits} bits": lowbit.QuantConfig(bits, grid="levels") for bits in (2, 3, 4)},
    "levels, one scale a weight": lowbit.QuantConfig(4, grid="levels", weights_granularity="tensor"),
}
LAYERS = {
    "gcn": lambda config: lowbit.nn.GraphConv(12, 5, config=config),
    "gcn, sum first": lambda config: lowbit.nn.GraphConv(12, 70, config=config),
    "sage": lambda config: lowbit.nn.SAGEConv(12, 5, "mean", config=config),
    "gat": lambda config: lowbit.nn.GATConv(12, 5, 3, config=config),
    "gin": lambda config: lowbit.quantize(dgl.nn.GINConv(nn.Linear(12, 5), "sum"), config),
}


def scattered(layer):
    """``layer`` with weights that few levels far from 0 suit, as those of trained models."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.dim() > 1:
                parameter.copy_(0.1 * torch.randn_like(parameter) ** 3)
    return layer


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("kind", LAYERS)
def test_layers(kind, config, graph, monkeypatch):
    if kind == "gat":
        layer, feat = scattered(LAYERS[kind](CONFIGS[config])).eval(), features(graph, 12)
        lowbit.calibrate(layer, graph, feat)
        torch.testing.assert_close(lowbit.freeze(layer)(graph, feat), layer(graph, feat).detach(), rtol=1e-5, atol=1e-6)
        return
    assert_contract(scattered(LAYERS[kind](CONFIGS[config])), monkeypatch, graph, features(graph, 12))


def test_components_have_the_grids_they_are_for(graph):
    layer = lowbit.nn.SAGEConv(12, 5, "mean", config=SIGNS)
    kinds = {name: type(quantizer) for name, quantizer in layer.quantizers.items()}
    signs = {name for name, kind in kinds.items() if kind is SignQuantizer}
    assert signs == {name for name in kinds if not name.startswith(("messages", "outputs"))} and len(signs) >= 3
    for bits, own in ((1, 0), (2, 2), (3, 2), (4, 2), (8, 0)):
        layer = lowbit.nn.SAGEConv(12, 5, "mean", config=lowbit.QuantConfig(bits, grid="levels"))
        found = [type(q) for q in layer.quantizers.values()]
        assert found.count(LevelsQuantizer) == own and set(found) <= {LevelsQuantizer, QLRQuantizer}
    tensor = lowbit.nn.GraphConv(12, 5, config=lowbit.QuantConfig(1, grid="sign", inputs_granularity="tensor"))
    assert type(tensor.quantizers["inputs"]) is QLRQuantizer


@pytest.mark.parametrize("grid", ["sign", "levels"])
@pytest.mark.parametrize("quantizer", ["bt", "bt*"])
def test_truncation_has_neither(grid, quantizer):
    with pytest.raises(ValueError, match=f"grid='{grid}' goes with quantizer='qlr', got '{quantizer.rstrip('*')}"):
        lowbit.QuantConfig(8, grid=grid, quantizer=quantizer)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = dgl.nn.GraphConv(12, 16), nn.BatchNorm1d(16), dgl.nn.GraphConv(16, 4)

    def forward(self, graph, feat):
        return self.second(graph, self.norm(self.first(graph, feat)))


@pytest.mark.parametrize("rounding", ["nearest", "gptq", "reconstruct"])
@pytest.mark.parametrize("config", ["signs", "levels at 3 bits"])
def test_models_in_files(config, rounding, graph, tmp_path):
    model, feat = scattered(Two()), features(graph, 12)
    with torch.no_grad():
        expected = model.eval()(graph, feat)
    low_bit = lowbit.quantize(model, CONFIGS[config])
    lowbit.calibrate(low_bit, graph, feat, rounding=rounding, loss="squared", steps=5, progress=False)
    path = lowbit.freeze(low_bit, graph, feat).save(tmp_path / "model.safetensors")
    packed, trained = lowbit.load(path)(graph, feat), low_bit.eval()(graph, feat).detach()
    torch.testing.assert_close(packed, trained, rtol=1e-5, atol=1e-6)
    if config != "signs":  # which want training
        assert (trained - expected).square().mean() < 0.5 * expected.square().mean()
    again = lowbit.quantize(model, CONFIGS[config])
    again.load_state_dict(low_bit.state_dict())
    assert torch.equal(again.eval()(graph, feat).detach(), trained)


@pytest.mark.parametrize("config", ["signs", "levels at 3 bits"])
def test_tools_take_both(config, graph):
    model, feat = scattered(Two()), features(graph, 12)
    low_bit = lowbit.calibrate(lowbit.quantize(model, CONFIGS[config]), graph, feat)
    rows = {row["quantizer"]: row for row in lowbit.diagnose(low_bit, graph, feat)}
    weights = rows["first.quantizers.weights"]
    assert 0 <= weights["clipped"] < 0.5 and 0 < weights["snr"] < 40 and sum(weights["shares"]) == pytest.approx(1)
    assert len(lowbit.sensitivity(model, graph, feat, config=CONFIGS[config])) == 2
    cost = lowbit.allocation.cost(model, CONFIGS[config], graph, feat)
    arrays = lowbit.freeze(low_bit, graph, feat).plan.arrays.values()
    assert cost["model"] == pytest.approx(sum(array.nbytes for array in arrays), abs=2 * 4 * 32)


@pytest.mark.exhaustive
def test_bits_are_allocated_with_levels(graph):
    model, feat = scattered(Two()), features(graph, 12)
    chosen = lowbit.allocate(model, graph, feat, budget={"bits": 3}, config=CONFIGS["levels at 3 bits"], progress=False)
    assert chosen.grid == "levels"


@pytest.mark.parametrize("config", ["signs", "levels at 3 bits"])
def test_training_lowers_the_loss(config, graph):
    torch.manual_seed(0)
    model, feat = lowbit.quantize(Two(), CONFIGS[config]).train(), features(graph, 12)
    wanted = torch.randn(graph.num_nodes(), 4)
    optimizer, losses = torch.optim.Adam(model.parameters(), 0.02), []
    for _ in range(20):
        loss = (model(graph, feat) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_sparse_features_are_signs_too(graph):
    layer = lowbit.nn.GraphConv(40, 5, config=SIGNS)
    feat = torch.randn(graph.num_nodes(), 40) * (torch.rand(graph.num_nodes(), 40) < 0.05)
    sparse = lowbit.quant.sparse.SparseFeatures.from_dense(feat)
    lowbit.calibrate(layer, graph, feat).eval()
    expected = layer(graph, feat).detach()
    torch.testing.assert_close(layer(graph, sparse).detach(), expected)
    torch.testing.assert_close(lowbit.freeze(layer, graph, feat)(graph, feat), expected, rtol=1e-5, atol=1e-6)
