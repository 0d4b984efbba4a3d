"""Rounding on data against a plain form of it, and what becomes of it in layers, files and kernels."""

import dgl
import dgl.nn
import pytest
import torch
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.quant import QLRQuantizer, rounding
from dgl_lowbit.quant.evaluation import evaluating, observing
from dgl_lowbit.quant.quantized import Quantized
from dgl_lowbit.quant.reconstruction import LOSSES
from dgl_lowbit.quant.sparse import SparseFeatures
from tests.conftest import features
from tests.nn.layers import LAYERS, arguments, graph_for, make, parts
from tests.nn.own_modules import updated


def problem(rows=200, inputs=30, out=6, bits=2):
    """Correlated inputs, a weight, and a quantiser of it with its range."""
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(inputs, inputs, generator=generator) / inputs**0.5 + torch.eye(inputs)
    x = torch.randn(rows, inputs, generator=generator) @ mixed
    weight = torch.randn(inputs, out, generator=generator)
    quantizer = QLRQuantizer(bits, granularity="channel", axis=1, channels=out)
    quantizer.observe(weight)
    return x, weight, quantizer


def plain(x, weight, quantizer, damping):
    """arXiv:2210.17323 with an inverse for each row, over rows in order of falling moments."""
    moments = x.double().t() @ x.double()
    moments += damping * moments.diagonal().mean() * torch.eye(len(moments))
    left = weight.double().clone()
    codes = torch.empty_like(left)
    params = quantizer.qparams(weight)
    remaining = torch.argsort(moments.diagonal(), descending=True).tolist()
    while remaining:
        row = remaining[0]
        inverse = torch.linalg.inv(moments[remaining][:, remaining])
        codes[row] = (left[row] / params.scale + params.offset).round().clamp(0, quantizer.format.qmax)
        error = left[row] - (codes[row] - params.zero_point) * params.scale
        left[remaining] -= inverse[:, :1] * (error / inverse[0, 0])
        remaining.pop(0)
    return codes


def on_data(x, weight, quantizer):
    factor = rounding.Factor.of(rounding.second_moments([Quantized(x, torch.ones(()))]))
    return rounding.round_on_data(weight, factor, quantizer.qparams(weight), quantizer)


def squared_error(x, weight, codes, quantizer):
    params = quantizer.qparams(weight)
    return (x.double() @ (weight - (codes - params.zero_point) * params.scale)).square().sum(0)


@pytest.mark.parametrize("rows_at_once", [4, 128])
def test_equals_the_form_with_an_inverse_for_each_row(rows_at_once, monkeypatch):
    monkeypatch.setattr(rounding, "_ROWS", rows_at_once)
    x, weight, quantizer = problem()
    codes, _ = on_data(x, weight, quantizer)
    assert torch.equal(codes, plain(x, weight, quantizer, rounding._DAMPING))
    assert not torch.equal(codes, quantizer.codes(weight).double())


@pytest.mark.parametrize(("bits", "share"), [(1, 0.95), (2, 0.8), (4, 0.8)])
def test_products_err_less_than_by_nearest_codes(bits, share):
    x, weight, quantizer = problem(bits=bits)
    codes, error = on_data(x, weight, quantizer)
    own = squared_error(x, weight, codes, quantizer)
    assert own.sum() < share * squared_error(x, weight, quantizer.codes(weight).double(), quantizer).sum()
    assert (error >= own).all() and (error < 1.2 * own).all()  # which is damped


def test_ranges_are_those_that_err_least():
    x, weight, quantizer = problem()
    factor = rounding.Factor.of(rounding.second_moments([Quantized(x, torch.ones(()))]))
    params = rounding._params(quantizer, weight, slice(None))
    chosen = rounding.best_stretch(weight, [factor], params, quantizer)
    candidates = [params._replace(scale=params.scale * stretch) for stretch in rounding._STRETCHES]
    errors = torch.stack([rounding.round_on_data(weight, factor, candidate, quantizer)[1] for candidate in candidates])
    assert chosen.tolist() == pytest.approx([rounding._STRETCHES[n] for n in errors.argmin(0)])
    assert len(set(chosen.tolist())) > 1
    before = quantizer.qparams(weight).scale.clone()
    quantizer.stretch(chosen)
    torch.testing.assert_close(quantizer.qparams(weight).scale, before * chosen)


