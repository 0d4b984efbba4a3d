"""Layers and weights that stand in several places of a model."""

import dgl.nn
import pytest
import torch
from torch import nn

import dgl_lowbit as lowbit
from tests.nn.layers import LAYERS, arguments, graph_for, make, parts, same


def aliases(layer):
    """Models that hold ``layer`` in two places."""
    lists, deep = nn.ModuleList([layer, layer]), nn.Module()
    deep.encoder, deep.decoder = nn.ModuleDict({"first": layer}), nn.ModuleList([nn.ModuleList([layer])])
    attributes = nn.Module()
    attributes.layer, attributes.alias = layer, layer
    return {"list": lists, "deep": deep, "attributes": attributes}


@pytest.mark.parametrize("where", ["list", "deep", "attributes"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_in_two_places_is_converted_once(name, where):
    model = lowbit.quantize(aliases(make(name, namespace=dgl.nn))[where], lowbit.QuantConfig(4))
    places = {
        "list": lambda m: list(m),
        "deep": lambda m: [m.encoder["first"], m.decoder[0][0]],
        "attributes": lambda m: [m.layer, m.alias],
    }[where]
    first, second = places(model)
    assert first is second and sum(module is first for module in model.modules()) == 1
    args, _ = arguments(name, graph_for(name))
    assert same(lowbit.calibrate(second, *args)(*args), first(*args))
    assert all(part.isfinite().all() for part in parts(first(*args)))
    fresh = lowbit.quantize(aliases(make(name, namespace=dgl.nn))[where], lowbit.QuantConfig(4))
    assert not any(fresh.load_state_dict(model.state_dict()))
    assert same(places(fresh)[0].eval()(*args), first.eval()(*args))


def test_what_stays_float_in_two_places_is_named_once():
    other = dgl.nn.DotGatConv(4, 4, 2)
    model = nn.ModuleDict({"a": nn.ModuleList([other]), "b": nn.ModuleList([other, nn.Linear(4, 4)])})
    with pytest.warns(lowbit.FloatModuleWarning, match=r"^left in float32: a.0 \(DotGatConv\)\.$"):
        lowbit.quantize(model)


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self, kind):
        super().__init__()
        self.first, self.second = kind(), kind()
        self.second.weight = self.first.weight


KINDS = {
    "Linear": lambda: nn.Linear(6, 6),
    "GraphConv": lambda: dgl.nn.GraphConv(6, 6, allow_zero_in_degree=True),
}


@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_tied_weights_stay_tied_in_their_codes(kind, bits, graph):
    torch.manual_seed(0)
    model = lowbit.quantize(Tied(KINDS[kind]), lowbit.QuantConfig(bits))
    assert model.first.weight is model.second.weight
    assert model.first.quantizers["weights"] is model.second.quantizers["weights"]
    assert model.first.quantizers["outputs"] is not model.second.quantizers["outputs"]
    assert model.state_dict().keys() >= {
        "first.quantizers.weights.low",
        "second.quantizers.weights.low",
        "second.weight",
    }
    optimiser, feat = torch.optim.SGD(model.parameters(), lr=0.1), torch.randn(40, 6)
    for _ in range(3):
        h = feat
        for layer in (model.first, model.second):
            h = layer(graph, h) if kind == "GraphConv" else layer(h)
        optimiser.zero_grad()
        h.square().sum().backward()
        optimiser.step()
    codes = [layer.quantizers["weights"].codes(layer.weight) for layer in (model.first, model.second)]
    assert torch.equal(*codes)


def test_weights_tied_across_formats_keep_a_quantiser_each():
    model = lowbit.quantize(Tied(KINDS["Linear"]), lowbit.QuantConfig(4, overrides={"second": 8}))
    bits = [layer.quantizers["weights"].format.bits for layer in (model.first, model.second)]
    assert bits == [4, 8] and model.first.weight is model.second.weight
