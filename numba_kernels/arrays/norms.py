"""Normalisations, as in evaluation mode. Moments are accumulated in float64."""

from __future__ import annotations

import numpy as np

from .kinds import ARRAY, BOOL, INT, INTS, NUMBER, optional
from .promotion import refuse_integers
from .reductions import norm, wide_mean
from .registry import function


def _standardised(values, axes, eps):
    wide = refuse_integers("a norm", values).astype(np.float64)
    centered = wide - wide_mean(wide, axes)
    return centered / np.sqrt(wide_mean(centered * centered, axes) + eps)


def _scaled(values, weight, bias, shape):
    values = values if weight is None else values * weight.reshape(shape)
    return (values if bias is None else values + bias.reshape(shape)).astype(np.float32)


def _per_channel(input):
    """The shape of numbers a channel, the second dimension."""
    return (1, -1, *[1] * (input.ndim - 2))


@function(input=ARRAY, normalized_shape=INTS, weight=optional(ARRAY), bias=optional(ARRAY), eps=NUMBER)
def layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    shape = tuple(normalized_shape) if isinstance(normalized_shape, list) else (normalized_shape,)
    if input.shape[input.ndim - len(shape) :] != shape:
        raise ValueError(f"the last dimensions are not {shape}")
    axes = tuple(range(input.ndim - len(shape), input.ndim))
    return _scaled(_standardised(input, axes, eps), weight, bias, shape)


@function(input=ARRAY, num_groups=INT, weight=optional(ARRAY), bias=optional(ARRAY), eps=NUMBER)
def group_norm(input, num_groups, weight=None, bias=None, eps=1e-5):
    grouped = input.reshape(len(input), num_groups, input.shape[1] // num_groups, *input.shape[2:])
    values = _standardised(grouped, tuple(range(2, grouped.ndim)), eps).reshape(input.shape)
    return _scaled(values, weight, bias, _per_channel(input))


@function(
    input=ARRAY, running_mean=optional(ARRAY), running_var=optional(ARRAY), weight=optional(ARRAY),
    bias=optional(ARRAY), use_input_stats=BOOL, momentum=NUMBER, eps=NUMBER,
)  # fmt: skip
def instance_norm(
    input, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, momentum=0.1, eps=1e-5
):
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, eps=eps)
    return _scaled(_standardised(input, tuple(range(2, input.ndim)), eps), weight, bias, _per_channel(input))


@function(
    input=ARRAY, running_mean=optional(ARRAY), running_var=optional(ARRAY), weight=optional(ARRAY),
    bias=optional(ARRAY), training=BOOL, momentum=NUMBER, eps=NUMBER,
)  # fmt: skip
def batch_norm(input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    shape = _per_channel(input)
    if training:  # a norm without running numbers takes the batch's in evaluation too
        return _scaled(_standardised(input, (0, *range(2, input.ndim)), eps), weight, bias, shape)
    if running_mean is None or running_var is None:
        raise ValueError("batch_norm needs running numbers, or training for those of the batch")
    scale = 1 / np.sqrt(running_var.astype(np.float64) + eps)
    return _scaled((input - running_mean.reshape(shape)) * scale.reshape(shape), weight, bias, shape)


@function(input=ARRAY, p=NUMBER, dim=INTS, eps=NUMBER)
def normalize(input, p=2.0, dim=1, eps=1e-12):
    return input / np.maximum(norm(input, p, dim, True), np.float32(eps))
