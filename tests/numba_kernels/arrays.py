"""Array functions, compared with torch's, and plans that call them."""

import numpy as np
import torch

from numba_kernels import PackedModel, Plan
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


def call(plan, function, *args, out=None, **kwargs):
    """Add a call whose arguments are trees; returns the value it writes, or as many as ``out`` says."""
    values = []

    def walk(tree):
        if isinstance(tree, dict):
            values.extend(tree[key] for key in ("value", "graph") if key in tree)
            walk([*tree.get("slice", ()), tree.get("size")])
        elif isinstance(tree, (list, tuple)):
            for part in tree:
                walk(part)

    walk([args, list(kwargs.values())])
    value = plan.add("call", *dict.fromkeys(values), function=function, args=list(args), kwargs=kwargs)
    if out is None:
        return value
    plan.ops[-1]["out"] = [value * 1000 + n for n in range(out)]
    return plan.ops[-1]["out"]


def call_value(value):
    """A value as an argument."""
    return {"value": value}


def size_of(value, axis=0):
    """The rows of a value as a size."""
    return {"of": "rows", "value": value, "axis": axis}


def model_of(plan, kinds, *outputs, optional=()):
    inputs = [{"name": f"x{v}", "kind": k, "value": v, "optional": k in optional} for v, k in enumerate(kinds)]
    return PackedModel(Plan(inputs, plan.ops, list(outputs), plan.arrays, returns="tuple"))
