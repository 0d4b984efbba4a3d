"""``QuantConfig(gradients=8)``: what it admits and means in every layer that sums over neighbours."""

import copy
import dataclasses
import pickle

import dgl
import dgl.function as fn
import dgl.nn
import pytest
import torch
from torch import nn

import dgl_lowbit as lowbit
from tests.conftest import features, homogeneous

WIDTH = 12


class Own(nn.Module):
    """Messages of its own."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(WIDTH, 5)

    def forward(self, graph, feat):
        graph = graph.local_var()
        graph.ndata["h"] = self.linear(feat)
        graph.update_all(fn.copy_u("h", "m"), fn.sum("m", "h"))
        return graph.ndata["h"]


class OnEdges(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = dgl.nn.GINEConv(nn.Linear(WIDTH, 5))

    def forward(self, graph, feat):
        ends = graph.edges()
        return self.conv(graph, feat, feat[ends[0]] - feat[ends[1]])


MODELS = {
    "GraphConv": lambda: dgl.nn.GraphConv(WIDTH, 5),
    "SAGEConv": lambda: dgl.nn.SAGEConv(WIDTH, 5, "gcn"),
    "GATConv": lambda: dgl.nn.GATConv(WIDTH, 5, 2),
    "GINEConv": OnEdges,
    "a module's own": Own,
}


def gradients(model, seed=0):
    graph = homogeneous()
    feat = features(graph, WIDTH)
    feat.requires_grad_()
    model.zero_grad()
    out = model(graph, feat)
    torch.manual_seed(seed)
    out.sin().sum().backward()
    return out.detach(), feat.grad


def converted(name, bits):
    torch.manual_seed(1)
    graph = homogeneous()
    config = lowbit.QuantConfig(8, gradients=bits)
    model = lowbit.quantize(MODELS[name](), config, graph, features(graph, WIDTH))
    return lowbit.calibrate(model, graph, features(graph, WIDTH)).train()


@pytest.mark.parametrize("name", MODELS)
def test_what_crosses_edges_is_rounded_everywhere(name):
    (out, rounded), (again, repeated), (plain_out, plain) = (
        gradients(converted(name, bits)) for bits in (8, 8, 32)
    )  # fmt: skip
    assert torch.equal(out, plain_out) and torch.equal(out, again)
    assert torch.equal(rounded, repeated) and not torch.equal(rounded, plain)
    model = converted(name, 8)
    mean = torch.stack([gradients(model, seed)[1] for seed in range(60)]).mean(0)
    assert (mean - plain).norm() < (rounded - plain).norm() / 2 < 0.05 * plain.norm()


def test_only_8_and_32_bits_are_admitted():
    for bits in (4, 16, 0, True, None, "8"):
        with pytest.raises(ValueError, match=r"gradients must be 8 or 32 bits, got"):
            lowbit.QuantConfig(2, gradients=bits)


def test_a_config_keeps_it():
    config = lowbit.QuantConfig(2, gradients=8, ends=8)
    assert config.to_dict() == {"bits": 2, "ends": 8, "gradients": 8}
    assert "gradients" not in lowbit.QuantConfig().to_dict() and lowbit.QuantConfig().gradients == 32
    copies = lowbit.QuantConfig(**config.to_dict()), dataclasses.replace(config), copy.deepcopy(config)
    for same in (*copies, pickle.loads(pickle.dumps(config)), lowbit.QuantConfig(**dataclasses.asdict(config))):
        assert same == config and same.gradients == 8
    assert "gradients=8" in repr(config)
    assert all(own.gradients == 8 for own in config.for_layers({"a": ["weights"], "b": ["weights"]}).values())


def test_models_that_were_kept_before_it_load():
    """Their pickled config has no such field; states are the same with it and without."""
    model = converted("GraphConv", 32)
    del vars(model.config)["gradients"]
    loaded = pickle.loads(pickle.dumps(model))
    assert loaded.config.gradients == 32 and torch.equal(gradients(loaded)[1], gradients(model)[1])
    rounds = converted("GraphConv", 8)
    rounds.load_state_dict(model.state_dict())
    assert torch.equal(gradients(rounds)[0], gradients(model)[0])
    assert rounds.state_dict().keys() == model.state_dict().keys()
