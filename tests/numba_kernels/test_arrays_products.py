"""Products, distances, norms, convolutions and recurrent cells against torch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from numba_kernels import GraphError
from numba_kernels.arrays import FUNCTIONS

from .arrays import assert_agrees, floats, ints

LOOSE = {"rtol": 2e-5, "atol": 2e-5}


def test_products():
    a, b = floats(4, 3), floats(3, 5, seed=1)
    assert_agrees("matmul", torch.matmul, a, b, **LOOSE)
    assert_agrees("matmul", torch.matmul, floats(2, 4, 3), b, **LOOSE)
    assert_agrees("matmul", torch.matmul, floats(3), b, **LOOSE)
    assert_agrees("mm", torch.mm, a, b, **LOOSE)
    assert_agrees("mm", torch.mm, ints(4, 3), ints(3, 2))
    assert_agrees("bmm", torch.bmm, floats(2, 4, 3), floats(2, 3, 5, seed=1), **LOOSE)
    assert_agrees("mv", torch.mv, a, floats(3), **LOOSE)
    assert_agrees("dot", torch.dot, floats(3), floats(3, seed=1), **LOOSE)
    assert_agrees("outer", torch.outer, floats(3), floats(4, seed=1))
    assert_agrees("linear", F.linear, floats(2, 4, 3), floats(5, 3), floats(5), **LOOSE)
    assert_agrees("linear", F.linear, a, floats(5, 3), **LOOSE)
    assert_agrees("bilinear", F.bilinear, a, floats(4, 2), floats(5, 3, 2), floats(5), **LOOSE)
    assert_agrees("addmm", torch.addmm, floats(5), a, b, beta=0.5, alpha=2.0, **LOOSE)
    assert_agrees("baddbmm", torch.baddbmm, floats(2, 4, 5), floats(2, 4, 3), floats(2, 3, 5), **LOOSE)
    for equation, shapes in {
        "nhd,nhd->nh": ((6, 2, 3), (6, 2, 3)),
        "nd,hde->nhe": ((6, 3), (2, 3, 4)),
        "bij,bjk,bkl->bil": ((2, 3, 4), (2, 4, 5), (2, 5, 3)),
        "ij->j": ((3, 4),),
        "... d, d -> ...": ((2, 3, 4), (4,)),
    }.items():
        assert_agrees("einsum", torch.einsum, equation, *(floats(*shape) for shape in shapes), **LOOSE)


def test_products_that_do_not_fit():
    for name, args in {
        "matmul": (floats(4, 3), floats(4, 3)),
        "mm": (floats(4, 3), floats(3)),
        "linear": (floats(4, 3), floats(5, 4)),
        "einsum": ("ij,jk->ik", floats(4, 3), floats(4, 3)),
    }.items():
        with pytest.raises(GraphError, match=rf"{name}\(.*float32 \(4, 3\).* cannot be computed"):
            FUNCTIONS[name](*args)
    with pytest.raises(GraphError, match="one dtype"):
        FUNCTIONS["matmul"](floats(4, 3), ints(3, 2))


def test_distances():
    a, b = floats(4, 3), floats(5, 3, seed=1)
    for p in (2.0, 1.0, float("inf")):
        assert_agrees("cdist", torch.cdist, a, b, p, **LOOSE)
    assert_agrees("cdist", torch.cdist, floats(2, 4, 3), floats(2, 5, 3, seed=1), **LOOSE)
    assert_agrees("pairwise_distance", F.pairwise_distance, a, b[:4], **LOOSE)
    assert_agrees("pairwise_distance", F.pairwise_distance, a, b[:4], 1.0, keepdim=True, **LOOSE)
    assert_agrees("cosine_similarity", F.cosine_similarity, a, b[:4])
    assert_agrees("cosine_similarity", F.cosine_similarity, a[:, None], b[None], dim=-1)
    assert_agrees("cosine_similarity", F.cosine_similarity, np.zeros_like(a), b[:4])


def test_norms():
    x, weight, bias = floats(4, 6, 5) * 3 + 1, floats(6, seed=1), floats(6, seed=2)
    assert_agrees("layer_norm", F.layer_norm, x, [5], floats(5), floats(5), **LOOSE)
    assert_agrees("layer_norm", F.layer_norm, x, [6, 5], eps=0.1, **LOOSE)
    assert_agrees("group_norm", F.group_norm, x, 3, weight, bias, **LOOSE)
    assert_agrees("group_norm", F.group_norm, x[:, :, 0], 2, weight, bias, **LOOSE)
    assert_agrees("instance_norm", F.instance_norm, x, **LOOSE)
    moments = floats(6, seed=3), np.abs(floats(6, seed=4)) + np.float32(0.1)
    assert_agrees("instance_norm", F.instance_norm, x, *moments, weight, bias, False, **LOOSE)
    for features in (x, x[:, :, 0]):
        assert_agrees("batch_norm", F.batch_norm, features, *moments, weight, bias, **LOOSE)
        assert_agrees("batch_norm", F.batch_norm, features, *moments, **LOOSE)
        assert_agrees("batch_norm", F.batch_norm, features, None, None, weight, bias, True, **LOOSE)
    for args in ((), (1.0, 2), (2.0, -1), (float("inf"), 0)):
        assert_agrees("normalize", F.normalize, x, *args)
    with pytest.raises(GraphError, match=r"the last dimensions are not \(6,\)"):
        FUNCTIONS["layer_norm"](x, 6)


@pytest.mark.parametrize("dims", [1, 2])
def test_convolutions_and_pooling(dims):
    x, weight, bias = floats(3, 4, *[9, 7][:dims]), floats(6, 4, *[3, 2][:dims], seed=1), floats(6)
    name = f"conv{dims}d"
    function = getattr(F, name)
    assert_agrees(name, function, x, weight, bias, **LOOSE)
    assert_agrees(name, function, x, weight, None, 2, 1, **LOOSE)
    assert_agrees(name, function, x, weight, bias, [1, 2][:dims], [2, 0][:dims], [2, 1][:dims], **LOOSE)
    assert_agrees(name, function, x, weight[:, :2], bias, groups=2, **LOOSE)
    pool = f"max_pool{dims}d"
    for args in ((2,), (3, 1), (3, 2, 1), ([2, 3][:dims],)):
        assert_agrees(pool, getattr(F, pool), x, *args)
    for function, args in ((name, (x, weight, None, 0)), (pool, (x, 99)), (pool, (x, 2, None, 0, 1, True))):
        with pytest.raises(GraphError, match=rf"{function}\(float32 \(3, 4, .* cannot be computed"):
            FUNCTIONS[function](*args)


@pytest.mark.parametrize(("name", "gates"), [("gru", 3), ("lstm", 4), ("rnn_tanh", 1), ("rnn_relu", 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_cells(name, gates, bias):
    x, h = floats(7, 4), floats(7, 3, seed=1)
    weights = [floats(gates * 3, 4, seed=2), floats(gates * 3, 3, seed=3)]
    weights += [floats(gates * 3, seed=4), floats(gates * 3, seed=5)] if bias else []
    state = [h, floats(7, 3, seed=6)] if name == "lstm" else h
    assert_agrees(f"{name}_cell", getattr(torch, f"{name}_cell"), x, state, *weights, **LOOSE)


@pytest.mark.parametrize("kind", ["gru", "lstm", "rnn_tanh", "rnn_relu"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [None, False, True])
def test_layers_of_cells(kind, bidirectional, batch_first):
    torch.manual_seed(0)
    module = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}.get(kind, torch.nn.RNN)
    options = {"nonlinearity": kind[4:]} if kind.startswith("rnn") else {}
    layer = module(4, 3, 2, batch_first=bool(batch_first), bidirectional=bidirectional, **options).eval()
    batch = () if batch_first is None else (5,)
    x = floats(*((*batch, 6, 4) if batch_first else (6, *batch, 4)))
    states = [floats(2 * (1 + bidirectional), *batch, 3, seed=n) for n in range(2 if kind == "lstm" else 1)]
    weights = [weight.detach().numpy() for weight in layer._flat_weights]

    def expected(input, hx, *_):
        output, last = layer(input, tuple(hx) if kind == "lstm" else hx)
        return [part.detach() for part in (output, *(last if kind == "lstm" else (last,)))]

    state = states if kind == "lstm" else states[0]
    assert_agrees(kind, expected, x, state, weights, True, 2, 0.0, False, bidirectional, bool(batch_first), **LOOSE)
