"""Products of arrays, distances, similarities."""

from __future__ import annotations

import numpy as np

from .kinds import ARRAY, ARRAYS, BOOL, INT, NUMBER, STRING, optional
from .promotion import floats, promoted, refuse_integers
from .registry import function, register


def _checked(name, *dims):
    """A product by ``np.matmul`` of operands of so many dimensions."""

    def call(input, other):
        for array, ndim in zip((input, other), dims):
            if array.ndim != ndim:
                raise ValueError(f"{name} takes {dims[0]} and {dims[1]} dimensions")
        return matmul(input, other)

    register(name, call, input=ARRAY, other=ARRAY)


@function(input=ARRAY, other=ARRAY)
def matmul(input, other):
    if input.dtype != other.dtype:
        raise TypeError("a product is of arrays of one dtype; convert one")
    return np.matmul(input, other)


_checked("mm", 2, 2)
_checked("bmm", 3, 3)
_checked("mv", 2, 1)
_checked("dot", 1, 1)


@function(input=ARRAY, vec2=ARRAY)
def outer(input, vec2):
    one, two = promoted(input, vec2)
    return np.multiply.outer(one, two)


@function(input=ARRAY, weight=ARRAY, bias=optional(ARRAY))
def linear(input, weight, bias=None):
    product = np.matmul(input, weight.T)
    return product if bias is None else product + bias


@function(input1=ARRAY, input2=ARRAY, weight=ARRAY, bias=optional(ARRAY))
def bilinear(input1, input2, weight, bias=None):
    product = np.einsum("...i,oij,...j->...o", input1, weight, input2, optimize=True)
    return product if bias is None else product + bias


@function(input=ARRAY, mat1=ARRAY, mat2=ARRAY, beta=NUMBER, alpha=NUMBER)
def addmm(input, mat1, mat2, *, beta=1, alpha=1):
    return np.float32(beta) * input + np.float32(alpha) * np.matmul(mat1, mat2)


@function(input=ARRAY, batch1=ARRAY, batch2=ARRAY, beta=NUMBER, alpha=NUMBER)
def baddbmm(input, batch1, batch2, *, beta=1, alpha=1):
    return addmm(input, batch1, batch2, beta=beta, alpha=alpha)


@function(equation=STRING, operands=ARRAY | ARRAYS)
def einsum(equation, *operands):
    operands = operands[0] if len(operands) == 1 and isinstance(operands[0], list) else operands
    return np.einsum(equation.replace(" ", ""), *promoted(*operands), optimize=len(operands) > 1)


@function(x1=ARRAY, x2=ARRAY, p=NUMBER)
def cdist(x1, x2, p=2.0):
    if p == 2:
        one, two = x1.astype(np.float64), x2.astype(np.float64)
        squares = (one * one).sum(-1)[..., :, None] + (two * two).sum(-1)[..., None, :]
        return np.sqrt(np.maximum(squares - 2 * np.matmul(one, np.swapaxes(two, -1, -2)), 0))
    apart = np.abs(x1[..., :, None, :] - x2[..., None, :, :])
    return apart.max(-1) if p == np.inf else (apart.astype(np.float64) ** p).sum(-1) ** (1 / p)


@function(x1=ARRAY, x2=ARRAY, p=NUMBER, eps=NUMBER, keepdim=BOOL)
def pairwise_distance(x1, x2, p=2.0, eps=1e-6, keepdim=False):
    apart = np.abs(floats(x1) - floats(x2) + np.float32(eps)).astype(np.float64)
    return (apart**p).sum(-1, keepdims=keepdim) ** (1 / p)


@function(x1=ARRAY, x2=ARRAY, dim=INT, eps=NUMBER)
def cosine_similarity(x1, x2, dim=1, eps=1e-8):
    one, two = np.broadcast_arrays(*(refuse_integers("cosine_similarity", x).astype(np.float64) for x in (x1, x2)))
    lengths = [np.maximum(np.sqrt((x * x).sum(dim)), eps) for x in (one, two)]
    return (one * two).sum(dim) / (lengths[0] * lengths[1])
