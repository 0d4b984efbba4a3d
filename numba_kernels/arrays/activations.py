"""The activations of torch.nn.functional."""

from __future__ import annotations

import math

import numpy as np

from .elementwise import erf
from .kinds import ARRAY, INT, NUMBER, choice
from .promotion import floats
from .reductions import log_softmax, softmax
from .registry import function

__all__ = ["log_softmax", "softmax"]
_ONE = np.float32(1)


def _joined(below, x):
    """``below``, which is overwritten, where x is negative and it 0 elsewhere; x where that is positive."""
    return np.add(below, np.maximum(x, np.float32(0)), out=below)


def _exp_below(x, alpha, width=_ONE):
    """α · (e^(x / width) − 1) where x is negative, 0 elsewhere."""
    result = np.minimum(x, np.float32(0))
    np.exp(result if width == 1 else np.divide(result, width, out=result), out=result)
    return np.multiply(np.subtract(result, _ONE, out=result), np.float32(alpha), out=result)


@function(input=ARRAY)
def relu(input):
    return np.maximum(input, input.dtype.type(0))


@function(input=ARRAY)
def relu6(input):
    return np.clip(input, input.dtype.type(0), input.dtype.type(6))


@function(input=ARRAY, negative_slope=NUMBER)
def leaky_relu(input, negative_slope=0.01):
    x = floats(input)
    below = np.minimum(x, np.float32(0))
    return _joined(np.multiply(below, np.float32(negative_slope), out=below), x)


@function(input=ARRAY, weight=ARRAY)
def prelu(input, weight):
    x = floats(input)
    slope = weight.reshape(-1, *[1] * (x.ndim - 2)) if weight.size > 1 and x.ndim > 2 else weight
    return np.where(x > 0, x, slope * x)


@function(input=ARRAY, alpha=NUMBER)
def elu(input, alpha=1.0):
    x = floats(input)
    return _joined(_exp_below(x, alpha), x)


@function(input=ARRAY)
def selu(input):
    x = floats(input)
    alpha, scale = np.float32(1.6732632423543772848170429916717), np.float32(1.0507009873554804934193349852946)
    return scale * _joined(_exp_below(x, alpha), x)


@function(input=ARRAY, alpha=NUMBER)
def celu(input, alpha=1.0):
    x, alpha = floats(input), np.float32(alpha)
    return _joined(_exp_below(x, alpha, alpha), x)


@function(input=ARRAY, approximate=choice("none", "tanh"))
def gelu(input, *, approximate="none"):
    x = floats(input)
    if approximate == "none":
        return np.float32(0.5) * x * (_ONE + erf(x / np.float32(math.sqrt(2))))
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
    return np.float32(0.5) * x * (_ONE + np.tanh(inner))


@function(input=ARRAY)
def sigmoid(input):
    result = np.negative(floats(input), out=np.empty(input.shape, np.float32))
    np.add(np.exp(result, out=result), _ONE, out=result)  # infinite at worst, whose reciprocal is 0
    return np.reciprocal(result, out=result)


@function(input=ARRAY)
def logsigmoid(input):
    x = floats(input)
    return np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))


@function(input=ARRAY)
def silu(input):
    return floats(input) * sigmoid(input)


@function(input=ARRAY, beta=NUMBER, threshold=NUMBER)
def softplus(input, beta=1.0, threshold=20.0):
    x, beta = floats(input), np.float32(beta)
    scaled = beta * x
    smooth = (np.maximum(scaled, 0) + np.log1p(np.exp(-np.abs(scaled)))) / beta
    return np.where(scaled > np.float32(threshold), x, smooth)


@function(input=ARRAY)
def mish(input):
    return floats(input) * np.tanh(softplus(input))


@function(input=ARRAY)
def softsign(input):
    x = floats(input)
    return x / (_ONE + np.abs(x))


@function(input=ARRAY)
def tanhshrink(input):
    x = floats(input)
    return x - np.tanh(x)


@function(input=ARRAY, lambd=NUMBER)
def hardshrink(input, lambd=0.5):
    x = floats(input)
    return np.where(np.abs(x) > np.float32(lambd), x, np.float32(0))


@function(input=ARRAY, lambd=NUMBER)
def softshrink(input, lambd=0.5):
    x, lambd = floats(input), np.float32(lambd)
    return np.where(x > lambd, x - lambd, np.where(x < -lambd, x + lambd, np.float32(0)))


@function(input=ARRAY, min_val=NUMBER, max_val=NUMBER)
def hardtanh(input, min_val=-1.0, max_val=1.0):
    return np.clip(floats(input), np.float32(min_val), np.float32(max_val))


@function(input=ARRAY)
def hardsigmoid(input):
    return np.clip(floats(input) + np.float32(3), np.float32(0), np.float32(6)) / np.float32(6)


@function(input=ARRAY)
def hardswish(input):
    return floats(input) * hardsigmoid(input)


@function(input=ARRAY, threshold=NUMBER, value=NUMBER)
def threshold(input, threshold, value):
    return np.where(input > input.dtype.type(threshold), input, input.dtype.type(value))


@function(input=ARRAY, dim=INT)
def glu(input, dim=-1):
    if input.shape[dim] % 2:
        raise ValueError(f"glu halves dimension {dim}, which has {input.shape[dim]}")
    one, two = np.split(floats(input), 2, axis=dim)
    return one * sigmoid(two)
