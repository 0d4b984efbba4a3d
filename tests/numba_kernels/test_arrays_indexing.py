"""Functions that choose by index against torch, and indices that do not fit."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from numba_kernels import GraphError
from numba_kernels.arrays import FUNCTIONS

from .arrays import assert_agrees, bools, floats, ints

X = floats(5, 4, 3)
PLACES = np.array([3, 0, 0, 4])
KEYS = [
    2, -1, slice(1, 4), slice(None, None, 2), slice(-3, -1), None, "...", PLACES, bools(5), bools(5, 4),
    np.array([-1, 0]), [2, 1], [slice(None), 2], ["...", 0], [None, 2, "..."], [slice(1, 3), PLACES[:2]],
    [PLACES, slice(None), 1], [PLACES, slice(None), PLACES % 3], [slice(None), [0, 2]], [bools(5), 1],
    [PLACES[:, None], np.array([0, 1])],
]  # fmt: skip


def as_torch(part):
    if isinstance(part, list):
        return torch.tensor(part)
    if isinstance(part, str):
        return ...
    return torch.from_numpy(part.copy()) if isinstance(part, np.ndarray) else part


def torch_key(key):
    return tuple(map(as_torch, key)) if isinstance(key, list) else as_torch(key)


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_getitem_and_setitem(key):
    expected = torch.from_numpy(X)[torch_key(key)].numpy()
    (got,) = FUNCTIONS["getitem"](X, key)
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == expected.dtype and got.shape == expected.shape
    if key is not None:
        changed = torch.from_numpy(X.copy())
        changed[torch_key(key)] = 7.0
        np.testing.assert_array_equal(FUNCTIONS["setitem"](X, key, 7.0)[0], changed.numpy())


@pytest.mark.parametrize("key", [5, -6, np.array([0, 5]), [0, 4], [0, 0, 0, 0], bools(4), floats(5)], ids=repr)
def test_indices_that_do_not_fit(key):
    with pytest.raises(GraphError, match=r"getitem\(float32 \(5, 4, 3\), .*\) cannot be computed"):
        FUNCTIONS["getitem"](X, key)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_along_a_dimension(dim):
    size = X.shape[dim]
    index = ints(*X.shape, low=0, high=size)
    shorter = index[:2, :3, :2]
    assert_agrees("gather", torch.gather, X, dim, index)
    assert_agrees("gather", torch.gather, X, dim, shorter)
    assert_agrees("scatter_add", torch.scatter_add, X, dim, shorter, floats(5, 4, 3, seed=1))
    assert_agrees("scatter", torch.scatter, X, dim, shorter, 2.5)
    for reduce in ("sum", "prod", "mean", "amax", "amin"):
        for include_self in (True, False):
            assert_agrees("scatter_reduce", torch.scatter_reduce, X, dim, index, floats(5, 4, 3, seed=1), reduce,
                          include_self=include_self)  # fmt: skip
    places = np.array([0, size - 1, 0])
    assert_agrees("index_select", torch.index_select, X, dim, places)
    source = np.take(floats(5, 4, 3, seed=2), places, dim)
    assert_agrees("index_add", torch.index_add, X, dim, places, source)
    assert_agrees("index_add", torch.index_add, X, dim, places, source, alpha=2)
    assert_agrees("index_copy", torch.index_copy, X, dim, places[:2], np.take(source, [0, 1], dim))
    assert_agrees("index_fill", torch.index_fill, X, dim, places, 4.0)


def test_scatter_of_an_array():
    index = np.array([[0, 1, 2], [2, 0, 1]])
    assert_agrees("scatter", torch.scatter, np.zeros((3, 3), np.float32), 0, index, floats(2, 3))


def test_lookups():
    ids = ints(4, 2, low=0, high=6)
    assert_agrees("embedding", F.embedding, ids, floats(6, 3))
    assert_agrees("one_hot", F.one_hot, ids)
    assert_agrees("one_hot", F.one_hot, ids, 8)
    assert_agrees("masked_select", torch.masked_select, floats(4, 3), bools(4, 1))
    assert_agrees("nonzero", torch.nonzero, bools(4, 3))
    assert_agrees("bincount", torch.bincount, ids.reshape(-1), minlength=9)
    assert_agrees("searchsorted", torch.searchsorted, np.sort(floats(9)), floats(4, seed=1))
    assert_agrees("searchsorted", torch.searchsorted, np.arange(9), ints(4), right=True)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("index_select", (X, 0, np.array([5]))),
        ("index_select", (X, 0, np.array([-1]))),
        ("index_select", (X, 0, np.array([0.5], np.float32))),
        ("gather", (X, 1, np.full((5, 4, 3), 4))),
        ("gather", (X, 1, np.zeros((6, 4, 3), np.int64))),
        ("gather", (X, 1, np.zeros(3, np.int64))),
        ("scatter_add", (X, 1, np.full((5, 4, 3), -1), X)),
        ("scatter_reduce", (X, 1, np.full((5, 4, 3), 9), X, "amax")),
        ("index_add", (X, 0, np.array([9]), X[:1])),
        ("index_copy", (X, 0, np.array([-1]), X[:1])),
        ("index_fill", (X, 0, np.array([9]), 1.0)),
        ("embedding", (np.array([-1]), X)),
        ("embedding", (np.array([5]), X)),
        ("one_hot", (np.array([3]), 3)),
        ("bincount", (np.array([-1]),)),
    ],
)
def test_indices_are_checked(name, args):
    with pytest.raises(GraphError, match=rf"{name}\(.* cannot be computed: (ind|an index)"):
        FUNCTIONS[name](*args)


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("descending", [False, True])
def test_orders(dim, descending):
    for x in (X, ints(5, 4, 3, low=0, high=3)):
        stable = {"dim": dim, "descending": descending, "stable": True}
        assert_agrees("sort", torch.sort, x, **stable)
        assert_agrees("argsort", torch.argsort, x, **stable)
    for k in (0, 1, 3):
        assert_agrees("topk", torch.topk, X, k, dim, descending)
    with pytest.raises(GraphError, match="the first 9 of"):
        FUNCTIONS["topk"](X, 9, dim)


def test_order_of_nan():
    x = np.array([1, np.nan, -2, np.inf], np.float32)
    for descending in (False, True):
        assert_agrees("sort", torch.sort, x, descending=descending)
