"""Rows in groups: which they are of, values, local gradients in closed form, refusals."""

import math

import numpy as np
import pytest
import torch

from dgl_lowbit.quant import GroupQuantizer, NotCalibratedError, QFormat, QLRQuantizer
from dgl_lowbit.quant.qlr import alpha_candidates
from dgl_lowbit.quant.sparse import SparseFeatures


def rows(count=60, columns=17, sign=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, columns, generator=generator) * (4 * torch.rand(count, 1, generator=generator)).exp()
    return x if sign else x.relu()


def mixed(x, bits=(1, 4, 2, 8), **options):
    """A quantiser with groups of several widths, observed on ``x``."""
    quantizer = GroupQuantizer(2, groups=len(bits), **options)
    quantizer.bits.copy_(torch.tensor(bits))
    quantizer.observe(x)
    return quantizer.eval()


def by_hand(quantizer, x):
    """Group and values of each row, and which are in range, in float64, row by row."""
    groups, values, inside = [], torch.zeros_like(x, dtype=torch.float64), torch.zeros_like(x, dtype=torch.bool)
    for i, row in enumerate(x.double()):
        groups.append(sum(row.abs().mean().float().item() >= limit for limit in quantizer.limits.tolist()))
        alpha, levels = quantizer.log_alpha[groups[-1]].double().exp(), 2 ** int(quantizer.bits[groups[-1]])
        if quantizer.half_grid:
            reach = alpha * row.abs().max()
            step = 2 * reach / levels
            values[i] = ((row / step).floor() + levels / 2).clamp(0, levels - 1) * step - reach + step / 2
            inside[i] = row.abs() <= reach + 1e-4 * step
        else:
            step = alpha * row.max() / (levels - 1)
            values[i] = (row / step).round().clamp(0, levels - 1) * step if step > 0 else 0.0
            inside[i] = row <= alpha * row.max() + 1e-4 * step
    return torch.tensor(groups), values, inside


@pytest.mark.parametrize("sign", [False, True])
def test_rows_are_coded_with_what_their_group_has(sign):
    x = rows(sign=sign)
    quantizer = mixed(x)
    group, values, inside = by_hand(quantizer, x)
    assert torch.equal(quantizer.qparams(x).group, group) and len(group.unique()) == 4
    assert bool(quantizer.half_grid) is sign
    torch.testing.assert_close(quantizer(x).double(), values, rtol=1e-5, atol=1e-6)
    assert torch.equal(quantizer.clipped(x, quantizer.qparams(x)), ~inside)
    params = quantizer.qparams(x)
    assert torch.equal(quantizer.dequantize(quantizer.codes(x), params), quantizer(x))
    assert torch.equal(quantizer(SparseFeatures.from_dense(x)), quantizer(x))


@pytest.mark.parametrize("sign", [False, True])
def test_what_is_exported_codes_rows_it_has_not_seen_alike(sign):
    quantizer = mixed(rows(sign=sign))
    grid, others = quantizer.export(), rows(500, sign=sign, seed=1)
    np.testing.assert_array_equal(grid.code(others.numpy()).codes, quantizer.codes(others).numpy())
    np.testing.assert_array_equal(grid.code(others.numpy()).values(), quantizer(others).detach().numpy())
    assert grid.bits == 8 and grid.widths == (1, 4, 2, 8)


@pytest.mark.parametrize("sign", [False, True])
@pytest.mark.parametrize("shape", [(60, 17), (420, 40)])  # torch's operations, and compiled passes
def test_gradients(sign, shape):
    """What is coded has the loss's, within the range; ranges have the local error's, whatever the loss."""
    x = rows(*shape, sign=sign).requires_grad_()
    quantizer = mixed(x.detach()).train()
    group, values, inside = by_hand(quantizer, x.detach())
    upstream = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    (quantizer(x) * upstream).sum().backward()
    torch.testing.assert_close(x.grad, upstream * inside)
    error = values - x.detach().double()
    moved = torch.where(inside, error, values)
    expected = [2 * (error * moved)[group == k].sum() / x.detach().double().square().sum() for k in range(4)]
    torch.testing.assert_close(quantizer.log_alpha.grad.double(), torch.stack(expected), rtol=1e-3, atol=1e-7)
    first, quantizer.log_alpha.grad = quantizer.log_alpha.grad, None
    (7 * quantizer(x)).sum().backward()
    assert torch.equal(first, quantizer.log_alpha.grad)
    quantizer.log_alpha.grad = None
    quantizer.eval()(x).sum().backward()
    assert quantizer.log_alpha.grad is None


def test_steps_along_local_gradients_lower_the_local_error():
    x = rows()
    quantizer = mixed(x, bits=(2, 2, 2, 2)).train()
    with torch.no_grad():
        quantizer.log_alpha += 0.7
    optimizer, errors = torch.optim.Adam(quantizer.parameters(), 0.03), []
    for _ in range(40):
        value = quantizer(x)
        errors.append((value - x).square().sum().item())
        optimizer.zero_grad()
        (0 * value).sum().backward()
        optimizer.step()
    quantizer.observe(x)
    assert errors[-1] < 0.7 * errors[0] and errors[-1] < 1.1 * (quantizer(x) - x).square().sum()


