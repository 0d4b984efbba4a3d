"""Bits that are learned: what their gradients say, and what quantisers are at each of them."""

import math

import pytest
import torch

from dgl_lowbit.quant import LearnedBitsQuantizer, QLRQuantizer
from dgl_lowbit.quant.learned import WIDTHS, nearest
from dgl_lowbit.quant.sparse import SparseFeatures

FORMS = [{}, {"granularity": "row"}, {"granularity": "channel", "channels": 16}, {"granularity": "shift"}]


def ready(x, bits=8, **options):
    quantizer = LearnedBitsQuantizer(bits, **options)
    quantizer.observing = True
    quantizer.eval()(x)
    quantizer.observing = False
    return quantizer


@pytest.mark.parametrize("width", [2, 3])
def test_the_gradient_is_the_slope_of_the_expected_error(width):
    """On the grid without zero the squared error of uniform values, within the range, is a quarter with a bit more."""
    x = 2 * torch.rand(4096, 16, generator=torch.Generator().manual_seed(0)) - 1
    quantizer = ready(x)
    quantizer.log_alpha = 0.0

    def error(bits):
        quantizer.bits.data.fill_(bits)
        return (quantizer.fake_quantize(x) - x).square().mean() / 2

    error(width).backward()
    less, more = error(width - 1).item(), error(width + 1).item()
    slope = (more - less) * math.log(4) / (4 - 1 / 4)  # of c · 4^−bits, by its values a bit below and above
    assert quantizer.bits.grad.item() == pytest.approx(slope, rel=0.01)


@pytest.mark.parametrize("options", FORMS, ids=lambda options: options.get("granularity", "tensor"))
def test_a_loss_that_rounding_raises_asks_for_bits(options):
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
    quantizer = ready(x, 2, **options)
    (quantizer.fake_quantize(x) - x).square().sum().backward()
    assert quantizer.bits.grad < 0
    quantizer.bits.grad = None
    (x - quantizer.fake_quantize(x)).sum().backward()  # linear in the error: as much up as down
    assert quantizer.bits.grad.abs() < 0.2 * x.abs().sum()


def test_clipped_values_ask_for_none():
    x = torch.tensor([-8.25, -0.25, 0.25, 8.25])
    for clip_gradient in (True, False):
        quantizer = ready(torch.tensor([-1.0, 1.0]), 1, clip_gradient=clip_gradient)
        quantizer.log_alpha = 0.0
        clipped = quantizer.fake_quantize(x)[[0, 3]]
        (gradient,) = torch.autograd.grad(clipped[1] - clipped[0], quantizer.bits)
        assert gradient == 0
        (gradient,) = torch.autograd.grad(quantizer.fake_quantize(x)[2], quantizer.bits)
        assert gradient == pytest.approx(-math.log(2) * 0.25)  # 0.25 stands at 0.5


@pytest.mark.parametrize("options", FORMS, ids=lambda options: options.get("granularity", "tensor"))
def test_at_each_width_it_is_the_quantiser_of_learned_ranges(options):
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(2))
    quantizer = ready(x, **options)
    for width in WIDTHS:
        quantizer.bits.data.fill_(width + 0.2)
        assert quantizer.format.bits == width
        other = QLRQuantizer(width, **options)
        other.observing = True
        other.eval()(x)
        assert torch.equal(quantizer.codes(x), other.codes(x))
        assert torch.equal(other.fake_quantize(x), quantizer.fake_quantize(x)) and other.export() == quantizer.export()


def test_only_the_range_in_use_is_learned():
    x = torch.randn(64, 16)
    quantizer = ready(x, 4)
    quantizer.fake_quantize(x).square().sum().backward()
    assert [bool(gradient) for gradient in quantizer.drift.grad] == [width == 4 for width in WIDTHS]


def test_non_zeros_learn_as_dense_values_do():
    x = torch.rand(32, 16) * (torch.rand(32, 16) < 0.3)
    quantizer, weight = ready(x, 2, granularity="row"), torch.randn(16, 3)
    gradients = []
    for values in (x, SparseFeatures.from_dense(x)):
        codes = quantizer.quantized(values)
        loss = ((codes.centered @ weight) * codes.scale).square().sum()
        gradients.append(torch.autograd.grad(loss, quantizer.bits)[0])
    torch.testing.assert_close(*gradients)


def test_bits_are_part_of_the_state():
    x = torch.randn(8, 16)
    quantizer = ready(x)
    quantizer.bits.data.fill_(2.75)
    other = LearnedBitsQuantizer(8)
    other.load_state_dict(quantizer.state_dict())
    assert other.bits == 2.75 and other.format.bits == nearest(2.75) == 3
    with pytest.raises(RuntimeError, match="quantizer"):
        QLRQuantizer(3).load_state_dict(quantizer.state_dict())
