import copy

import dgl.nn
import pytest
import torch
from torch import nn

import dgl_lowbit as lowbit
from tests.conftest import features


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.convs = nn.ModuleList([dgl.nn.GraphConv(12, 8), dgl.nn.SAGEConv(8, 8, "mean")])
        self.norm = nn.LayerNorm(8)
        self.attention = dgl.nn.DotGatConv(8, 4, 2)
        self.head = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Dropout(0.1), nn.Linear(4, 2))

    def forward(self, graph, x):
        for conv in self.convs:
            x = conv(graph, x)
        return self.head(self.attention(graph, self.norm(x)).flatten(1) * self.scale)


def test_layers_change_class_and_keep_everything_else():
    float_model = Mixed().eval()
    before = copy.deepcopy(float_model.state_dict())
    names = "the model \\(Mixed\\), attention \\(DotGatConv\\)"
    with pytest.warns(lowbit.FloatModuleWarning, match=f"left in float32: {names}."):
        model = lowbit.quantize(float_model, lowbit.QuantConfig(4))
    assert isinstance(model, Mixed) and type(model).__name__ == "Mixed" and type(model.norm) is nn.LayerNorm
    assert isinstance(model.attention, dgl.nn.DotGatConv)
    assert type(model.convs[0]) is lowbit.nn.GraphConv and type(model.head[3]) is lowbit.nn.Linear
    assert type(model.attention.fc) is nn.Linear
    assert not any(module.training for module in model.modules())
    for name, value in before.items():
        assert torch.equal(model.state_dict()[name], value) and torch.equal(float_model.state_dict()[name], value)
        assert model.state_dict()[name].data_ptr() != float_model.state_dict()[name].data_ptr()


def test_hooks_and_shared_layers_are_kept():
    shared = nn.Linear(4, 4)
    calls = []
    shared.register_forward_hook(lambda *_: calls.append(1))
    model = lowbit.quantize(nn.Sequential(shared, nn.ReLU(), shared))
    assert model[0] is model[2]
    model(torch.rand(3, 4))
    assert len(calls) == 2


def test_a_lone_layer_and_layers_of_our_own_are_taken():
    assert type(lowbit.quantize(dgl.nn.SAGEConv(3, 2, "gcn"))) is lowbit.nn.SAGEConv
    model = lowbit.quantize(nn.ModuleList([lowbit.nn.SMPConv(3), nn.Linear(2, 2)]), lowbit.QuantConfig(2))
    assert model[0].is_low_bit and model[0].config.bits == 2


class OwnForward(dgl.nn.GraphConv):
    def forward(self, graph, feat):
        return super().forward(graph, 2 * feat)


def test_subclasses_with_a_forward_of_their_own_stay_in_float():
    with pytest.warns(lowbit.FloatModuleWarning, match="0 \\(OwnForward\\)"):
        model = lowbit.quantize(nn.Sequential(OwnForward(3, 2), nn.Linear(2, 2)))
    assert isinstance(model[0], OwnForward) and not isinstance(model[0], lowbit.nn.LowBitLayer)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lowbit.quantize("gcn"), "expects a torch.nn.Module, got str"),
        (lambda: lowbit.quantize(nn.ReLU()), "no layer that can be made low-bit; these can: APPNPConv, ChebConv"),
        (lambda: lowbit.quantize(lowbit.quantize(nn.Linear(2, 2))), "the model is low-bit already"),
        (lambda: lowbit.calibrate(nn.Linear(2, 2), torch.rand(1, 2)), "no quantisers to calibrate"),
    ],
)
def test_faults_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda model, graph: lowbit.quantize(model, 4),
        lambda model, graph: lowbit.fit(model, graph, 4),
        lambda model, graph: lowbit.boost(graph, config=4),
        lambda model, graph: lowbit.sensitivity(model, graph, graph.ndata["feat"], config=4),
        lambda model, graph: lowbit.allocate(model, graph, graph.ndata["feat"], budget={"model": 99}, config=4),
        lambda model, graph: lowbit.allocation.cost(model, 4, graph, graph.ndata["feat"]),
    ],
)
def test_a_number_is_no_config_anywhere(call, graph):
    feat = features(graph, 12)
    graph.ndata.update(feat=feat, label=torch.zeros(len(feat), dtype=torch.long))
    for name in ("train_mask", "val_mask", "test_mask"):
        graph.ndata[name] = torch.ones(len(feat), dtype=torch.bool)
    with pytest.raises(ValueError, match=r"config must be a QuantConfig, got int; try QuantConfig\(bits=2\)"):
        call(dgl.nn.GraphConv(12, 4), graph)


def test_calibration_sets_every_range_and_keeps_the_mode(graph):
    model = lowbit.quantize(nn.ModuleList([dgl.nn.GraphConv(12, 4)]), lowbit.QuantConfig(2))[0].train()
    assert lowbit.calibrate(model, graph, features(graph, 12)) is model
    active = [q for q in model.quantizers.values() if not q.format.is_float]
    assert all(q.calibrated and not q.observing for q in active) and model.training
    first = model.quantizers["messages"].high.clone()
    lowbit.calibrate(model, graph, 5 * features(graph, 12))
    assert (model.quantizers["messages"].high > 2 * first).all()


def test_evaluation_before_calibration_is_refused(graph):
    model = lowbit.quantize(dgl.nn.GraphConv(12, 4)).eval()
    with pytest.raises(lowbit.quant.NotCalibratedError, match="dgl_lowbit.calibrate"):
        model(graph, features(graph, 12))


def test_the_first_training_step_sets_ranges(graph):
    model = lowbit.quantize(dgl.nn.GraphConv(12, 4), lowbit.QuantConfig(4)).train()
    model(graph, features(graph, 12))
    model.eval()(graph, features(graph, 12))


@pytest.mark.skipif(not hasattr(BaseException, "add_note"), reason="errors take notes since Python 3.11")
def test_what_an_example_raises_says_whose_it_is(graph):
    with pytest.raises(RuntimeError, match="cannot be multiplied") as raised:
        lowbit.quantize(dgl.nn.SAGEConv(12, 4, "mean"), lowbit.QuantConfig(2), graph, torch.ones(graph.num_nodes(), 7))
    assert raised.value.__notes__ == ["The example that quantize was given does not run through the model."]
