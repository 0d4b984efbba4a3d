"""Weights and ranges tuned on what the float model returns."""

import warnings

import pytest
import torch
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.quant.reconstruction import LOSSES


class Changed(nn.Module):
    """A product whose results a function changes."""

    def __init__(self, change, out_feats=3):
        super().__init__()
        self.layer, self.change = nn.Linear(4, out_feats), change

    def forward(self, x):
        return self.change(self.layer(x))


def without_a_class(logits):
    return logits.masked_fill(torch.tensor([False, True, False]), -torch.inf)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (Changed(lambda y: 0 * y / torch.zeros(())), {}, "numbers that are not finite"),
        (Changed(lambda y: y, 1), {}, r"outputs of shape \(9, 1\); write loss='squared'"),
        (Changed(lambda y: y.sum(1)), {}, r"outputs of shape \(9,\); write loss='squared'"),
        (Changed(lambda y: y.sum()), {"loss": "squared"}, r"outputs of shape \(\); return a number a row"),
        (Changed(without_a_class), {"loss": "squared"}, "numbers that are not finite"),
    ],
)
def test_outputs_that_cannot_be_compared_are_named_before_any_work(model, options, message):
    torch.manual_seed(0)
    low_bit = lowbit.quantize(model, lowbit.QuantConfig(2))
    x, weight = torch.randn(9, 4).abs(), low_bit.layer.weight.clone()
    with pytest.raises(ValueError, match=message):
        lowbit.calibrate(low_bit, x, rounding="reconstruct", progress=False, **options)
    assert torch.equal(low_bit.layer.weight, weight) and not low_bit.layer.quantizers["weights"].calibrated


def test_classes_that_cannot_be_are_left_out():
    torch.manual_seed(0)
    model, x = Changed(without_a_class), torch.randn(50, 4)
    expected, errors = model(x).detach(), []
    for how in ("gptq", "reconstruct"):
        low_bit = lowbit.quantize(model, lowbit.QuantConfig(2))
        lowbit.calibrate(low_bit, x, rounding=how, steps=20, progress=False)
        with torch.no_grad():
            errors.append(float(LOSSES["kl"](low_bit.eval()(x), expected)))
    assert errors[1] < errors[0] < torch.inf


@pytest.mark.parametrize("how", ["gptq", "reconstruct"])
def test_weights_in_float_stay_as_they_are(how):
    torch.manual_seed(0)
    model, x = nn.Linear(8, 3), torch.randn(50, 8)
    low_bit = lowbit.quantize(model, lowbit.QuantConfig(8, weights=32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lowbit.calibrate(low_bit, x, rounding=how, steps=5, progress=False)
    if how == "gptq":
        assert torch.equal(low_bit.weight, model.weight)
    with torch.no_grad():
        assert (low_bit.eval()(x) - model(x)).norm() < 0.02 * model(x).norm()


def test_gradients_that_the_caller_has_stay():
    torch.manual_seed(0)
    low_bit = lowbit.quantize(nn.Linear(8, 3), lowbit.QuantConfig(4))
    low_bit.weight.grad, x = torch.ones(3, 8), torch.randn(50, 8, requires_grad=True)
    lowbit.calibrate(low_bit, x, rounding="reconstruct", steps=3, progress=False)
    assert torch.equal(low_bit.weight.grad, torch.ones(3, 8)) and low_bit.bias.grad is None and x.grad is None


def test_a_model_without_gradients_is_not_tuned():
    low_bit = lowbit.quantize(nn.Linear(8, 3), lowbit.QuantConfig(4)).requires_grad_(False)
    with pytest.raises(ValueError, match="none of the model's requires a gradient"):
        lowbit.calibrate(low_bit, torch.randn(5, 8), rounding="reconstruct", progress=False)
