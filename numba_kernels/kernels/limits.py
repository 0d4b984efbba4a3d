"""What this machine can do at most: bytes read from memory, integer operations, in the threads kernels run on."""

from __future__ import annotations

import time

import numba
import numpy as np

from .. import simd
from ..jit import launcher

_BYTES = 1 << 29
_ROUNDS = 1 << 19
_TASKS = 64


@launcher(parallel=True)
def read_all(memory, sums):
    """Read ``memory``, uint8, once; ``sums``, (tasks, 16) int32, takes what keeps the reads from being left out."""
    for task in numba.prange(sums.shape[0]):
        chunk = memory.shape[0] // sums.shape[0]
        at = simd.i32_at(simd.address(memory) + task * chunk)
        a, b, c, d = simd.zeros_i32(), simd.zeros_i32(), simd.zeros_i32(), simd.zeros_i32()
        for n in range(0, chunk // 4, 64):
            simd.prefetch(at, n + 1024)
            a, b = simd.bits_or(a, simd.load(a, at, n)), simd.bits_or(b, simd.load(b, at, n + 16))
            c, d = simd.bits_or(c, simd.load(c, at, n + 32)), simd.bits_or(d, simd.load(d, at, n + 48))
        total = simd.bits_or(simd.bits_or(a, b), simd.bits_or(c, d))
        simd.store(total, simd.i32_at(simd.address(sums) + task * 64), 0)


@launcher(parallel=True)
def multiply_all(rounds, sums):
    """``rounds`` · 8 dot products of 16 lanes by 4 bytes a task, on operands that stay in the fastest cache."""
    for task in numba.prange(sums.shape[0]):
        x, w = np.zeros(64, np.uint8), np.ones(1024, np.int8)
        p, q, z = simd.u8_at(simd.address(x)), simd.i8_at(simd.address(w)), simd.zeros_i32()
        a, b, c, d, e, f, g, h = z, z, z, z, z, z, z, z
        for n in range(rounds):
            k, m = n % 8 * 4, n % 2 * 512
            a, b = simd.dot4(a, p, k, q, m), simd.dot4(b, p, k, q, m + 64)
            c, d = simd.dot4(c, p, k, q, m + 128), simd.dot4(d, p, k, q, m + 192)
            e, f = simd.dot4(e, p, k, q, m + 256), simd.dot4(f, p, k, q, m + 320)
            g, h = simd.dot4(g, p, k, q, m + 384), simd.dot4(h, p, k, q, m + 448)
        a, b = simd.add(simd.add(a, b), simd.add(c, d)), simd.add(simd.add(e, f), simd.add(g, h))
        simd.store(simd.add(a, b), simd.i32_at(simd.address(sums) + task * 64), 0)
        x[0], w[0] = 0, 0  # until here they are in use


def memory_bandwidth() -> float:
    """Bytes a second that are read from memory, in one pass over half a gigabyte; the best of five."""
    memory, sums = np.zeros(_BYTES, np.uint8), np.zeros((_TASKS, 16), np.int32)
    memory[::4096] = 1
    return _BYTES / _best(lambda: read_all(memory, sums))


def integer_peak() -> float:
    """8-bit multiplications and additions a second in u8 × s8 dot products; the best of five."""
    sums = np.zeros((_TASKS, 16), np.int32)
    return _TASKS * _ROUNDS * 8 * 128 / _best(lambda: multiply_all(_ROUNDS, sums))


def _best(function):
    function()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