def test_moments_of_blocks_of_rows_sparse_and_of_several_inputs(monkeypatch):
    monkeypatch.setattr(rounding, "_VALUES", 64)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(50, 12, generator=generator) * (torch.rand(50, 12, generator=generator) < 0.05)
    scale = torch.rand(50, 1, generator=generator)
    expected = (x * scale).double().t() @ (x * scale).double()
    for codes in (x, SparseFeatures.from_dense(x)):
        torch.testing.assert_close(rounding.second_moments([Quantized(codes, scale)]), expected)
    halves = [Quantized(x[:20], scale[:20]), Quantized(x[20:], scale[20:]), Quantized(x[:0], scale[:0])]
    torch.testing.assert_close(rounding.second_moments(halves), expected)
    torch.testing.assert_close(rounding.second_moments(halves, slice(3, 7)), expected[3:7, 3:7])
    stacked = Quantized(x.view(5, 10, 12), scale.view(5, 10, 1))
    torch.testing.assert_close(rounding.second_moments([stacked]), expected)
    quantizer = QLRQuantizer(8, granularity="row")
    quantizer.observe(x)
    quantizer.requires_grad_(False)
    moments = rounding.second_moments([quantizer.quantized(x)])
    values = quantizer.fake_quantize(x).double()
    torch.testing.assert_close(moments, values.t() @ values)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = dgl.nn.SAGEConv(12, 8, "mean"), dgl.nn.GraphConv(8, 3)

    def forward(self, graph, x):
        return self.conv2(graph, self.conv1(graph, x).relu())


def net(rounding="nearest", bits=2, feat=None, **options):
    """A low-bit net, calibrated, its graph and features, and what it returns in float32."""
    torch.manual_seed(0)
    model, graph = Net(), graph_for("graphconv")
    feat = features(graph, 12).clamp_min(0) if feat is None else feat
    with torch.no_grad():
        expected = model(graph, feat)
    low_bit = lowbit.quantize(model, lowbit.QuantConfig(bits))
    return lowbit.calibrate(low_bit, graph, feat, rounding=rounding, progress=False, **options), graph, feat, expected


def coded(model):
    """Codes of every weight."""
    found = {}
    for name, layer in model.named_modules():
        for operand, weight in (("weights", "fc_neigh"), ("weights_self", "fc_self"), ("weights", "weight")):
            value = getattr(getattr(layer, weight, None), "weight", getattr(layer, weight, None))
            if operand in getattr(layer, "quantizers", {}) and value is not None:
                found[name, operand] = layer.quantizers[operand].codes(value if weight == "weight" else value.t())
    return found


