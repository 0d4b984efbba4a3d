import math

import dgl
import pytest
import torch
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.diagnose import diagnose, format_diagnosis
from dgl_lowbit.experiments.models import MODELS
from dgl_lowbit.quant.sparse import SparseFeatures
from tests.conftest import homogeneous


def test_shares_clipping_and_noise_are_those_of_the_tensor():
    layer = lowbit.nn.Linear(4, 2, config=lowbit.QuantConfig(2, inputs_granularity="tensor"))
    x = torch.tensor([[0.0, 1.0, 2.0, 6.0], [0.2, 1.0, 0.0, 4.0]])
    lowbit.calibrate(layer, x)
    layer.quantizers["inputs"].log_alpha = math.log(0.5)  # scale 1, codes 0 … 3
    row = diagnose(layer.train(), x)[0]
    assert row["quantizer"] == "quantizers.inputs" and row["bits"] == 2 and layer.training
    assert row["shares"] == [3 / 8, 2 / 8, 1 / 8, 2 / 8] and row["dead"] == 0
    assert row["clipped"] == 2 / 8
    signal, noise = x.square().sum().item(), 0.2**2 + 3**2 + 1
    assert row["snr"] == pytest.approx(10 * math.log10(signal / noise))


def test_every_quantiser_in_use_has_a_row():
    graph = dgl.add_self_loop(homogeneous())
    feat = torch.rand(40, 12) * (torch.rand(40, 12) < 0.3)
    model = lowbit.calibrate(lowbit.quantize(MODELS["smp"](12, 3, hidden=8), lowbit.QuantConfig(2)), graph, feat)
    rows = diagnose(model, graph, feat)
    assert [row["quantizer"] for row in rows][:2] == ["linear1.quantizers.inputs", "linear1.quantizers.weights"]
    assert sum("messages" in row["quantizer"] for row in rows) == 10
    assert all(sum(row["shares"]) == pytest.approx(1) for row in rows)
    assert diagnose(model, graph, SparseFeatures.from_dense(feat)) == rows
    signed = torch.where(feat > 0.5, -feat, feat)  # on a grid without zero nothing is sparse
    lowbit.calibrate(model, graph, signed)
    assert diagnose(model, graph, SparseFeatures.from_dense(signed)) == diagnose(model, graph, signed)
    text = format_diagnosis(rows)
    assert text.count("\n") == len(rows) + 1 and "inf" not in text.splitlines()[4]
    assert not any(q.watch for q in model.modules() if isinstance(q, lowbit.quant.Quantizer))


@pytest.mark.parametrize(("states", "rounded"), [(32, 0), (8, 10), (2, 1)])
def test_states_are_rounded_between_all_steps_or_are_what_was_sent(states, rounded):
    graph = dgl.add_self_loop(homogeneous())
    config = lowbit.QuantConfig(2, states=states)
    model = lowbit.calibrate(lowbit.quantize(MODELS["smp"](12, 3), config), graph, torch.rand(40, 12))
    rows = diagnose(model, graph, torch.rand(40, 12))
    assert sum("states" in row["quantizer"] for row in rows) == rounded
    assert all(row["bits"] == states for row in rows if "states" in row["quantizer"])


def test_heat_maps_are_the_same_each_time(tmp_path):
    pytest.importorskip("matplotlib")
    model = lowbit.quantize(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), lowbit.QuantConfig(2, overrides={"1": 8}))
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    rows = diagnose(lowbit.calibrate(model, x), x)
    first, second = (rows.plot(tmp_path / f"{n}.svg").read_bytes() for n in range(2))
    assert first == second and first.startswith(b"<?xml") and b"<dc:date>" not in first
    assert b"0.inputs" in first and b"1.weights" in first


def test_lossless_codes_have_no_noise():
    layer = lowbit.nn.Linear(3, 2, config=lowbit.QuantConfig(2))
    x = torch.tensor([[0.0, 6.0, 6.0], [0.0, 3.0, 0.0]])
    row = diagnose(lowbit.calibrate(layer, x), x)[0]
    assert row["snr"] == math.inf and row["dead"] == 2
    assert "inf" in format_diagnosis([row])


def test_float_models_are_refused():
    with pytest.raises(ValueError, match="has no quantisers"):
        diagnose(nn.Linear(2, 2), torch.rand(1, 2))
