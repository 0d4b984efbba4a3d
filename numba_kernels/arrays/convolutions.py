"""Convolutions and pooling over one or two dimensions, (N, C, L) or (N, C, H, W)."""

from __future__ import annotations

import numpy as np

from .kinds import ARRAY, BOOL, INT, INTS, optional
from .registry import register


def _each(number, dims):
    return [*number] if isinstance(number, (list, tuple)) else [number] * dims


def _windows(input, size, stride, padding, dilation, fill):
    """Windows of as many last dimensions as ``size`` has: (N, C, places …, size …)."""
    dims = len(size)
    if input.ndim != dims + 2:
        raise ValueError(f"expected {dims + 2} dimensions, got {input.ndim}")
    if min(*size, *stride, *dilation) < 1 or min(padding) < 0:
        raise ValueError("sizes, strides and dilations are at least 1, paddings at least 0")
    padded = np.pad(input, [(0, 0)] * 2 + [(pad, pad) for pad in padding], constant_values=fill)
    spread = [step * (length - 1) + 1 for length, step in zip(size, dilation)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, spread, tuple(range(2, dims + 2)))
    key = [slice(None)] * 2 + [slice(None, None, step) for step in (*stride, *dilation)]
    return windows[tuple(key)]


def _convolution(name, dims):
    axes = "xy"[:dims], "pq"[:dims]

    def call(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        stride, padding, dilation = (_each(number, dims) for number in (stride, padding, dilation))
        windows = _windows(input, weight.shape[2:], stride, padding, dilation, 0)
        parts = [
            np.einsum(f"nc{axes[0]}{axes[1]},oc{axes[1]}->no{axes[0]}", part, matrix, optimize=True)
            for part, matrix in zip(np.split(windows, groups, 1), np.split(weight, groups, 0))
        ]
        result = np.concatenate(parts, 1)
        return result if bias is None else result + bias.reshape(-1, *[1] * dims)

    register(
        name, call, input=ARRAY, weight=ARRAY, bias=optional(ARRAY), stride=INTS, padding=INTS, dilation=INTS,
        groups=INT,
    )  # fmt: skip


def _pooling(name, dims):
    def call(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False):
        if ceil_mode:
            raise ValueError("pooling of incomplete windows (ceil_mode) is not at hand")
        size = _each(kernel_size, dims)
        steps = size if stride is None or stride == [] else _each(stride, dims)
        windows = _windows(input, size, steps, _each(padding, dims), _each(dilation, dims), -np.inf)
        return windows.max(tuple(range(-dims, 0)))

    register(
        name, call, input=ARRAY, kernel_size=INTS, stride=optional(INTS), padding=INTS, dilation=INTS, ceil_mode=BOOL
    )  # fmt: skip


for _dims in (1, 2):
    _convolution(f"conv{_dims}d", _dims)
    _pooling(f"max_pool{_dims}d", _dims)