def test_the_weights_are_the_values_of_their_codes_and_stay_so(tmp_path):
    model, graph, feat, _ = net("gptq")
    codes, nearest = coded(model), coded(net()[0])
    assert len(codes) == 3 and all((codes[key] != nearest[key]).any() for key in codes)
    for layer, weight, operand in ((model.conv1, "fc_self", "weights_self"), (model.conv1, "fc_neigh", "weights")):
        weight = getattr(layer, weight).weight.t()
        torch.testing.assert_close(layer.quantizers[operand].fake_quantize(weight), weight)
    torch.save(model.state_dict(), tmp_path / "state")
    other = net("nearest")[0]
    other.load_state_dict(torch.load(tmp_path / "state"))
    assert all(torch.equal(codes[key], value) for key, value in coded(other).items())
    packed = lowbit.freeze(model, graph, feat)
    loaded = lowbit.load(packed.save(tmp_path / "model.safetensors"))
    torch.testing.assert_close(loaded(graph, feat), model.eval()(graph, feat).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("loss", ["kl", "squared"])
def test_what_a_model_returns_comes_nearer_to_float32(loss):
    errors = []
    for how in lowbit.calibration.ROUNDINGS:
        model, graph, feat, expected = net(how, loss=loss, steps=20)
        assert model.training and all(getattr(module, "watch_product", None) is None for module in model.modules())
        with torch.no_grad(), evaluating(model):
            errors.append(float(LOSSES[loss](model(graph, feat), expected)))
        assert all(parameter.grad is None for parameter in model.parameters())
    assert errors[2] < 0.9 * errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize("how", ["gptq", "reconstruct"])
def test_the_same_again(how):
    first, again = (net(how, steps=3)[0].state_dict() for _ in range(2))
    assert all(torch.equal(again[name], value) for name, value in first.items())


def test_sparse_features_are_as_dense_ones():
    model, _, feat, _ = net("gptq")
    sparse = net("gptq", feat=SparseFeatures.from_dense(feat))[0].state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(sparse[name], value)


def test_inputs_in_parts(monkeypatch):
    x, weight, _ = problem()
    linear = nn.Linear(*weight.shape, bias=False)
    linear.weight.data.copy_(weight.t())
    errors = []
    for how, together in (("gptq", 30), ("gptq", 10), ("nearest", 30)):
        monkeypatch.setattr(rounding, "_MOST_TOGETHER", together)
        model = lowbit.quantize(linear, lowbit.QuantConfig(8, weights=2))
        lowbit.calibrate(model, x, rounding=how, progress=False)
        with torch.no_grad():
            errors.append((model.eval()(x) - linear(x)).square().mean())
    assert errors == sorted(errors) and len(set(errors)) == 3


@pytest.mark.parametrize("name", sorted(LAYERS))
@pytest.mark.filterwarnings("ignore::dgl_lowbit.NearestRoundingWarning")
def test_every_layer(name):
    layer, graph = make(name, 2), graph_for(name)
    args, keywords = arguments(name, graph)
    met = set()
    lowbit.calibrate(layer, *args, **keywords)
    quantizers = [module for module in layer.modules() if isinstance(module, QLRQuantizer)]
    with evaluating(layer), observing(quantizers, watch_product=lambda q, *rest: met.add(q)), torch.no_grad():
        layer(*args, **keywords)
    assert met == {q for n, q in layer.named_modules() if ".weights" in f".{n}" and isinstance(q, QLRQuantizer)}
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    lowbit.calibrate(layer, *args, rounding="gptq", progress=False, **keywords)
    changed = {n for n, p in layer.named_parameters() if p.dim() > 1 and not torch.equal(p, before[n])}
    computed = {"rel_basis", "rel_bdd"}  # weights made of others; the second has one for the node itself
    assert bool(changed) == (bool(met) and name != "rel_basis") and (name not in computed or changed <= {"loop_weight"})
    with torch.no_grad():
        assert all(part.isfinite().all() for part in parts(layer.eval()(*args, **keywords)))


def test_each_relation_is_rounded_on_the_rows_that_it_sends():
    layer, graph = make("rel", 2), graph_for("rel")
    feat, types = arguments("rel", graph)[0][1:]
    before = layer.linear_r.W.detach().clone()
    lowbit.calibrate(layer, graph, feat, types, rounding="gptq", progress=False)
    source, _ = graph.edges(order="eid")
    inputs = layer.quantizers["inputs"].fake_quantize(feat)
    quantizer = layer.quantizers["weights"]
    number, out = 2, before.shape[2]
    rows = source[types == number].unique()
    factor = rounding.Factor.of(rounding.second_moments([Quantized(inputs[rows].detach(), torch.ones(()))]))
    params = rounding._params(quantizer, before[number], slice(number * out, (number + 1) * out))
    codes, _ = rounding.round_on_data(before[number], factor, params, quantizer)
    expected = ((codes - params.zero_point) * params.scale).float()
    torch.testing.assert_close(layer.linear_r.W[number].detach(), expected.detach())


def test_slices_of_one_parameter_have_quantisers_of_their_own():
    torch.manual_seed(0)
    stack, graph = lowbit.nn.DeepGraphConv(8, 3, config=lowbit.QuantConfig(2)), graph_for("graphconv")
    before = stack.weight.detach().clone()
    lowbit.calibrate(stack, graph, features(graph, 8), rounding="gptq", progress=False)
    for k, weight in enumerate(stack.weight.detach()):
        assert (weight != before[k]).any()
        torch.testing.assert_close(stack.quantizers[f"weights_{k}"].fake_quantize(weight).detach(), weight)


class Own(nn.Module):
    """Sums of neighbours of a module's own, and matrices by type."""

    def __init__(self):
        super().__init__()
        self.linear, self.matrices = nn.Linear(12, 6), nn.Parameter(torch.randn(2, 6, 4))

    def forward(self, graph, x, types):
        h = updated(graph, self.linear(x))
        return dgl.ops.gather_mm(h, self.matrices, idx_b=types)


@pytest.mark.filterwarnings("ignore::dgl_lowbit.FloatModuleWarning")
def test_message_passing_of_ones_own():
    torch.manual_seed(0)
    graph = graph_for("graphconv")
    x, types = features(graph, 12), torch.arange(graph.num_nodes()) % 2
    model = lowbit.quantize(Own(), lowbit.QuantConfig(2), graph, x, types)
    before = {name: value.clone() for name, value in model.named_parameters()}
    lowbit.calibrate(model, graph, x, types, rounding="gptq", progress=False)
    assert all((before[name] != value).any() for name, value in model.named_parameters() if value.dim() > 1)
    site = next(module for name, module in model.named_children() if name.startswith("segment_mm"))
    flat = model.matrices.transpose(0, 1).reshape(6, 8)
    torch.testing.assert_close(site["weights"].fake_quantize(flat), flat)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x):
        return self.linear(self.linear(x).relu())


