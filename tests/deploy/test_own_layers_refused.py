"""What a user who writes a layer gets wrong is said where it stands, before kernels or torch meet it."""

import pytest
import torch
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.nn import LowBitLayer, Operand, Role, roles
from dgl_lowbit.quant import register_quantizer
from tests.conftest import features

_OPERANDS = {
    "inputs": Operand("inputs", 8),
    "weights": Operand("weights", 4, axis=1),
    "messages": Operand("messages", 4),
}


def _layer(operands, compute, monkeypatch):
    class Summed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 4)

        def forward(self, graph, feat):
            return self.linear(feat)

    class LowBitSummed(LowBitLayer, Summed):
        float_class = Summed
        arguments = roles(graph=Role.GRAPH, feat=Role.FEATURES)

        def operands(self):
            return operands

        def compute(self, ops, graph, feat):
            return compute(self, ops, graph, feat)

    monkeypatch.setitem(lowbit.nn.base.LAYERS, Summed, LowBitSummed)
    return Summed()


def _product(self, ops, feat):
    q = self.quantizers
    return ops.product(ops.quantize(q["inputs"], feat), q["weights"], self.linear.weight.t())


def _sum(self, ops, graph, feat):
    return ops.aggregate(graph, ops.quantize(self.quantizers["messages"], _product(self, ops, feat)))


def test_the_layer_that_the_others_are_made_of_works(graph, monkeypatch):
    feat = features(graph, 8)
    model = lowbit.quantize(_layer(_OPERANDS, _sum, monkeypatch), lowbit.QuantConfig(4))
    lowbit.calibrate(model, graph, feat)
    assert torch.equal(lowbit.freeze(model, graph, feat)(graph, feat), model(graph, feat))


@pytest.mark.parametrize(
    ("operands", "expected"),
    [
        ([], "must return a dict of Operands by name, got list"),
        ({"inputs": ("inputs", 8)}, "'inputs' must be an Operand, got tuple"),
        ({"inputs": Operand("input", 8)}, "component of 'inputs' must be one of inputs, weights.*got 'input'"),
        ({"inputs": Operand("inputs", 8.0)}, "channels of 'inputs' must be a whole number or None, got 8.0"),
        ({"inputs": Operand("inputs", -1)}, "channels of 'inputs' must be a whole number or None, got -1"),
        ({"inputs": Operand("inputs", 8, grid="round")}, "grid of 'inputs' is one of auto.*got 'round'"),
    ],
)
def test_operands_that_there_are_no_quantisers_of(operands, expected, monkeypatch):
    with pytest.raises(TypeError, match=f"LowBitSummed.operands.*{expected}"):
        lowbit.quantize(_layer(operands, _sum, monkeypatch), lowbit.QuantConfig(4))


def _misspelt(self, ops, graph, feat):
    return ops.quantize(self.quantizers["input"], feat)


def _untransposed(self, ops, graph, feat):
    q = self.quantizers
    return ops.product(ops.quantize(q["inputs"], feat), q["weights"], self.linear.weight)


def _product_of_floats(self, ops, graph, feat):
    return ops.product(feat, self.quantizers["weights"], self.linear.weight.t())


def _products_of_floats(self, ops, graph, feat):
    term = feat, self.quantizers["weights"], self.linear.weight.t()
    return ops.products(term, term)[0]


def _sum_of_floats(self, ops, graph, feat):
    return ops.aggregate(graph, feat)


def _largest_of_floats(self, ops, graph, feat):
    return ops.largest(graph, feat)


def _values_of_floats(self, ops, graph, feat):
    return ops.dequantize(feat)


def _unknown(self, ops, graph, feat):
    return ops.relu(_sum(self, ops, graph, feat))


@pytest.mark.parametrize(
    ("compute", "error", "expected"),
    [
        (_misspelt, KeyError, "names no 'input', only inputs, weights, messages"),
        (_untransposed, ValueError, r"\(in, out\), got shapes \(\d+, 8\) and \(4, 8\).*write weight.t\(\)"),
        (_product_of_floats, TypeError, "ops.product takes codes.*got Tensor"),
        (_products_of_floats, TypeError, "ops.product takes codes.*got Tensor"),
        (_sum_of_floats, TypeError, "ops.aggregate takes codes.*got Tensor"),
        (_largest_of_floats, TypeError, "ops.largest and reduce takes? codes.*got Tensor"),
        (_values_of_floats, TypeError, "ops.dequantize takes codes.*got Tensor"),
        (_unknown, AttributeError, "no operation 'relu'; it has source, .*requantize.*ops.activate"),
    ],
)
def test_computations_that_ops_do_not_have(graph, compute, error, expected, monkeypatch):
    model = lowbit.quantize(_layer(_OPERANDS, compute, monkeypatch), lowbit.QuantConfig(4))
    with pytest.raises(error, match=expected):
        lowbit.calibrate(model, graph, features(graph, 8))


def test_an_operand_of_another_width_than_its_tensor(graph, monkeypatch):
    operands = {**_OPERANDS, "messages": Operand("messages", 16)}
    model = lowbit.quantize(_layer(operands, _sum, monkeypatch), lowbit.QuantConfig(4))
    with pytest.raises(ValueError, match=r"16 channels along axis -1 met a tensor of shape \(\d+, 4\)"):
        lowbit.calibrate(model, graph, features(graph, 8))


@pytest.mark.parametrize(
    "compute",
    [
        lambda self, ops, graph, feat: _product(self, ops, feat) + self.linear.bias,
        lambda self, ops, graph, feat: self.linear.bias + _product(self, ops, feat),
        lambda self, ops, graph, feat: 2 * _product(self, ops, feat),
        lambda self, ops, graph, feat: -_product(self, ops, feat),
        lambda self, ops, graph, feat: _product(self, ops, feat)[:, :2],
        lambda self, ops, graph, feat: torch.relu(_product(self, ops, feat)),
        lambda self, ops, graph, feat: torch.cat([_product(self, ops, feat)] * 2, 1),
    ],
)
def test_what_compute_does_past_ops_is_refused_when_it_is_frozen(graph, compute, monkeypatch):
    feat = features(graph, 8)
    model = lowbit.quantize(_layer(_OPERANDS, compute, monkeypatch), lowbit.QuantConfig(4))
    lowbit.calibrate(model, graph, feat)
    with pytest.raises(lowbit.FreezeError, match="is recorded by its calls of ops.*ops.bias"):
        lowbit.freeze(model, graph, feat)


@pytest.mark.parametrize(("name", "factory"), [("mine", 3), (3, lowbit.quant.QLRQuantizer)])
def test_a_quantiser_is_registered_as_a_name_and_what_makes_it(name, factory):
    with pytest.raises(TypeError, match=r"register_quantizer\(name, factory\) takes a string"):
        register_quantizer(name, factory)
