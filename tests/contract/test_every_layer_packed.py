"""freeze(layer)(graph, …) against layer.eval()(graph, …) for every layer in every variant, on every graph it takes."""

import numpy as np
import pytest
import torch
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.deploy.packed import _plain
from numba_kernels import reference
from numba_kernels.model import _CONVERT
from tests.contract.test_trained_equals_packed import recorded_codes
from tests.nn.layers import CASES, GRAPHS, LAYERS, WEIGHTED_CASES, arguments, make, parts

# What a frozen layer refuses: a recurrence, and attention times edge weights.
REFUSED = {"sage_lstm"}
UNWEIGHTED = {"sage_pool", "gin_max", "gat", "gat_residual", "gat_identity", "gat_pair"}
PACKABLE = [case for case in CASES if case[0] not in REFUSED]
WEIGHTED = [case for case in WEIGHTED_CASES if case[0] not in REFUSED | UNWEIGHTED]


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
    plain = list(map(_plain, args)), {name: _plain(value) for name, value in keywords.items()}
    given = {e["value"]: _CONVERT[e["kind"]](value, e["name"]) for e, value in packed._bind(*plain)}
    return reference.run(packed.plan, given)


def assert_equal_codes(packed, values, codes):
    """At least 999 in 1000 codes of the plan are those that training sees."""
    ours = [values[op["out"]] for op in packed.plan.ops if op["op"] in ("quantize", "delta")]
    ours = [part for value in ours for part in (value if isinstance(value, tuple) else (value,))]
    assert len(ours) == len(codes) > 0
    centered = [torch.from_numpy(part.codes.astype("float32") - part.zero) for part in ours]
    assert [part.shape for part in centered] == [part.shape for part in codes]
    equal = sum((mine == theirs).sum().item() for mine, theirs in zip(centered, codes))
    assert equal >= 0.999 * sum(part.numel() for part in codes)


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


@pytest.mark.parametrize("name", ["sage_pool", "gin_max"])
def test_maxima_take_no_edge_weights(name):
    layer, _, args, keywords = prepared(name, 4, "homogeneous", weighted=True)
    with pytest.raises(lowbit.FreezeError, match="a maximum over neighbours is taken without edge weights"):
        lowbit.freeze(layer, *args, **keywords)


class Attention(nn.Module):
    def __init__(self, layer, how):
        super().__init__()
        self.layer, self.how = layer, how

    def forward(self, graph, feat, w):
        if self.how == "weights":
            return self.layer(graph, feat, edge_weight=w)
        return self.layer(graph, feat, get_attention=True)


@pytest.mark.parametrize(("how", "message"), [("weights", "without edge_weight"), ("values", "without get_attention")])
def test_attention_is_not_weighted_and_not_returned(how, message):
    layer, graph, (_, feat), _ = prepared("gat", 4, "homogeneous")
    with pytest.raises(lowbit.FreezeError, match=message):
        lowbit.freeze(Attention(layer, how), graph, feat, torch.rand(graph.num_edges()))
