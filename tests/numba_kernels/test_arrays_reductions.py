"""Functions over dimensions against torch."""

import numpy as np
import pytest
import torch

from numba_kernels import GraphError
from numba_kernels.arrays import FUNCTIONS

from .arrays import assert_agrees, bools, floats, ints

DIMS = [None, 0, 1, -1, [0], [0, 2], [-1, 0]]
ONE_DIM = [0, 1, -1]


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("dim", DIMS)
def test_over_any_dimensions(dim, keepdim):
    x = floats(4, 3, 5)
    for name in ("sum", "mean", "std", "var"):
        assert_agrees(name, getattr(torch, name), x, dim, keepdim=keepdim)
    for name in ("amax", "amin"):
        assert_agrees(name, getattr(torch, name), x, [] if dim is None else dim, keepdim)
    assert_agrees("sum", torch.sum, ints(4, 3, 5), dim, keepdim=keepdim)
    assert_agrees("sum", torch.sum, bools(4, 3, 5), dim, keepdim=keepdim)
    assert_agrees("var", torch.var, x, dim, keepdim=keepdim, correction=0)
    if dim is not None:
        assert_agrees("std", torch.std, x, dim, False, keepdim)
        assert_agrees("logsumexp", torch.logsumexp, x, dim, keepdim)
        for p in (2, 1, 0, 3.0, np.inf, -np.inf):
            assert_agrees("norm", torch.norm, x, p, dim, keepdim)
        for name in ("any", "all"):
            assert_agrees(name, getattr(torch, name), bools(4, 3, 5), dim, keepdim)


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("dim", ONE_DIM)
def test_over_one_dimension(dim, keepdim):
    different = np.random.default_rng(0).permutation(60).reshape(4, 3, 5)
    for x in (floats(4, 3, 5), different):
        for name in ("max", "min"):
            assert_agrees(name, getattr(torch, name), x, dim, keepdim)
        for name in ("argmax", "argmin"):
            assert_agrees(name, getattr(torch, name), x, dim, keepdim)
        assert_agrees("prod", torch.prod, x, dim, keepdim)
    for name in ("softmax", "log_softmax"):
        assert_agrees(name, getattr(torch, name), floats(4, 3, 5) * 20, dim)
    for name in ("cumsum", "cumprod"):
        assert_agrees(name, getattr(torch, name), floats(4, 3, 5), dim)
        assert_agrees(name, getattr(torch, name), ints(4, 3, 5), dim)


def test_over_everything():
    x = floats(4, 3)
    for name in ("sum", "mean", "std", "var", "max", "min", "prod", "argmax", "argmin", "norm"):
        assert_agrees(name, getattr(torch, name), x)
    for name in ("any", "all"):
        assert_agrees(name, getattr(torch, name), bools(4, 3))
    assert_agrees("count_nonzero", torch.count_nonzero, ints(4, 3))
    assert_agrees("count_nonzero", torch.count_nonzero, ints(4, 3), 1)
    assert_agrees("norm", torch.norm, x, "fro")


def test_nothing_to_reduce():
    none = floats(0, 3)
    assert_agrees("sum", torch.sum, none, 0)
    assert_agrees("mean", torch.mean, none, 0)
    assert_agrees("sum", torch.sum, none)
    assert_agrees("softmax", torch.softmax, none, 0)
    assert_agrees("softmax", torch.softmax, none, 1)
    assert_agrees("prod", torch.prod, none, 0)
    with pytest.raises(GraphError, match=r"max\(float32 \(0, 3\), 0\) cannot be computed"):
        FUNCTIONS["max"](none, 0)


def test_dtypes_that_are_asked_for():
    assert FUNCTIONS["mean"](ints(4), dtype="float32")[0] == np.float32(ints(4).mean())
    assert FUNCTIONS["sum"](bools(9), dtype="float32")[0].dtype == np.float32
    assert FUNCTIONS["softmax"](ints(4), 0, dtype="float32")[0].dtype == np.float32


@pytest.mark.parametrize("name", ["mean", "std", "var", "norm"])
def test_means_of_integers_are_refused(name):
    with pytest.raises(GraphError, match=rf"{name}\(int64 \(4,\)\) .* floating point numbers, got int64; convert"):
        FUNCTIONS[name](ints(4))


def test_sums_are_accumulated_in_float64():
    x = floats(200_000, 2) + np.float32(100)
    (total,) = FUNCTIONS["sum"](x, 0)
    np.testing.assert_array_equal(total, x.sum(0, dtype=np.float64).astype(np.float32))


def test_softmax_of_masked_scores():
    x = np.array([[1, -np.inf, 2], [-np.inf, -np.inf, 0]], np.float32)
    assert_agrees("softmax", torch.softmax, x, 1)
    assert_agrees("logsumexp", torch.logsumexp, x, 0)
