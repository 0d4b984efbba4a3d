"""Functions of numbers and activations against torch."""

import operator

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from numba_kernels import GraphError
from numba_kernels.arrays import FUNCTIONS
from numba_kernels.spec import FixedGrid

from .arrays import assert_agrees, bools, floats, ints

PAIRS = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv,
    "maximum": torch.maximum, "minimum": torch.minimum, "eq": operator.eq, "ne": operator.ne, "lt": operator.lt,
    "le": operator.le, "gt": operator.gt, "ge": operator.ge, "logical_and": torch.logical_and,
    "logical_or": torch.logical_or, "logical_xor": torch.logical_xor,
}  # fmt: skip
OPERANDS = {
    "floats": floats(4, 3),
    "row": floats(3, seed=1),
    "column": floats(4, 1, seed=2),
    "whole": ints(4, 3),
    "bools": bools(4, 3),
    "none of them": floats(0, 3),
    "one number": np.array(2.5, np.float32),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("one", OPERANDS)
def test_functions_of_two(name, one):
    for other in ("floats", "row", "column", "whole", "bools", "one number"):
        operands = OPERANDS[one], OPERANDS[other]
        fit = one != "none of them" or len(np.atleast_2d(OPERANDS[other])) == 1
        if fit and not (name == "sub" and "bools" in (one, other)):
            assert_agrees(name, PAIRS[name], *operands)


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "eq", "ne", "lt", "le", "gt", "ge"])
@pytest.mark.parametrize("number", [2, -0.5, True, 1e30])
@pytest.mark.parametrize("array", ["floats", "whole", "bools"])
def test_numbers_have_the_dtype_torch_gives_them(name, number, array):
    if name == "sub" and (array == "bools" or number is True):
        return
    assert_agrees(name, PAIRS[name], OPERANDS[array], number)
    assert_agrees(name, PAIRS[name], number, OPERANDS[array])


SINGLES = {
    "exp": 0, "expm1": 0, "sin": 0, "cos": 0, "tan": 0, "sinh": 0, "cosh": 0, "tanh": 0, "atan": 0, "log": 1,
    "log1p": 1,
    "log2": 1, "log10": 1, "sqrt": 1, "rsqrt": 1, "reciprocal": 1, "asin": 2, "acos": 2, "floor": 0, "ceil": 0,
    "trunc": 0, "square": 0, "isnan": 0, "isinf": 0, "isfinite": 0, "neg": 0, "abs": 0, "sign": 0, "logical_not": 0,
    "clone": 0, "frac": 0, "erf": 0, "round": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", SINGLES)
def test_functions_of_one(name):
    x = floats(5, 7) * 3
    x = {0: x, 1: np.abs(x) + np.float32(0.1), 2: np.clip(x / 10, -1, 1)}[SINGLES[name]]
    assert_agrees(name, getattr(torch, name), x)
    if SINGLES[name] != 2 and name not in ("frac",):
        assert_agrees(name, getattr(torch, name), ints(6, low=1))


def test_functions_of_one_at_their_edges():
    x = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1e-40, 3e38, -1], np.float32)
    for name in ("exp", "log", "sqrt", "rsqrt", "reciprocal", "isnan", "isinf", "isfinite", "sign", "abs", "tanh"):
        assert_agrees(name, getattr(torch, name), x)
    assert_agrees("nan_to_num", torch.nan_to_num, x)
    assert_agrees("nan_to_num", torch.nan_to_num, x, 1.0, 2.0, 3.0)


@pytest.mark.parametrize("mode", [None, "trunc", "floor"])
def test_divisions(mode):
    for one, other in ((floats(6), 0.3), (ints(6), 3), (ints(6), ints(6, low=1, seed=3)), (7, ints(6, low=1))):
        assert_agrees("div", torch.div, np.asarray(one), other, rounding_mode=mode)
    assert_agrees("floor_divide", operator.floordiv, ints(9), -2)
    assert_agrees("remainder", torch.remainder, ints(9), -3)
    assert_agrees("remainder", torch.remainder, floats(9), 0.7)
    assert_agrees("fmod", torch.fmod, ints(9), -3)
    with pytest.raises(GraphError, match="integers are divided by 0"):
        FUNCTIONS["floor_divide"](ints(3), 0)


def test_arithmetic_with_options():
    assert_agrees("add", torch.add, floats(3, 2), floats(2, seed=1), alpha=2)
    assert_agrees("sub", torch.sub, floats(3, 2), floats(2, seed=1), alpha=0.5)
    for exponent in (2, 0.5, 3.0, -1):
        assert_agrees("pow", torch.pow, np.abs(floats(5)) + 1, exponent)
    assert_agrees("pow", torch.pow, 2, floats(5))
    assert_agrees("pow", torch.pow, ints(4), 2)
    assert_agrees("atan2", torch.atan2, floats(5), floats(5, seed=1))
    assert_agrees("round", torch.round, floats(5), decimals=2)
    assert_agrees("lerp", torch.lerp, floats(5), floats(5, seed=1), 0.3)
    for name in ("addcmul", "addcdiv"):
        assert_agrees(name, getattr(torch, name), floats(5), floats(5, seed=1), floats(5, seed=2) + 9, value=0.5)
    assert_agrees("isclose", torch.isclose, floats(5), floats(5) + np.float32(1e-9))


