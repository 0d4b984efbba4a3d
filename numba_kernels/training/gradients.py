"""Gradients as bytes, rounded up or down by chance; :mod:`dgl_lowbit.quant.stochastic` says what is computed."""

from __future__ import annotations

import numpy as np

from ..jit import kernel, launcher
from .coding import BLOCK_ROWS

__all__ = ["pack_gradients", "ranges_of_gradients"]


@kernel
def chance_at(place, seed):
    """A number from 0 to below 1 for each place and seed, uint32."""
    bits = np.uint32(place ^ seed)
    bits = np.uint32(np.uint32(bits ^ (bits >> np.uint32(16))) * np.uint32(0x85EBCA6B))
    bits = np.uint32(np.uint32(bits ^ (bits >> np.uint32(13))) * np.uint32(0xC2B2AE35))
    bits = np.uint32(bits ^ (bits >> np.uint32(16)))
    return np.float32(np.int32(bits >> np.uint32(8))) * np.float32(2.0**-24)


@launcher
def ranges_of_gradients(grad, first, last, after, step, low, high):
    """low, high ← the smallest and largest of grad · after in a column; ``low`` NaN where one is.

    They start infinite, (blocks, columns), for BLOCK_ROWS rows each.
    """
    for i in range(first, last):
        a, smallest, largest = after[i * step], low[i // BLOCK_ROWS], high[i // BLOCK_ROWS]
        for j in range(grad.shape[1]):
            value, s, t = grad[i, j] * a, smallest[j], largest[j]
            smallest[j] = s if (value >= s) | (s != s) else value
            largest[j] = value if value > t else t


@launcher
def pack_gradients(grad, first, last, after, step, inverse, zero, seed, packed):
    """packed ← codes of grad · after: value · inverse + zero, rounded up with the chance of its fraction."""
    columns = grad.shape[1]
    for i in range(first, last):
        a, start = after[i * step], np.uint32(i * columns)
        for j in range(columns):
            place = grad[i, j] * a * inverse[j]
            below = np.floor(place)
            up = np.float32(1) if chance_at(np.uint32(start + np.uint32(j)), seed) < place - below else np.float32(0)
            code = below + up + zero[j]
            packed[i, j] = np.uint8(np.int32(code if code > np.float32(0) else np.float32(0)))  # 0 for NaN