def test_ranges_have_the_least_error_of_the_factors_that_are_searched():
    x = rows(sign=False)
    quantizer = mixed(x, bits=(1, 2, 3, 4))
    group, values, _ = by_hand(quantizer, x)
    found = [(values - x)[group == k].square().sum() for k in range(4)]
    best = [math.inf] * 4
    for alpha in alpha_candidates():
        quantizer.log_alpha.data.fill_(math.log(alpha))
        _, values, _ = by_hand(quantizer, x)
        best = [min(old, (values - x)[group == k].square().sum()) for k, old in enumerate(best)]
    torch.testing.assert_close(torch.stack(found), torch.stack(best), rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", ["minmax", "percentile"])
def test_other_observers(kind):
    x, quantizer = rows(), GroupQuantizer(4, groups=3)
    quantizer.observer = type(quantizer.observer)(kind, 80.0)
    quantizer.observe(x)
    shares = x.abs() / x.abs().amax(1, keepdim=True)
    expected = 1.0 if kind == "minmax" else torch.quantile(shares, 0.8).item()
    assert quantizer.log_alpha.exp().tolist() == pytest.approx([expected] * 3)


def test_limits_follow_batches_in_training_and_dropout_leaves_them():
    """Towards the quantiles of what comes, a tenth of the way each time; not in evaluation."""
    x, generator = rows(1000, 200, sign=False), torch.Generator().manual_seed(0)
    quantizer = mixed(x)
    first = quantizer.limits.clone()
    torch.testing.assert_close(first, torch.quantile(x.mean(1), torch.tensor([0.25, 0.5, 0.75])))
    quantizer(3 * x)
    assert torch.equal(quantizer.limits, first)
    quantizer.train()(3 * x)
    torch.testing.assert_close(quantizer.limits, 1.2 * first)
    for _ in range(30):
        quantizer(2 * x * (torch.rand(x.shape, generator=generator) < 0.5))
    torch.testing.assert_close(quantizer.limits, first, rtol=0.02, atol=0)


def test_errors_are_those_of_each_width():
    """Of every group at every width, measured with the quantiser at that; it stays as it was."""
    x = rows(sign=False)
    quantizer = mixed(x)
    before, errors = quantizer(x), quantizer.errors(x)
    assert torch.equal(quantizer(x), before) and errors.shape == (5, 4)
    for row, bits in zip(errors, (1, 2, 3, 4, 8)):
        own = mixed(x, bits=(bits,) * 4)
        error = (own(x) - x).square().sum(1)
        expected = torch.stack([error[own.qparams(x).group == k].sum() for k in range(4)]) / x.square().sum()
        torch.testing.assert_close(row, expected.detach())


def test_rows_of_zeros_and_of_one_magnitude():
    for x in (torch.zeros(5, 4), torch.ones(5, 4), torch.tensor([[0.0, 0.0], [3.0, 1.0]])):
        quantizer = mixed(x)
        assert torch.isfinite(quantizer(x)).all() and torch.equal(quantizer(0 * x), 0 * x)
        assert torch.equal(torch.from_numpy(quantizer.export().code(x.numpy()).values()), quantizer(x).detach())
    assert quantizer(torch.zeros(0, 2)).shape == (0, 2)


def test_bits_of_groups_outlive_being_switched_off_and_go_with_the_state():
    x = rows()
    quantizer = mixed(x)
    own, quantizer.format = quantizer.format, QFormat(32)
    assert quantizer.format.is_float and quantizer(x) is x
    quantizer.format = own
    assert quantizer.bits.tolist() == [1, 4, 2, 8] and own.bits == 8
    again = GroupQuantizer(2, groups=4)
    again.load_state_dict(quantizer.state_dict())
    assert torch.equal(again(x), quantizer(x))
    quantizer.format = QFormat(2)
    assert quantizer.bits.tolist() == [2] * 4
    with pytest.raises(RuntimeError, match="has groups 5, the state holds groups 4"):
        GroupQuantizer(2, groups=5).load_state_dict(quantizer.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 1}, "2 to 256 groups of nodes, got 1"),
        ({"groups": 257}, "got 257"),
        ({"groups": True}, "got True"),
        ({"groups": 2.0}, "got 2.0"),
        ({"grid": "sign"}, "a grid of auto, affine, half, got 'sign'"),
        ({"granularity": "row"}, "granularity 'group', got 'row'"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        GroupQuantizer(2, **options)


def test_what_is_not_calibrated_and_what_has_no_groups():
    with pytest.raises(NotCalibratedError):
        GroupQuantizer(2).export()
    with pytest.raises(ValueError, match="that of GroupQuantizer"):
        QLRQuantizer(2, granularity="group")
