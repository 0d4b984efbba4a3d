"""Products of codes by integers: exact, and left to floats where they cannot be."""

import pytest
import torch

from dgl_lowbit.quant import fused_products, make_quantizer, passes, products
from dgl_lowbit.quant.format import QParams
from dgl_lowbit.quant.products import product
from numba_kernels import simd

pytestmark = pytest.mark.skipif(simd.DOT_PRODUCT == "generic", reason="multiplies integers no faster than floats")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(passes, "_LEAST", 1)
    monkeypatch.setattr(passes, "_LEAST_A_THREAD", 1 << 10)
    monkeypatch.setattr(products, "_LEAST", 1)
    monkeypatch.setattr(products, "_LEAST_WHOLE", 1)
    monkeypatch.setattr(products, "_BLOCK_BYTES", 4 * 60 * 100)


@pytest.fixture
def answers(monkeypatch):
    """Whether integers served, a block at a time."""
    told, multiply = [], fused_products.multiply_whole
    monkeypatch.setattr(fused_products, "multiply_whole", lambda *args: told.append(multiply(*args)) or told[-1])
    return told


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def quantised(x, bits, granularity, **settings):
    quantizer = make_quantizer("qlr", bits, granularity=granularity, **settings)
    quantizer.observe(x)
    return quantizer.quantized(x)


def exact(codes, weight):
    """In float64, rounded once."""
    centered = (codes.centered.double() @ weight.centered.double()).float()
    return centered * codes.scale * weight.scale


@pytest.mark.parametrize("bits, granularity, rows, inputs, columns", [
    *((bits, "row", 203, 60, 40) for bits in (1, 2, 3, 4, 8)),
    *((bits, "tensor", 150, 30, 20) for bits in (2, 4, 8)),
    (2, "row", 64, 128, 7),
    (2, "tensor", 1, 128, 70),
])  # fmt: skip
def test_they_are_exact(answers, bits, granularity, rows, inputs, columns):
    x, w = drawn(rows, inputs), drawn(inputs, columns, seed=1)
    codes, weight = (
        quantised(x, bits, granularity),
        quantised(w, bits, "channel", channels=columns, clip_gradient=False),
    )
    out = product(codes, weight)
    assert answers and all(answers)
    assert torch.equal(out, exact(quantised(x, bits, granularity), weight))


def test_threads_change_nothing(answers):
    codes, weight = (
        quantised(drawn(500, 60), 2, "row"),
        quantised(drawn(60, 40, seed=1), 2, "tensor", clip_gradient=False),
    )
    before = torch.get_num_threads()
    outs = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            outs.append(product(codes, weight))
    finally:
        torch.set_num_threads(before)
    assert all(answers) and all(torch.equal(outs[0], out) for out in outs)


def test_what_is_no_number_is_left_to_floats(answers):
    x = drawn(250, 60)
    weight = quantised(drawn(60, 40, seed=1), 2, "tensor", clip_gradient=False)
    codes = quantised(x, 2, "tensor")
    x[120, 7] = torch.nan
    out = product(codes, weight)
    assert sorted(answers) == [False, True, True]  # lanes of blocks end in any order
    assert out[120].isnan().all() and out.isnan().sum() == 40


@pytest.mark.parametrize("zero_point, served", [(1.5, True), (1.0, True), (1.25, False)])
def test_zero_points_are_whole_or_halves(zero_point, served):
    x, weight = drawn(40, 60), torch.randint(0, 4, (60, 40)).float() - 1.5
    params = QParams(torch.tensor(0.5), torch.tensor(zero_point), torch.tensor(1.5))
    out = torch.empty(40, 40)
    assert fused_products.multiply_whole(fused_products.whole_weight(weight, params, 3), x, params, 3, out) is served
    if served:
        centered = (x / 0.5 + 1.5).round().clamp(0, 3) - zero_point
        assert torch.equal(out, centered @ weight)


@pytest.mark.parametrize("weight, served", [
    (torch.tensor([[0.0, 0.5], [3.0, -1.5]]), True),
    (torch.tensor([[0.0, 0.5], [0.5, -1.5]]), False),  # whole, and not, in one column
    (torch.tensor([[0.0, 0.3], [1.0, 1.3]]), False),
    (torch.tensor([[0.0, 0.5], [torch.nan, 0.5]]), False),
    (torch.tensor([[0.0, 0.0], [256.0, 0.0]]), False),
    (torch.full((50_000, 2), 127.0), False),  # an int32 does not hold the sum
])  # fmt: skip
def test_weights_that_are_served(weight, served):
    params = QParams(torch.tensor(0.5), torch.tensor(127.5), torch.tensor(127.5))
    whole = fused_products.whole_weight(weight, params, 255)
    assert (whole is not None) is served
    if served:
        x, out = drawn(40, len(weight)), torch.empty(40, 2)
        assert fused_products.multiply_whole(whole, x, params, 255, out)
        assert torch.equal(out, ((x / 0.5 + 127.5).round().clamp(0, 255) - 127.5) @ weight)
