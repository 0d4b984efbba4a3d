"""SGConv's cache from step to step and from model to model, and attention of no nodes."""

import copy

import dgl
import dgl.nn
import pytest
import torch
from torch import nn

import dgl_lowbit as lowbit
from tests.conftest import features


def cached(graph, feat, **options):
    torch.manual_seed(0)
    return lowbit.nn.SGConv(12, 3, 2, cached=True, config=lowbit.QuantConfig(4), **options)


def test_a_cached_layer_trains_for_many_steps(graph):
    feat = features(graph, 12)
    layer = cached(graph, feat).train()
    optimizer, losses = torch.optim.SGD(layer.parameters(), 0.05), []
    for _ in range(8):
        loss = layer(graph, feat).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] and not layer._cached_h.requires_grad
    assert torch.equal(layer(graph, torch.zeros_like(feat)), layer(graph, feat))
    copy.deepcopy(layer)


def test_the_cache_is_what_the_layer_would_propagate(graph):
    feat = features(graph, 12)
    layer = lowbit.calibrate(cached(graph, feat), graph, feat).eval()
    expected = layer(graph, feat)
    assert layer._cached_h is not None
    torch.testing.assert_close(lowbit.freeze(layer)(graph, feat), expected.detach(), rtol=1e-5, atol=1e-6)
    names = {row["quantizer"] for row in lowbit.diagnose(layer, graph, feat)}
    assert {"quantizers.messages_0", "quantizers.messages_1"} <= names
    layer(graph, feat)
    lowbit.calibrate(layer, graph, 3 * feat)
    assert not torch.equal(layer(graph, 3 * feat), expected)
    layer.load_state_dict(copy.deepcopy(layer.state_dict()))
    assert layer._cached_h is None


def test_a_cache_of_the_float_layer_is_not_taken_along(graph):
    feat = features(graph, 12)
    model = dgl.nn.SGConv(12, 3, 2, cached=True)
    model(graph, feat)
    low_bit = lowbit.calibrate(lowbit.quantize(model, lowbit.QuantConfig(4)), graph, feat)
    assert all(q.calibrated for q in low_bit.quantizers.values() if not q.format.is_float)
    lowbit.freeze(low_bit)


@pytest.mark.parametrize("sources", [4, 0])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("width", [12, (12, 7)])
@pytest.mark.parametrize("name", ["GATConv", "GATv2Conv"])
def test_attention_of_no_nodes_is_empty(name, width, residual, sources, graph):
    layer = getattr(lowbit.nn, name)(width, 2, 3, residual=residual, config=lowbit.QuantConfig(4))
    empty = dgl.create_block(([], []), num_src_nodes=sources, num_dst_nodes=0)
    none = torch.randn(sources, 12) if width == 12 else (torch.randn(sources, 12), torch.randn(0, 7))
    rows = layer.train()(empty, none)
    assert rows.shape == (0, 3, 2)
    rows.sum().backward()
    feat = features(graph, 12)
    lowbit.calibrate(layer, graph, feat if width == 12 else (feat, torch.randn(40, 7)))
    assert layer.eval()(empty, none).shape == (0, 3, 2)
    assert lowbit.freeze(layer)(empty, none).shape == (0, 3, 2)


class Bounded(nn.Module):
    """A layer that takes more than graph and features, in a model of its own."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, graph, feat, more):
        return self.layer(graph, feat, more)


BOUNDED = {
    "rel": (lambda: dgl.nn.RelGraphConv(12, 12, 4), lambda e: torch.arange(e) % 4),
    "gine": (lambda: dgl.nn.GINEConv(nn.Linear(12, 12)), lambda e: torch.randn(e, 12)),
    "gine alone": (lambda: dgl.nn.GINEConv(), lambda e: torch.randn(e, 12)),
    "gine of another width": (lambda: dgl.nn.GINEConv(nn.Linear(12, 5)), lambda e: torch.randn(e, 12)),
    "gin of another width": (lambda: dgl.nn.GINConv(nn.Linear(12, 5)), lambda e: torch.rand(e)),
}


@pytest.mark.parametrize("states", [32, 8])
@pytest.mark.parametrize("name", BOUNDED)
def test_bounds_are_frozen_whatever_arguments_are_called(name, states, graph):
    torch.manual_seed(0)
    make, more = BOUNDED[name]
    model, args = Bounded(make()), (features(graph, 12), more(graph.num_edges()))
    lowbit.SmoothnessRegularizer(model, threshold=1e-3, layers=["layer"])
    model = lowbit.quantize(model, lowbit.QuantConfig(8, states=states))
    for _ in range(3):
        model.train()(graph, *args)
    expected = lowbit.calibrate(model, graph, *args).eval()(graph, *args).detach()
    if "width" not in name:
        assert model.layer.smoothness.step_size < 1
    torch.testing.assert_close(lowbit.freeze(model)(graph, *args), expected, rtol=1e-4, atol=1e-4)
