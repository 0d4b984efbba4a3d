import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dgl_lowbit as lowbit
from dgl_lowbit.quant import (
    NotCalibratedError,
    QFormat,
    QLRQuantizer,
    QParams,
    TruncationQuantizer,
    make_quantizer,
    quantizer_names,
    skewness,
)
from dgl_lowbit.quant.ste import centered_codes

LOW_BITS = (1, 2, 3, 4, 8)


def observed(name, bits, x, **options):
    quantizer = make_quantizer(name, bits, channels=x.shape[-1], **options)
    quantizer.observe(x)
    return quantizer.eval()


@pytest.mark.parametrize("bits", [0, 5, 16, -2, 2.5, "2", True])
def test_unsupported_bits(bits):
    with pytest.raises(ValueError, match=r"bits must be one of 1, 2, 3, 4, 8, 32"):
        QFormat(bits)


@pytest.mark.parametrize("name", quantizer_names())
@pytest.mark.parametrize("bits", LOW_BITS)
@pytest.mark.parametrize("granularity", ["tensor", "channel", "row"])
@given(seed=st.integers(0, 2**16), shift=st.sampled_from([-5.0, 0.0, 0.3, 5.0]), rows=st.integers(1, 9))
@settings(max_examples=15, deadline=None)
def test_fake_quantize_is_dequantized_codes_bit_for_bit(name, bits, granularity, seed, shift, rows):
    if name != "qlr" and bits == 3:
        return
    x = torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed)) + shift
    quantizer = observed(name, bits, x, granularity=granularity)
    params = quantizer.qparams(x)
    codes = quantizer.codes(x)
    assert codes.dtype == torch.uint8 and codes.int().max() < 2**bits
    values = quantizer.dequantize(codes, params)
    assert torch.equal(quantizer.fake_quantize(x), values)
    if name != "bt*":  # a shifted grid moves its own levels
        assert torch.equal(quantizer.codes(values, params), codes)


@pytest.mark.parametrize("bits", LOW_BITS)
@pytest.mark.parametrize("half", [False, True])
@given(data=st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=12), alpha=st.floats(0.2, 1.0))
@settings(max_examples=30, deadline=None)
def test_gradients_have_their_closed_form(bits, half, data, alpha):
    quantizer = QLRQuantizer(bits, grid="half" if half else "affine")
    quantizer.low.fill_(-1.0)
    quantizer.high.fill_(2.0)
    quantizer.log_alpha = math.log(alpha)
    quantizer.calibrated.fill_(True)
    x = torch.tensor(data, requires_grad=True)
    upstream = torch.linspace(-1, 2, len(data))
    (quantizer.fake_quantize(x) * upstream).sum().backward()

    scale, zero, _ = (part.detach() for part in quantizer.qparams())
    margin = 0.5 if half else 0.0
    place = x.detach() / scale + zero
    near_edge = ((place + margin).abs() < 1e-3) | ((place - 2**bits + 1 - margin).abs() < 1e-3)
    inside = (place >= -margin) & (place <= 2**bits - 1 + margin)
    keep = ~near_edge
    assert torch.equal(x.grad[keep] != 0, (inside & (upstream != 0))[keep])
    torch.testing.assert_close(x.grad[keep & inside], upstream[keep & inside], rtol=1e-5, atol=1e-6)
    if keep.all():
        # inside the rounding residual, outside the end of the range: both times d x̂ / d log α
        centered = quantizer.codes(x).float() - zero
        expected = (upstream * (centered * scale - inside * x.detach())).sum()
        torch.testing.assert_close(quantizer.drift.grad / quantizer.range_rate, expected, rtol=1e-3, atol=1e-4)


def test_weights_keep_their_gradient_outside_the_range():
    params = QParams(*(torch.tensor(v) for v in (1.0, 1.5, 1.5)))
    x = torch.tensor([-9.0, 0.2, 9.0], requires_grad=True)
    centered_codes(x, params, 3, torch.tensor(0.5), clip_gradient=False).sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 1.0]


def test_half_grid_has_the_levels_of_the_paper_at_2_bits():
    quantizer = QLRQuantizer(2).train()
    x = torch.linspace(-2, 2, 101)
    levels = (quantizer.fake_quantize(x) / quantizer.qparams().scale).detach().unique()
    torch.testing.assert_close(levels, torch.tensor([-1.5, -0.5, 0.5, 1.5]))


