"""Signs times mean magnitudes: values, gradients in closed form, refusals."""

import pytest
import torch

from dgl_lowbit.quant import NotCalibratedError, SignQuantizer
from dgl_lowbit.quant.sparse import SparseFeatures
from numba_kernels.spec import SignGrid


def observed(granularity, x, **options):
    quantizer = SignQuantizer(1, granularity=granularity, channels=x.shape[-1], **options)
    quantizer.observe(x)
    return quantizer


MEANS = {"row": -1, "channel": 0, "tensor": (0, 1)}


@pytest.mark.parametrize("granularity", MEANS)
def test_values_are_signs_times_means(granularity):
    x = torch.randn(30, 17, generator=torch.Generator().manual_seed(0))
    quantizer = observed(granularity, x)
    expected = x.sign() * x.abs().mean(MEANS[granularity], keepdim=True)
    torch.testing.assert_close(quantizer(x), expected)
    params, codes = quantizer.qparams(x), quantizer.codes(x)
    assert torch.equal(quantizer.dequantize(codes, params), quantizer(x)) and set(codes.unique().tolist()) == {0, 1}


def test_zeros_are_negative_and_do_not_divide():
    quantizer = observed("row", torch.zeros(2, 3))
    assert quantizer.codes(torch.zeros(2, 3)).sum() == 0 and quantizer(torch.zeros(2, 3)).abs().max() < 1e-11


def test_what_dropout_leaves_out_stays_out_in_training():
    quantizer = observed("row", torch.zeros(1, 4))
    x = torch.tensor([[0.5, 0.0, -1.0, 0.0]], requires_grad=True)
    coded = quantizer.train()(x)
    assert coded.tolist() == [[0.75, 0.0, -0.75, 0.0]]
    coded.sum().backward()
    assert x.grad.tolist() == [[1.0, 0.0, 1.0, 0.0]]
    assert quantizer.eval()(x).tolist() == [[0.375, -0.375, -0.375, -0.375]]


def test_gradients_of_rows_end_beyond_1():
    x = torch.tensor([[0.5, -0.2, 1.5, -3.0, 1.0]], requires_grad=True)
    upstream = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    (observed("row", x.detach())(x) * upstream).sum().backward()
    assert x.grad.tolist() == [[1.0, 2.0, 0.0, 0.0, 5.0]]


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("shape", [(6, 4), (300, 64)])  # torch's operations, and a compiled pass
def test_gradients_of_weights_have_the_term_of_their_mean(granularity, shape):
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(shape, generator=generator).requires_grad_()
    upstream = torch.randn(shape, generator=generator)
    (observed(granularity, w.detach())(w) * upstream).sum().backward()
    with torch.no_grad():
        dims = MEANS[granularity]
        mean, sign = w.abs().mean(dims, keepdim=True), w.sign()
        expected = mean * upstream * (w.abs() <= 1) + sign * (upstream * sign).mean(dims, keepdim=True)
    torch.testing.assert_close(w.grad, expected, rtol=1e-4, atol=1e-5)


def test_what_is_exported():
    x = torch.randn(5, 4)
    assert observed("row", x).export() == SignGrid()
    with pytest.raises(NotCalibratedError):
        SignQuantizer(1, granularity="row").export()
    with pytest.raises(NotImplementedError):
        observed("channel", x).export()
    with pytest.raises(ValueError, match="scales come from the data"):
        observed("channel", x).dequantize(torch.zeros(5, 4))


@pytest.mark.parametrize(
    ("bits", "options", "message"),
    [(2, {}, "1 bit, got 2"), (32, {}, "1 bit, got 32"), (1, {"granularity": "shift"}, "got granularity 'shift'")],
)
def test_refusals(bits, options, message):
    with pytest.raises(ValueError, match=message):
        SignQuantizer(bits, **options)


def test_sparse_rows_have_the_gradients_of_dense_ones():
    dense = 2 * torch.randn(9, 20) * (torch.rand(9, 20) < 0.3)
    passed = []
    for make in (lambda x: x, SparseFeatures.from_dense):
        x = dense.clone().requires_grad_()
        quantizer = observed("row", dense).train()
        (quantizer(make(x)) * torch.arange(20.0)).sum().backward()
        passed.append(x.grad[dense != 0])
    assert torch.equal(*passed) and (passed[0] == 0).any()
