"""Models that are not captured whole, and lists of stages."""

import json

import dgl.nn
import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit
import numba_kernels
from numba_kernels import container
from tests.conftest import features
from tests.deploy.test_models import GraphClassifier, calibrated


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.recurrent, self.conv = dgl.nn.SAGEConv(12, 8, "lstm"), dgl.nn.GraphConv(8, 8)
        self.norm, self.attention = nn.LayerNorm(8), dgl.nn.GATConv(8, 4, 2)

    def forward(self, graph, feat):
        h = self.conv(graph, self.recurrent(graph, feat))
        if h.sum() > 1e9:
            h = 2 * h
        return self.attention(graph, self.norm(h)).flatten(1)


def test_part_of_a_model_only_when_asked_for(graph, tmp_path):
    feat = features(graph, 12)
    model = calibrated(Branching(), graph, feat)
    with pytest.raises(lowbit.FreezeError, match=r"__bool__ hands .*test_partial.py:\d+ \(if h.sum\(\) > 1e9:\)"):
        lowbit.freeze(model)
    with pytest.warns(
        lowbit.FloatModuleWarning, match="packed are conv, attention; in float32 run forward, recurrent, norm"
    ):
        packed = lowbit.freeze(model, partial=True)
    assert packed.packed_parts == ["conv", "attention"]
    assert "lstm" in packed.float_parts["recurrent"] and "LayerNorm" in packed.float_parts["norm"]
    torch.testing.assert_close(packed(graph, feat), model(graph, feat).detach(), rtol=1e-5, atol=1e-5)
    assert isinstance(packed.model.conv, dgl.nn.GraphConv) and packed.model.attention.activation is None
    for module in (packed.train(), nn.ModuleList([packed]).train()[0]):
        assert not module.training and not any(part.training for part in module.modules())
    path = packed.save(tmp_path / "part.safetensors")
    with pytest.raises(numba_kernels.ModelFileError, match=r"load\(path, model="):
        lowbit.load(path)
    with pytest.raises(numba_kernels.ModelFileError, match="does not fit GraphClassifier"):
        lowbit.load(path, model=GraphClassifier())
    fresh = lowbit.quantize(Branching(), lowbit.QuantConfig(4))
    assert torch.equal(lowbit.load(path, model=fresh)(graph, feat), packed(graph, feat))
    assert path.read_bytes() == packed.save(tmp_path / "again.safetensors").read_bytes()
    older = tmp_path / "older.safetensors"
    older.write_bytes(first_version(packed))
    assert torch.equal(lowbit.load(older, model=fresh)(graph, feat), packed(graph, feat))


@pytest.mark.slow
def test_every_damaged_byte_of_a_partial_file_is_noticed(graph, tmp_path):
    feat = features(graph, 12)
    with pytest.warns(lowbit.FloatModuleWarning):
        packed = lowbit.freeze(calibrated(Branching(), graph, feat), partial=True)
    content = packed.save(tmp_path / "part.safetensors").read_bytes()
    fresh, header_size = lowbit.quantize(Branching(), lowbit.QuantConfig(4)), container.read_header(content).size
    places = [*range(0, header_size, 4), *range(header_size, len(content), len(content) // 50)]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << place // 4 % 8
        (tmp_path / "damaged.safetensors").write_bytes(damaged)
        with pytest.raises(numba_kernels.ModelFileError):
            lowbit.load(tmp_path / "damaged.safetensors", model=fresh)
            pytest.fail(f"byte {place}")


def first_version(packed):
    """The file that the first version of the format has of a partly packed model."""
    content = {"version": 1, "packed": packed.packed_parts, "reasons": packed.float_parts}
    tensors = {f"state/{name}": value.contiguous() for name, value in packed.model.state_dict().items()}
    for name in packed.packed_parts:
        layer = packed.model.get_submodule(name).packed.to_bytes()
        tensors[f"packed/{name}"] = torch.from_numpy(np.frombuffer(layer, np.uint8).copy())
    return safetensors.torch.save(tensors, {"dgl-lowbit-partial": json.dumps(content)})


def test_partial_freezing_freezes_whole_where_it_can(graph):
    feat = features(graph, 12)
    model = calibrated(GraphClassifier(), graph, feat)
    assert isinstance(lowbit.freeze(model, partial=True), lowbit.PackedModel)


def test_a_list_of_stages(graph):
    feat = features(graph, 12)
    stages = [
        dgl.nn.GraphConv(12, 8),
        nn.ReLU(),
        nn.Sequential(nn.Linear(8, 6), nn.ELU()),
        dgl.nn.SAGEConv(6, 3, "pool"),
    ]
    model = lowbit.quantize(nn.ModuleList(stages), lowbit.QuantConfig(4)).eval()

    def run():
        h = F.relu(model[0](graph, feat))
        return model[3](graph, model[2](h))

    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.stages = model

        def forward(self):
            return run()

    lowbit.calibrate(Holder())
    torch.testing.assert_close(lowbit.freeze(list(model))(graph, feat), run().detach(), rtol=1e-5, atol=1e-5)