def test_after_relu_the_grid_starts_at_zero():
    quantizer = QLRQuantizer(2).train()
    x = torch.rand(100).sub(0.5).relu()
    assert quantizer.fake_quantize(x)[x == 0].abs().max() == 0
    assert quantizer.qparams().zero_point == 0 and not quantizer.half_grid


@pytest.mark.parametrize("bits", LOW_BITS)
def test_bags_of_words_are_lossless_per_row(bits):
    words = (torch.rand(50, 300, generator=torch.Generator().manual_seed(0)) < 0.05).float()
    x = words / words.sum(1, keepdim=True).clamp(min=1)
    torch.testing.assert_close(observed("qlr", bits, x, granularity="row").fake_quantize(x), x, rtol=1e-6, atol=0)


@pytest.mark.parametrize("error", ["squared", "absolute"])
def test_search_finds_the_best_candidate(error):
    x = torch.randn(500, generator=torch.Generator().manual_seed(3)).pow(3)
    quantizer = QLRQuantizer(2, error=error)
    quantizer.observe(x)

    def loss():
        residual = quantizer.fake_quantize(x).detach() - x
        return (residual.square() if error == "squared" else residual.abs()).mean()

    best = loss()
    for alpha in np.geomspace(0.02, 1, 40):
        quantizer.log_alpha = math.log(alpha)
        assert best <= loss() * (1 + 1e-6)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_truncation_keeps_the_top_of_an_8_bit_code(bits):
    x = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    quantizer = TruncationQuantizer(bits)
    quantizer.observe(x)
    quantizer.eval()
    divisor = 255 // (2**bits - 1)
    fine_scale, fine_zero = quantizer.qparams().scale / divisor, quantizer.qparams().zero_point * divisor
    code8 = (x / fine_scale + fine_zero).round().clamp(0, 255)
    expected = (torch.round(code8 / divisor) * divisor - fine_zero) * fine_scale
    torch.testing.assert_close(quantizer.fake_quantize(x).detach(), expected, rtol=1e-5, atol=1e-5)


def test_skew_aware_truncation_shifts_the_code_by_the_skewness():
    x = torch.randn(3000, generator=torch.Generator().manual_seed(0)).exp()
    quantizer = TruncationQuantizer(2, skew_aware=True)
    quantizer.observe(x)
    quantizer.eval()
    shift = skewness(x).round()
    assert shift > 1 and quantizer.skew == shift
    scale, zero, _ = quantizer.qparams()
    code8 = (x / (scale / 85) + zero * 85).round()
    expected = torch.round((code8 + shift).clamp(0, 255) / 85)
    assert (quantizer.codes(x).float() == expected).float().mean() > 0.999


def test_truncation_refuses_3_bits_and_the_half_grid():
    with pytest.raises(ValueError, match="keeps 1, 2, 4 or 8 bits, got 3"):
        TruncationQuantizer(3)
    with pytest.raises(ValueError, match="affine grid, got grid='half'"):
        TruncationQuantizer(2, grid="half")


@pytest.mark.parametrize("name", quantizer_names())
def test_state_survives_round_trips(name):
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(0)).exp()
    quantizer = observed(name, 2, x, granularity="channel")
    quantizer.drift.data.add_(0.1)
    fresh = make_quantizer(name, 2, granularity="channel", channels=5).eval()
    fresh.load_state_dict(quantizer.state_dict())
    for other in (fresh, copy.deepcopy(quantizer), copy.deepcopy(quantizer).to(torch.device("cpu"))):
        assert torch.equal(other.fake_quantize(x), quantizer.fake_quantize(x))


def test_constant_and_zero_tensors_stay_finite():
    for value in (0.0, 3.0, -3.0):
        x = torch.full((4, 3), value)
        for granularity in ("tensor", "channel", "row"):
            got = observed("qlr", 8, x, granularity=granularity).fake_quantize(x)
            torch.testing.assert_close(got, x, rtol=1e-2, atol=1e-6)


