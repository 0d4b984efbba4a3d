"""The reference models, widened, and fed by BatchNorm."""

import copy
import pickle

import pytest
import torch
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.experiments.models import MODELS, widen
from tests.conftest import features


@pytest.mark.parametrize("name", MODELS)
def test_hidden_widths_are_multiplied(name, graph):
    options = {"deep": {"num_layers": 4}, "smp": {"threshold": None}}.get(name, {})
    model = MODELS[name](12, 3, hidden=5, dropout=0.25, **options)
    wide, expected = widen(model, 3), MODELS[name](12, 3, hidden=15, dropout=0.25, **options)
    shapes = [{key: value.shape for key, value in one.state_dict().items()} for one in (wide, expected)]
    assert shapes[0] == shapes[1] and str(wide) == str(expected)
    assert wide(graph, features(graph, 12)).shape == (graph.num_nodes(), 3)
    for again in (copy.deepcopy(wide), pickle.loads(pickle.dumps(wide))):
        assert str(widen(again, 1)) == str(expected)


def test_what_widen_refuses():
    with pytest.raises(TypeError, match="got Linear; build your own with k times the hidden width"):
        widen(nn.Linear(3, 4), 2)
    for k in (0, 1.5, True):
        with pytest.raises(ValueError, match="whole number above 0"):
            widen(MODELS["gcn"](3, 2), k)


def test_a_model_with_norms_is_signs_throughout(graph):
    torch.manual_seed(0)
    model, feat = MODELS["gcn"](12, 3, hidden=6, norm=True), features(graph, 12)
    model(graph, feat)
    low_bit = lowbit.calibrate(lowbit.quantize(model, lowbit.QuantConfig(1, messages=2, grid="sign")), graph, feat)
    packed = lowbit.freeze(low_bit, graph, feat)
    torch.testing.assert_close(packed(graph, feat), low_bit.eval()(graph, feat).detach(), rtol=1e-5, atol=1e-6)
    assert [op["quantizer"]["granularity"] for op in packed.plan.ops if op["op"] == "quantize"].count("sign") == 2
