"""Code arithmetic under other precisions than float32, for every layer."""

import copy

import dgl.nn
import pytest
import torch
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.smoothness import SmoothnessRegularizer, dirichlet_energy
from tests.conftest import features
from tests.nn.layers import LAYERS, arguments, graph_for, make, parts, ready, same

HALVES = (torch.float16, torch.bfloat16)
CASTS = (*HALVES, torch.float64)
every_layer = pytest.mark.parametrize("name", LAYERS)
WEIGHTED = {name: bool(entry.weight) for name, entry in LAYERS.items()}


def cast(value, dtype):
    """Arguments of a call with their floating tensors in ``dtype``."""
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, tuple):
        return tuple(cast(part, dtype) for part in value)
    return {key: cast(part, dtype) for key, part in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("bits", [2, 8])
@every_layer
def test_autocast_changes_no_bit_of_outputs_and_gradients(name, bits, dtype):
    layer, args, keywords = ready(name, bits, weighted=WEIGHTED[name])
    other = copy.deepcopy(layer)
    expected = layer(*args, **keywords)
    with torch.autocast("cpu", dtype=dtype):
        got = other(*args, **keywords)
    assert same(got, expected) and all(part.dtype == torch.float32 for part in parts(got))
    for output in (expected, got):
        sum(part.square().sum() for part in parts(output)).backward()
    for (key, ours), theirs in zip(other.named_parameters(), layer.parameters()):
        assert ours.grad is theirs.grad is None or torch.equal(ours.grad, theirs.grad), key


@pytest.mark.parametrize("dtype", CASTS)
@every_layer
def test_features_of_another_precision_are_coded_as_float32(name, dtype):
    layer, args, keywords = ready(name, bits=8, weighted=WEIGHTED[name])
    args, keywords = cast(args, dtype), cast(keywords, dtype)
    expected = layer(*cast(args, torch.float32), **cast(keywords, torch.float32))
    got = layer(*args, **keywords)
    assert all(part.dtype == dtype for part in parts(got))
    if isinstance(got, dict):  # DGL adds what relations return, in the precision of the features
        for ours, theirs in zip(parts(got), parts(expected)):
            torch.testing.assert_close(ours.float(), theirs, rtol=0.02, atol=0.02)
    else:
        assert torch.equal(got, expected.to(dtype))


@pytest.mark.parametrize("dtype", CASTS)
@every_layer
def test_a_model_that_is_cast_keeps_its_integers(name, dtype):
    layer, args, _ = ready(name, bits=4)
    expected, state = layer(*args), copy.deepcopy(layer.state_dict())
    assert same(layer.to(dtype)(*args), expected)
    assert all(torch.equal(value, state[key]) for key, value in layer.state_dict().items())
    assert all(value.dtype == torch.float32 for value in layer.parameters())
    float_layer = make(name).to(dtype)  # without quantisers it is cast as its parent is
    assert all(value.dtype == dtype for value in float_layer.parameters())


@pytest.mark.parametrize("dtype", CASTS)
@every_layer
def test_a_float_model_of_another_precision_becomes_a_float32_low_bit_layer(name, dtype):
    model = lowbit.quantize(make(name, namespace=dgl.nn).to(dtype))
    args, _ = arguments(name, graph_for(name))
    lowbit.calibrate(model, *cast(args, dtype))
    low_bit = [layer for layer in model.modules() if isinstance(layer, lowbit.nn.LowBitLayer)]
    assert all(value.dtype == torch.float32 for layer in low_bit for value in layer.parameters())
    assert all(part.dtype == dtype for part in parts(model(*cast(args, dtype))))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("make_layer", [lowbit.nn.SMPConv, lambda width, **kw: lowbit.nn.DeepGraphConv(width, 3, **kw)])
@pytest.mark.parametrize("config", [None, lowbit.QuantConfig(2, states=8)])
def test_bounded_propagation_under_autocast(make_layer, config, dtype, graph):
    torch.manual_seed(0)
    layer = make_layer(12, threshold=0.01, config=config).train()
    other, feat = copy.deepcopy(layer), features(graph, 12)
    expected = [layer(graph, feat) for _ in range(3)]
    with torch.autocast("cpu", dtype=dtype):
        got = [other(graph, feat) for _ in range(3)]
    assert all(map(torch.equal, got, expected))
    state = layer.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())


@pytest.mark.parametrize("dtype", HALVES)
def test_bounds_are_measured_in_float32_and_multipliers_kept_in_it(dtype, graph):
    feat = 300 * features(graph, 12)  # squares overflow float16
    widened = dirichlet_energy(graph, feat.to(dtype).float())
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(dirichlet_energy(graph, feat.to(dtype)), widened) and widened.isfinite()
    model = nn.ModuleList([dgl.nn.GraphConv(12, 12)])
    SmoothnessRegularizer(model, threshold=0.1)
    assert all(buffer.dtype == torch.float32 for buffer in model.to(dtype).buffers())


def test_large_products_do_not_overflow_under_float16():
    torch.manual_seed(0)
    layer, x = lowbit.nn.Linear(512, 8, config=lowbit.QuantConfig(8)), 3 * torch.randn(64, 512)
    lowbit.calibrate(layer, x)
    with torch.autocast("cpu", dtype=torch.float16):
        assert torch.equal(layer(x), layer.float()(x)) and layer(x).isfinite().all()


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "row", "shift"])
@pytest.mark.parametrize("quantizer", lowbit.quant.quantizer_names())
@pytest.mark.parametrize("dtype", CASTS)
def test_quantizers_alone_code_in_float32(quantizer, granularity, bits, dtype):
    if bits == 3 and quantizer != "qlr":
        pytest.skip("truncation keeps no 3 bits")
    q = lowbit.quant.make_quantizer(quantizer, bits, granularity=granularity, channels=6)
    x = torch.randn(30, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    q.observe(x)
    expected = q.split(x.float())
    got = q.to(dtype).split(x)
    assert all(map(torch.equal, got, expected)) and torch.equal(q.codes(x), q.codes(x.float()))
    assert all(t.dtype == torch.float32 for t in q.parameters())