def test_range_faults_are_named():
    quantizer = QLRQuantizer(4).eval()
    with pytest.raises(NotCalibratedError, match="dgl_lowbit.calibrate"):
        quantizer(torch.ones(3))
    with pytest.raises(NotCalibratedError, match="no range yet"):
        quantizer.dequantize(torch.zeros(3, dtype=torch.uint8))
    with pytest.raises(NotCalibratedError, match="no range yet"):
        quantizer.export()
    with pytest.raises(ValueError, match="NaN or infinity"):
        quantizer.observe(torch.tensor([1.0, math.nan]))
    with pytest.raises(ValueError, match="empty tensor"):
        quantizer.observe(torch.empty(0, 3))
    with pytest.raises(ValueError, match="32 bits is off"):
        QLRQuantizer(32).codes(torch.ones(2))
    row = observed("qlr", 4, torch.rand(3, 4), granularity="row")
    with pytest.raises(ValueError, match="params=quantizer.qparams"):
        row.dequantize(torch.zeros(3, 4, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 5}, "bits must be one of"),
        ({"messages": 7}, "bits must be one of"),
        ({"quantizer": "lsq"}, "quantizer must be one of bt, bt\\*, hgq, qlr"),
        ({"grid": "log"}, "grid must be one of"),
        ({"messages_granularity": "row"}, "messages_granularity must be one of tensor, channel"),
        ({"inputs_granularity": "channel"}, "inputs_granularity must be one of row, tensor"),
        ({"bits": 3, "quantizer": "bt"}, "keeps 1, 2, 4 or 8 bits"),
    ],
)
def test_config_faults_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        lowbit.QuantConfig(**options)


def test_ranges_follow_the_first_steps_of_training_unless_calibrated():
    """A range that training started from grows with the values until step 32; a calibrated one is learned."""
    followed, calibrated = (QLRQuantizer(8, grid="affine").train() for _ in range(2))
    calibrated.observing = True
    calibrated(torch.ones(4))
    calibrated.observing = False
    highs = []
    for step in range(1, 70):
        followed(torch.full((4,), float(step)))
        calibrated(torch.full((4,), float(step)))
        highs.append(followed.high.item())
    assert [step for step, (before, after) in enumerate(zip([0.0, *highs], highs), 1) if before != after] == [
        1, 2, 4, 8, 16, 32,
    ]  # fmt: skip
    assert calibrated.high.item() == 1.0
    followed.load_state_dict(QLRQuantizer(8, grid="affine").state_dict())
    followed(torch.full((4,), 5.0))
    assert followed.high.item() == 5.0


def test_rows_that_grow_in_training_double_the_range_of_a_power_of_two_a_row():
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    quantizer = QLRQuantizer(2, granularity="shift")
    quantizer.observe(x)
    low, before, clipped = quantizer.low.clone(), quantizer.eval().fake_quantize(x), quantizer.fake_quantize(5 * x)
    for same in (x, 0.1 * x, torch.zeros(3, 6)):
        quantizer.train()(same)
        assert torch.equal(quantizer.low, low)
    grown = quantizer(5 * x)
    assert torch.equal(quantizer.low, 4 * low) and (grown - 5 * x).norm() < 0.9 * (clipped - 5 * x).norm()
    assert torch.equal(quantizer.eval().fake_quantize(x), before)
    quantizer.observe(torch.zeros(3, 6))
    quantizer.train()(torch.zeros(3, 6))
    assert quantizer(x).isfinite().all()


def test_of_a_large_tensor_all_rows_make_the_range_and_every_other_one_its_factor(monkeypatch):
    x = torch.randn(4_000, 8, generator=torch.Generator().manual_seed(0))
    x[1::2] = 9.0
    seen, every = observed("qlr", 2, x[::2], granularity="channel"), observed("qlr", 2, x, granularity="channel")
    monkeypatch.setattr("dgl_lowbit.quant.qlr._MOST_CODED", 16_000)
    half = observed("qlr", 2, x, granularity="channel")
    assert torch.equal(half.high, every.high) and (half.high == 9.0).all()
    reach = torch.maximum(-seen.low, seen.high) * seen.alpha
    torch.testing.assert_close(half.alpha * 9.0, reach, rtol=0.11, atol=0)  # up to the grid of factors
    assert (every.alpha > 1.5 * half.alpha).all()
