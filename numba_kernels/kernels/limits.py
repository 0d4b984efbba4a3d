"""What this machine can do at most: bytes read from memory, integer operations, in the threads kernels run on."""

from __future__ import annotations

import time

import numba
import numpy as np

from .. import simd
from ..jit import launcher

_BYTES = 1 << 29
_ROUNDS = 1 << 11
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


_INPUTS = 256
_FORM = simd.form_of(8, 255, _INPUTS, 16)[0]
_ROWS, _BLOCKS = simd.FORMS[_FORM].rows, simd.FORMS[_FORM].blocks
_GROUPS = _INPUTS // (2 if _FORM == "words" else 4)
_multiply = simd.tile_product(_FORM, _ROWS, _BLOCKS)


@launcher(parallel=True)
def multiply_all(rounds, sums):
    """``rounds`` products of a few rows and columns a task, of 256 inputs, that stay in the fastest cache."""
    for task in numba.prange(sums.shape[0]):
        x, w = np.zeros(_ROWS * _GROUPS * 4, np.uint8), np.ones(_BLOCKS * _GROUPS * 64, np.int8)
        totals = np.zeros(_ROWS * _BLOCKS * 16, np.int32)
        p, q, out = simd.u8_at(simd.address(x)), simd.i8_at(simd.address(w)), simd.i32_at(simd.address(totals))
        for _ in range(rounds):
            _multiply(p, _GROUPS * 4, q, _GROUPS, _GROUPS, out, _BLOCKS * 16)
        sums[task] = totals[0]
        x[0], w[0] = 0, 0  # until here they are in use


def memory_bandwidth() -> float:
    """Bytes a second that are read from memory, in one pass over half a gigabyte; the best of five."""
    memory, sums = np.zeros(_BYTES, np.uint8), np.zeros((_TASKS, 16), np.int32)
    memory[::4096] = 1
    return _BYTES / _best(lambda: read_all(memory, sums))


def integer_peak() -> float:
    """8-bit multiplications and additions a second in products as kernels compute them; the best of five."""
    sums, operations = np.zeros(_TASKS, np.int32), 2 * _ROWS * _BLOCKS * 16 * _INPUTS
    return _TASKS * _ROUNDS * operations / _best(lambda: multiply_all(_ROUNDS, sums))


def _best(function):
    function()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
