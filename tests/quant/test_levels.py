"""Weights on superposed levels: the search, gradients, rounding on data."""

import pytest
import torch

from dgl_lowbit.quant import LevelsQuantizer, Observer, QLRQuantizer, rounding
from dgl_lowbit.quant.levels import superpositions
from dgl_lowbit.quant.quantized import Quantized


def weights(kind, rows=300, columns=12):
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(rows, columns, generator=generator)
    return {"gaussian": w, "heavy": w**3, "one-sided": w.abs(), "uniform": torch.rand(rows, columns) - 0.5}[kind]


def observed(quantizer_class, w, bits, granularity="channel", observer=None, **options):
    quantizer = quantizer_class(bits, granularity=granularity, axis=1, channels=w.shape[1], **options)
    quantizer.observer = observer or quantizer.observer
    quantizer.observe(w)
    return quantizer.eval()


def error(quantizer, w):
    return (quantizer(w) - w).square().sum().item()


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("kind", ["gaussian", "heavy", "one-sided", "uniform"])
def test_levels_err_no_more_than_the_uniform_grid(kind, granularity, bits):
    w = weights(kind)
    quantizer = observed(LevelsQuantizer, w, bits, granularity)
    share = error(quantizer, w) / error(observed(QLRQuantizer, w, bits, granularity, grid="half"), w)
    assert share <= {"heavy": {2: 0.8, 3: 0.7, 4: 0.7}[bits]}.get(kind, 1.0)
    levels = quantizer.levels
    assert levels[0] == 0 and levels[-1] <= 32 and len(levels) <= 2**bits
    if float(quantizer.zero).is_integer():
        assert {level - int(quantizer.zero) for level in levels} <= set(superpositions())
    else:
        assert levels == list(range(2**bits)) and float(quantizer.zero) == (2**bits - 1) / 2
    assert torch.equal(quantizer.dequantize(quantizer.codes(w)), quantizer(w))
    assert (quantizer.codes(w) < len(levels)).all()


def test_a_number_goes_to_the_nearest_level():
    quantizer = LevelsQuantizer(2)
    quantizer.observe(torch.tensor([-4.0, -1.1, -1.0, -0.9, 0.9, 1.0, 1.1, 4.0]))
    assert [level - int(quantizer.zero) for level in quantizer.levels] == [-4, -1, 1, 4]
    x = torch.linspace(-6, 6, 1000)
    values = quantizer.dequantize(torch.arange(4))
    expected = values[(x[:, None] - values).abs().argmin(1)]
    torch.testing.assert_close(quantizer(x), expected)


@pytest.mark.parametrize("kind", ["minmax", "percentile"])
def test_other_observers_keep_the_uniform_grid(kind):
    w = weights("gaussian")
    levels, uniform = (
        observed(quantizer_class, w, 3, observer=Observer(kind), grid=grid)
        for quantizer_class, grid in ((LevelsQuantizer, "levels"), (QLRQuantizer, "half"))
    )
    assert levels.levels == [*range(8)] and (levels.codes(w) != uniform.codes(w)).float().mean() < 0.001  # ties
    assert all(map(torch.equal, levels.qparams(w), uniform.qparams(w)))


def test_gradients_are_those_of_a_learned_range():
    w = weights("heavy").requires_grad_()
    quantizer = observed(LevelsQuantizer, w.detach(), 3, clip_gradient=False)
    quantizer.log_alpha -= 0.5  # something is clipped
    upstream = torch.randn_like(w)
    (quantizer(w) * upstream).sum().backward()
    assert torch.allclose(w.grad, upstream, rtol=1e-5)  # weights keep their gradient beyond the range
    with torch.no_grad():
        params = quantizer.qparams(w)
        inside = ~quantizer.clipped(w, params)
        assert 0 < inside.sum() < w.numel()
        expected = (upstream * (quantizer(w) - inside * w)).sum(0)
    torch.testing.assert_close(quantizer.drift.grad / quantizer.range_rate, expected, rtol=1e-3, atol=1e-3)


def test_a_state_holds_the_levels():
    w = weights("heavy")
    first = observed(LevelsQuantizer, w, 3)
    other = LevelsQuantizer(3, granularity="channel", axis=1, channels=w.shape[1])
    other.load_state_dict(first.state_dict())
    assert torch.equal(other.eval()(w), first(w)) and other.levels == first.levels
    with pytest.raises(RuntimeError, match="grid"):
        QLRQuantizer(3, granularity="channel", axis=1, channels=w.shape[1]).load_state_dict(first.state_dict())


def test_rounding_on_data_errs_less_than_nearest_levels():
    generator = torch.Generator().manual_seed(0)
    w = weights("gaussian", 30, 6)
    x = torch.randn(200, 30, generator=generator) @ (torch.randn(30, 30, generator=generator) / 30**0.5 + torch.eye(30))
    quantizer = observed(LevelsQuantizer, w, 3)
    factor = rounding.Factor.of(rounding.second_moments([Quantized(x, torch.ones(()))]))
    codes, _ = rounding.round_on_data(w, factor, quantizer.qparams(w), quantizer)
    assert set(codes.unique().tolist()) <= set(range(len(quantizer.levels)))

    def lost(values):
        return (x @ (w - values)).square().sum()

    assert lost(quantizer.dequantize(codes)) < 0.9 * lost(quantizer(w))


@pytest.mark.parametrize(
    ("bits", "options", "message"),
    [
        (1, {}, "2, 3 or 4 bits, got 1"),
        (8, {}, "2, 3 or 4 bits, got 8"),
        (32, {}, "2, 3 or 4 bits, got 32"),
        (3, {"granularity": "row"}, "by 'channel' or 'tensor', got 'row'"),
    ],
)
def test_refusals(bits, options, message):
    with pytest.raises(ValueError, match=message):
        LevelsQuantizer(bits, **options)


def test_what_is_no_number_stays_none():
    quantizer = observed(LevelsQuantizer, weights("gaussian"), 3)
    w = weights("gaussian").index_fill(0, torch.tensor([3]), torch.nan)
    assert quantizer(w).isnan().equal(w.isnan())
