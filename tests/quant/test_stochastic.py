"""Gradients rounded by chance: without bias, alike in every pass, and to bytes whose sums are exact."""

import math

import numpy as np
import pytest
import torch

from dgl_lowbit.quant import fused_sums, passes
from dgl_lowbit.quant.format import QParams
from dgl_lowbit.quant.stochastic import chances, grid_of, new_seed, rounded


def drawn(rows=40, columns=7):
    """Columns of very different sizes, one without negative numbers, one without any but 0."""
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1)) * 10.0 ** torch.arange(-3, columns - 3)
    x[:, 1], x[:, 2] = x[:, 1].abs(), 0
    x[::3] = 0
    return x


def test_the_mean_is_what_was_rounded():
    """Of S seeds: a rounding's variance is f (1 − f) step² ≤ step² / 4, f being the fraction rounded up by chance."""
    x, seeds = drawn(), 1000
    step = grid_of(x.amin(0), x.amax(0)).step.double()
    errors = torch.stack([rounded(x, torch.tensor(97 * seed)).double() - x for seed in range(seeds)])
    assert (errors.abs() <= step * (1 + 1e-5)).all()
    assert (errors.mean(0).abs() <= 6 * step / (2 * math.sqrt(seeds))).all()
    # Errors of a column's numbers are independent: of their sum, the variance is the sum of variances.
    fraction = (x.double() / step).frac().abs().nan_to_num()
    expected, found = (fraction * (1 - fraction)).sum(0) * step**2, errors.sum(1).var(0)
    assert (found[2] == 0) and ((found / expected)[expected > 0] - 1).abs().max() < 6 * math.sqrt(2 / seeds)


def test_zero_stays_zero_and_all_codes_are_bytes():
    x = drawn()
    for seed in range(50):
        assert (rounded(x, torch.tensor(seed))[x == 0] == 0).all()
    grid = grid_of(x.amin(0), x.amax(0))
    codes = (x * grid.inverse).floor() + grid.zero
    assert (codes.amin(0) >= 0).all() and (codes.amax(0) + 1 <= 255).all()
    for size in (3e38, 1e-30, 1e-44):
        ends = torch.tensor([-size]), torch.tensor([size])
        inverse, step, zero = grid_of(*ends)
        assert (ends[0] * inverse).floor() + zero >= 0 and (ends[1] * inverse).floor() + 1 + zero <= 255
        assert step.isfinite() and inverse.isfinite()


def test_chances_are_even():
    """In sixteen bins, chi² of fifteen degrees of freedom, and in pairs of neighbours."""
    drawn = chances(torch.Size([1 << 16]), torch.tensor(12345))
    assert drawn.min() >= 0 and drawn.max() < 1
    bins = (drawn * 16).long()
    for counts in (torch.bincount(bins, minlength=16), torch.bincount(16 * bins[:-1] + bins[1:], minlength=256)):
        expected = counts.sum() / len(counts)
        chi2 = ((counts - expected) ** 2 / expected).sum()
        assert abs(chi2 - (len(counts) - 1)) < 5 * math.sqrt(2 * (len(counts) - 1))


def test_seeds_are_those_of_the_generator():
    torch.manual_seed(3)
    first, second = new_seed(), new_seed()
    torch.manual_seed(3)
    assert first == new_seed() and first != second and 0 <= first < 1 << 32


@pytest.mark.parametrize("columns", [1, 16, 40, 130])
def test_bytes_are_those_of_the_plain_function(columns):
    grad = drawn(2500, 7).repeat(1, 19)[:, :columns]
    grad[5, columns // 2], grad[9, 0] = torch.nan, -torch.inf
    after, seed = torch.rand(2500) + 0.1, torch.tensor(3_000_000_000)
    expected = rounded(grad * after.view(-1, 1), seed)
    packed, zero, step = fused_sums.packed_gradients(grad.contiguous(), after, seed)
    assert packed.dtype == np.uint8
    found = (torch.from_numpy(packed[:, :columns]) - torch.from_numpy(zero)) * torch.from_numpy(step)
    assert expected[:, 0].isnan().all() and (columns < 2 or not expected.isnan().all())
    assert torch.equal(found.nan_to_num(nan=-1e30), expected.nan_to_num(nan=-1e30))


@pytest.mark.slow
def test_a_sum_of_more_bytes_than_32_bits_hold_is_exact():
    """Of a node of so many out-neighbours that their codes, 254 each, sum to more than 2³¹."""
    edges = (1 << 23) + (1 << 18)
    graph = passes.kernels().prepare(np.array([0, edges]), np.ones(edges, np.int32), 2)
    grad, x, one = torch.tensor([[-1e-9], [1.0]]), torch.zeros(1, 1), torch.ones(())
    params, found = QParams(torch.ones(1), torch.zeros(1), torch.zeros(1)), torch.empty(1, 1)
    fused_sums.gradients_of_sum(graph, grad, one, x, one, params, 3, -1.0, 4.0, found, True, torch.tensor(0))
    step = grid_of(*grad.aminmax(dim=0)).step
    assert abs(found / edges - 1) <= step + 1e-6


def test_numbers_of_one_dimension_are_a_column():
    x = drawn()[0].flatten() if isinstance(drawn(), tuple) else drawn().flatten()
    torch.testing.assert_close(rounded(x, torch.tensor(5)), rounded(x[:, None], torch.tensor(5))[:, 0])
