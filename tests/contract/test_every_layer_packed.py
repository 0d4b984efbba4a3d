"""freeze(layer)(graph, …) against layer.eval()(graph, …) for every layer in every variant, on every graph it takes."""

import numpy as np
import pytest
import torch
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.deploy.packed import _plain
from numba_kernels import reference
from numba_kernels.arguments import READ
from tests.conftest import features
from tests.contract.test_trained_equals_packed import count_equal, recorded_codes
from tests.nn.layers import CASES, GRAPHS, IN, LAYERS, WEIGHTED_CASES, arguments, make, parts

# What a frozen layer refuses: a recurrence.
REFUSED = {"sage_lstm"}
PACKABLE = [case for case in CASES if case[0] not in REFUSED]
WEIGHTED = [case for case in WEIGHTED_CASES if case[0] not in REFUSED]


class Constant(nn.Module):
    """A layer whose last argument the model knows."""

    def __init__(self, layer, value):
        super().__init__()
        self.layer, self.value = layer, value

    def forward(self, graph, feat):
        return self.layer(graph, feat, self.value)


def prepared(name, bits, kind, weighted=False):
    """A calibrated layer in evaluation mode, and its arguments on the graph of that kind."""
    layer, graph = make(name, bits).eval(), GRAPHS[kind]()
    args, keywords = arguments(name, graph, weighted)
    if name == "cheb":
        layer, args = Constant(layer, args[-1]).eval(), args[:-1]
    return lowbit.calibrate(layer, *args, **keywords), graph, args, keywords


def twin(packed, args, keywords):
    """Every value of the plan, by the NumPy twin."""
    plain = [_plain(value, "") for value in args], {name: _plain(value, name) for name, value in keywords.items()}
    given = {e["value"]: READ[e["kind"]](value, e["name"]) for e, value in packed._bind(*plain)}
    return reference.run(packed.plan, given)


def coded(packed, values):
    """The codes that the plan makes, in order."""
    made = [values[op["out"]] for op in packed.plan.ops if op["op"] in ("quantize", "delta")]
    return [part for value in made for part in (value if isinstance(value, tuple) else (value,))]


def assert_equal_codes(packed, values, codes):
    """At least 999 in 1000 codes of the plan are those that training sees."""
    ours = coded(packed, values)
    assert len(ours) == len(codes) > 0
    equal, total = count_equal(ours, codes)
    assert equal >= 0.999 * total


def check(name, bits, kind, monkeypatch, weighted=False):
    layer, graph, args, keywords = prepared(name, bits, kind, weighted)
    packed = lowbit.freeze(layer, graph=graph)
    expected, codes = recorded_codes(layer, monkeypatch, *args, **keywords)
    got, values = packed(*args, **keywords), twin(packed, args, keywords)
    for mine, theirs in zip(parts(got), parts(expected)):
        assert mine.shape == theirs.shape and mine.dtype == torch.float32
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    assert_equal_codes(packed, values, codes)
    order = sorted(range(len(packed.plan.outputs)), key=lambda n: packed.plan.returns[n])
    for mine, n in zip(parts(got), order):
        mine = mine.numpy().reshape(len(mine), -1)
        np.testing.assert_allclose(mine, values[packed.plan.outputs[n]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "kind", "bits"),
    [
        (name, kind, bits)
        for name, kind in PACKABLE
        for bits in (2, 4, 8)
        if bits == 4 or kind == LAYERS[name].graphs[0]
    ],
)
def test_packed_equals_trained(name, kind, bits, monkeypatch):
    check(name, bits, kind, monkeypatch)


@pytest.mark.parametrize(("name", "kind"), WEIGHTED)
def test_packed_equals_trained_with_edge_weights(name, kind, monkeypatch):
    check(name, 4, kind, monkeypatch, weighted=True)


@pytest.mark.parametrize("name", [name for name in LAYERS if name not in REFUSED])
def test_files_hold_the_whole_layer(name, tmp_path):
    layer, graph, args, keywords = prepared(name, 4, LAYERS[name].graphs[0])
    packed = lowbit.freeze(layer, graph=graph)
    loaded = lowbit.load(packed.save(tmp_path / "layer.safetensors"))
    assert all(map(torch.equal, parts(packed(*args, **keywords)), parts(loaded(*args, **keywords))))
    assert packed.to_bytes() == loaded.to_bytes()


def test_a_recurrence_is_refused_by_name():
    layer = prepared("sage_lstm", 4, "block")[0]
    with pytest.raises(lowbit.FreezeError, match=r"SAGEConv\) cannot be frozen: its aggregator is .* \(lstm\)"):
        lowbit.freeze(layer)


class Attention(nn.Module):
    """A layer that returns its attention."""

    def __init__(self, name):
        super().__init__()
        self.layer = make(name, 4)

    def forward(self, graph, feat):
        return self.layer(graph, feat, get_attention=True)


class WeightedAttention(Attention):
    """And weighs it where it is given weights."""

    def forward(self, graph, feat, w=None):
        return self.layer(graph, feat, edge_weight=w, get_attention=True)


def assert_packed_is(layer, packed, *args):
    with torch.no_grad():
        expected = layer(*args)
    for mine, theirs in zip(packed(*args), expected):
        assert mine.shape == theirs.shape
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "lowest"), [("gat", 0.1), ("gat", -0.5), ("gatv2", None)])
def test_attention_is_returned_and_weighted(name, lowest, tmp_path):
    """Weights may be left out; negative ones, whose attention has codes below 0, too."""
    layer = (Attention if lowest is None else WeightedAttention)(name)
    calls = []
    for kind in ("homogeneous", "block"):
        graph = GRAPHS[kind]()
        calls += [] if lowest is None else [(graph, features(graph, IN), lowest + torch.rand(graph.num_edges()))]
        calls += [(graph, features(graph, IN))]
    layer = lowbit.calibrate(layer, *calls[0]).eval()
    packed = lowbit.load(lowbit.freeze(layer, *calls[0]).save(tmp_path / "layer.safetensors"))
    for call in calls:
        assert_packed_is(layer, packed, *call)
    assert packed.info["float32"] and all("attention" in part or lowest == -0.5 for part in packed.info["float32"])


@pytest.mark.parametrize("name", ["gat_residual", "graphconv", "sage_pool"])
def test_features_may_have_dimensions_between(name):
    layer, (first, second) = make(name, 4), (GRAPHS[kind]() for kind in ("homogeneous", "block"))
    feat = torch.randn(first.num_src_nodes(), 2, 3, IN)
    layer = lowbit.calibrate(layer, first, feat).eval()
    packed = lowbit.freeze(layer, first, feat)
    assert_packed_is(lambda *args: [layer(*args)], lambda *args: [packed(*args)], first, feat)
    feat = torch.randn(second.num_src_nodes(), 2, 3, IN)
    assert_packed_is(lambda *args: [layer(*args)], lambda *args: [packed(*args)], second, feat)


def test_features_with_dimensions_between_do_not_reach_layers_within():
    layer, graph = make("gin_sum", 4), GRAPHS["homogeneous"]()
    feat = torch.randn(graph.num_src_nodes(), 2, IN)
    with pytest.raises(lowbit.FreezeError, match="GINConv of features of more than two dimensions"):
        lowbit.freeze(lowbit.calibrate(layer, graph, feat).eval(), graph, feat)
