"""Functions of shapes against torch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from numba_kernels import GraphError
from numba_kernels.arrays import FUNCTIONS

from .arrays import assert_agrees, bools, floats, ints

T = torch.Tensor


def test_views():
    x = floats(4, 6, 5)
    assert_agrees("reshape", T.reshape, x, 4, -1)
    assert_agrees("reshape", T.reshape, x, [2, 2, 30])
    assert_agrees("reshape_as", T.reshape_as, x, floats(8, 15))
    assert_agrees("expand_as", T.expand_as, floats(5), x)
    for dims in ((), (1,), (0, 1), (-2, -1)):
        assert_agrees("flatten", T.flatten, x, *dims)
    assert_agrees("flatten", T.flatten, np.array(3.0, np.float32))
    for sizes in ([2, 3], [-1, 2]):
        assert_agrees("unflatten", T.unflatten, x, 1, sizes)
    for dim in (0, 1, -1):
        assert_agrees("unsqueeze", T.unsqueeze, x, dim)
        assert_agrees("squeeze", T.squeeze, floats(1, 3, 1), dim)
    assert_agrees("squeeze", T.squeeze, floats(1, 3, 1))
    assert_agrees("transpose", T.transpose, x, 0, -1)
    assert_agrees("t", T.t, floats(3, 2))
    assert_agrees("t", T.t, floats(3))
    assert_agrees("permute", T.permute, x, 2, 0, 1)
    assert_agrees("permute", T.permute, x, [0, -1, 1])
    assert_agrees("movedim", T.movedim, x, 0, 2)
    assert_agrees("flip", T.flip, x, 0, 2)
    assert_agrees("roll", T.roll, x, 2, 1)
    assert_agrees("roll", T.roll, x, 3)
    assert_agrees("narrow", T.narrow, x, 1, 2, 3)
    assert_agrees("select", T.select, x, 1, -2)
    assert_agrees("diagonal", T.diagonal, x, 1)
    assert_agrees("diag", torch.diag, floats(3), -1)
    assert_agrees("diag", torch.diag, floats(3, 4), 1)
    assert_agrees("expand", T.expand, floats(4, 1), 2, -1, 3)
    with pytest.raises(GraphError, match=r"reshape\(float32 \(4, 6, 5\), 7, -1\) cannot be computed"):
        FUNCTIONS["reshape"](x, 7, -1)
    with pytest.raises(GraphError, match="rows 4 to 7 of 6"):
        FUNCTIONS["narrow"](x, 1, 4, 3)
    with pytest.raises(GraphError, match="use transpose"):
        FUNCTIONS["t"](x)


def test_joins():
    for dim in (0, 1, -1):
        assert_agrees("cat", torch.cat, [floats(4, 3), floats(4, 3, seed=1)], dim)
        assert_agrees("stack", torch.stack, [floats(4, 3), floats(4, 3, seed=1)], dim)
    assert_agrees("cat", torch.cat, [floats(4, 3), ints(2, 3)])
    assert_agrees("cat", torch.cat, [ints(2, 3), bools(2, 3)])
    assert_agrees("cat", torch.cat, [floats(0), floats(2, 3)])
    with pytest.raises(GraphError, match=r"cat\(\[float32 \(4, 3\), float32 \(4, 2\)\]\) cannot be computed"):
        FUNCTIONS["cat"]([floats(4, 3), floats(4, 2)])


def test_parts():
    x = floats(7, 4)
    for sizes in (2, 7, 9, [3, 4], [0, 7]):
        assert_agrees("split", torch.split, x, sizes)
    assert_agrees("split", torch.split, x, 3, 1)
    for chunks in (1, 2, 3, 4, 5, 9):
        assert_agrees("chunk", torch.chunk, x, chunks)
        assert_agrees("chunk", torch.chunk, x, chunks, -1)
    assert_agrees("unbind", torch.unbind, x)
    assert_agrees("unbind", torch.unbind, x, 1)
    with pytest.raises(GraphError, match=r"sections \[3, 3\] of 7"):
        FUNCTIONS["split"](x, [3, 3])


def test_copies():
    x = floats(3, 2)
    assert_agrees("repeat", T.repeat, x, 2, 3)
    assert_agrees("repeat", T.repeat, x, [4, 1, 2])
    assert_agrees("tile", torch.tile, x, [2])
    for dim in (None, 0, 1):
        assert_agrees("repeat_interleave", torch.repeat_interleave, x, 3, dim)
    assert_agrees("repeat_interleave", torch.repeat_interleave, x, np.array([0, 2, 1]), 0)
    assert_agrees("pad", F.pad, x, [1, 2])
    assert_agrees("pad", F.pad, floats(2, 3, 4), [0, 1, 2, 0], "constant", 5.0)
    for name in ("tril", "triu"):
        assert_agrees(name, getattr(torch, name), floats(4, 4), 1)
    for bad in (np.array([-1, 2, 1]), floats(3)):
        with pytest.raises(GraphError, match="repeat_interleave"):
            FUNCTIONS["repeat_interleave"](x, bad, 0)


def test_arrays_of_a_shape():
    for name in ("zeros", "ones"):
        assert_agrees(name, getattr(torch, name), 3, 2)
        assert_agrees(name, getattr(torch, name), [3, 0])
        assert_agrees(f"{name}_like", getattr(torch, f"{name}_like"), ints(3))
        assert FUNCTIONS[name](4, dtype="bool")[0].dtype == np.bool_
    for number in (2, 0.5, True):
        assert_agrees("full", torch.full, [2, 3], number)
    assert_agrees("full_like", torch.full_like, floats(3), 7)
    for bounds in ((5,), (2, 9), (2, 9, 3), (0.0, 1.0, 0.25), (3, 0, -1)):
        assert_agrees("arange", torch.arange, *bounds)
    assert_agrees("linspace", torch.linspace, -1, 1, 7)
    assert_agrees("eye", torch.eye, 3)
    assert_agrees("eye", torch.eye, 3, 2)
    with pytest.raises(GraphError, match=r"zeros\(-1\) cannot be computed"):
        FUNCTIONS["zeros"](-1)
    with pytest.raises(GraphError, match="zeros"):
        FUNCTIONS["zeros"](2**62, 2**62)