def test_a_weight_of_several_products_is_rounded_on_the_inputs_of_all():
    torch.manual_seed(0)
    x, seen = torch.randn(40, 6), []
    model = lowbit.quantize(Twice(), lowbit.QuantConfig(2))
    own = rounding.Rounder._factors

    def noting(self, inputs, size):
        seen.append(len(inputs))
        return own(self, inputs, size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounding.Rounder, "_factors", noting)
        lowbit.calibrate(model, x, rounding="gptq", progress=False)
    assert seen == [2]


def test_weights_that_cannot_be_rounded_on_data_are_named():
    layer, (args, keywords) = make("rel_basis", 2), arguments("rel_basis", graph_for("rel_basis"))
    with pytest.warns(lowbit.NearestRoundingWarning, match="nearest codes: quantizers.weights"):
        lowbit.calibrate(layer, *args, rounding="gptq", progress=False, **keywords)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounding": "up"}, "rounding must be one of nearest, gptq, reconstruct, got 'up'"),
        ({"rounding": "reconstruct", "loss": "l1"}, "loss must be one of kl, squared, got 'l1'"),
        ({"rounding": "reconstruct", "steps": 0}, "steps must be a whole number above 0, got 0"),
        ({"rounding": "reconstruct", "process_group": object()}, "tunes in one process"),
    ],
)
def test_faults_are_named_before_any_work(options, message):
    model = lowbit.quantize(nn.Linear(3, 2), lowbit.QuantConfig(2))
    with pytest.raises(ValueError, match=message):
        lowbit.calibrate(model, torch.randn(4, 3), **options)
    assert not model.quantizers["weights"].calibrated


class Largest(nn.Module):
    def forward(self, x):
        return x.argmax(1)


@pytest.mark.filterwarnings("ignore::dgl_lowbit.FloatModuleWarning")
def test_only_floating_outputs_can_be_brought_nearer():
    model = lowbit.quantize(nn.Sequential(nn.Linear(3, 2), Largest()), lowbit.QuantConfig(2))
    with pytest.raises(ValueError, match="needs floating tensors returned, got Tensor"):
        lowbit.calibrate(model, torch.randn(4, 3), rounding="reconstruct")
    assert not model[0].quantizers["weights"].calibrated


def test_parts_of_weights_that_have_one_scale_together_keep_their_nearest_codes():
    torch.manual_seed(0)
    graph, types = dgl.rand_graph(20, 80), torch.arange(80) % 3
    config = lowbit.QuantConfig(8, weights=1, grid="sign", weights_granularity="tensor")
    layer = lowbit.quantize(dgl.nn.RelGraphConv(9, 4, 3, self_loop=False), config)
    weights = [parameter.clone() for parameter in layer.linear_r.parameters()]
    with pytest.warns(lowbit.NearestRoundingWarning, match="nearest codes: quantizers.weights"):
        lowbit.calibrate(layer, graph, torch.randn(20, 9), types, rounding="gptq", progress=False)
    assert all(torch.equal(a, b) for a, b in zip(weights, layer.linear_r.parameters()))
