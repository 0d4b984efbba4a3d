"""Array functions, compared with torch's."""

import numpy as np
import torch

from numba_kernels.arrays import FUNCTIONS


def to_torch(tree):
    if isinstance(tree, np.ndarray):
        return torch.from_numpy(tree.copy())
    return [to_torch(part) for part in tree] if isinstance(tree, list) else tree


def results(tree):
    return [part.numpy() for part in (tree if isinstance(tree, (tuple, list)) else (tree,))]


def assert_agrees(name, torch_function, *args, rtol=2e-6, atol=2e-6, **kwargs):
    """The function called ``name`` gives what torch's gives, dtypes and shapes too, and leaves its arguments alone."""
    arrays = [arg for arg in args if isinstance(arg, np.ndarray)]
    before = [array.copy() for array in arrays]
    expected = results(torch_function(*map(to_torch, args), **{key: to_torch(arg) for key, arg in kwargs.items()}))
    got = FUNCTIONS[name](*args, **kwargs)
    assert len(got) == len(expected)
    for one, other in zip(got, expected):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_allclose(one, other, rtol, atol)
    for array, kept in zip(arrays, before):
        np.testing.assert_array_equal(array, kept)


def floats(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def ints(*shape, low=-5, high=6, seed=0):
    return np.random.default_rng(seed).integers(low, high, shape)


def bools(*shape, seed=0):
    return np.random.default_rng(seed).integers(2, size=shape).astype(bool)