def test_choices():
    x, mask = floats(4, 3), bools(4, 3)
    assert_agrees("clamp", torch.clamp, x, -0.5, 0.5)
    assert_agrees("clamp", torch.clamp, x, max=0.1)
    assert_agrees("clamp", torch.clamp, ints(9), 0, 2)
    assert_agrees("clamp", torch.clamp, x, floats(3), None)
    assert_agrees("clamp_min", torch.clamp_min, x, 0.2)
    assert_agrees("clamp_max", torch.clamp_max, x, 0.2)
    assert_agrees("where", torch.where, mask, x, 0.0)
    assert_agrees("where", torch.where, mask, x, ints(4, 3))
    assert_agrees("where", torch.where, mask[:, :1], x, floats(3, seed=1))
    assert_agrees("masked_fill", lambda x, m, v: x.masked_fill(m, v), x, mask, -np.inf)
    assert_agrees("masked_fill", lambda x, m, v: x.masked_fill(m, v), ints(4, 3), mask[:, :1], 7)
    for name in ("bitwise_and", "bitwise_or", "bitwise_xor"):
        assert_agrees(name, getattr(torch, name), mask, bools(4, 3, seed=1))
        assert_agrees(name, getattr(torch, name), ints(5), 3)
    assert_agrees("bitwise_not", torch.bitwise_not, mask)
    with pytest.raises(GraphError, match=r"where\(float32 \(4, 3\), 1, 2\) cannot .* chooses by bools, got float32"):
        FUNCTIONS["where"](x, 1, 2)
    with pytest.raises(GraphError, match="mask of bools"):
        FUNCTIONS["masked_fill"](x, x, 2)


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
def test_conversions(dtype):
    for x in (floats(9) * 3, ints(9), bools(9)):
        assert_agrees("to", lambda x, dtype: x.to(getattr(torch, dtype)), x, dtype)


ACTIVATIONS = {
    "relu": F.relu, "relu6": F.relu6, "selu": F.selu, "sigmoid": torch.sigmoid, "logsigmoid": F.logsigmoid,
    "silu": F.silu, "mish": F.mish, "softsign": F.softsign, "tanhshrink": F.tanhshrink, "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish, "gelu": F.gelu, "leaky_relu": F.leaky_relu, "elu": F.elu, "celu": F.celu,
    "softplus": F.softplus, "hardshrink": F.hardshrink, "softshrink": F.softshrink, "hardtanh": F.hardtanh,
    "glu": F.glu,
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    for x in (floats(5, 8) * 4, np.array([-200, -30, -1e-3, 0, 1e-3, 30, 200, 0.5], np.float32), floats(2, 3, 4)):
        assert_agrees(name, ACTIVATIONS[name], x)


def test_activations_with_parameters():
    x = floats(6, 4) * 3
    for slope in (0.2, -0.5, 3.0):
        assert_agrees("leaky_relu", F.leaky_relu, x, slope)
        assert_agrees("elu", F.elu, x, slope)
    assert_agrees("celu", F.celu, x, 0.3)
    assert_agrees("gelu", F.gelu, x, approximate="tanh")
    assert_agrees("softplus", F.softplus, x, 3.0, 5.0)
    assert_agrees("hardtanh", F.hardtanh, x, -2.0, 0.5)
    assert_agrees("hardshrink", F.hardshrink, x, 1.0)
    assert_agrees("softshrink", F.softshrink, x, 1.0)
    assert_agrees("threshold", F.threshold, x, 0.1, 20.0)
    assert_agrees("glu", F.glu, x, 0)
    assert_agrees("relu", F.relu, ints(5))
    for weight in (floats(1), floats(4, seed=1)):
        assert_agrees("prelu", F.prelu, x, weight)
    assert_agrees("prelu", F.prelu, floats(2, 4, 3), floats(4))
    with pytest.raises(GraphError, match="glu halves dimension 0, which has 5"):
        FUNCTIONS["glu"](floats(5), 0)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_fake_quantize_gives_the_values_of_codes(bits):
    rng = np.random.default_rng(bits)
    values = rng.normal(size=(50, 6)).astype(np.float32)
    grid = FixedGrid(bits, rng.uniform(0.1, 0.5, 6), rng.normal(size=6), rng.normal(size=6), 6)
    codes = grid.code(values)
    numbers = (grid.scale, grid.zero_point, grid.offset)
    (got,) = FUNCTIONS["fake_quantize"](values, *numbers, grid.top)
    np.testing.assert_array_equal(got, (codes.codes.astype(np.float32) - codes.zero) * codes.scale)
    values[3, 2] = np.nan
    with pytest.raises(GraphError, match="numbers that are coded must be finite"):
        FUNCTIONS["fake_quantize"](values, *numbers, grid.top)


def test_require_names_what_it_asks():
    assert FUNCTIONS["require"](np.array(True), True, "any")[0]
    with pytest.raises(GraphError, match=r"frozen for graphs where \(degree\) meets 3, here it meets 4"):
        FUNCTIONS["require"](np.array(4), 3, "degree")
