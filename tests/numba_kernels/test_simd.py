"""Vector operations, one by one, against NumPy."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from numba_kernels import simd
from numba_kernels.gemm import tile_weight
from numba_kernels.runtime import kernel


@kernel
def through(x, mask, count, none, sums, masked, shifted, wide, total):
    a, b = simd.load(none, x, 0), simd.load(none, x, 7)
    simd.store(simd.add(a, b), sums, 0)
    simd.store(simd.bits_and(a, mask), masked, 0)
    simd.store(simd.shift_right(a, count), shifted, 0)
    simd.store(simd.add(simd.widen(a), simd.widen(b)), wide, 0)
    simd.add_to_i32(a, total, 3)
    simd.prefetch(x, 0)


@kernel
def through_16(x, mask, count, sums, masked, shifted, wide, total):
    through(x, mask, count, simd.zeros16(), sums, masked, shifted, wide, total)


@kernel
def through_32(x, mask, count, sums, masked, shifted, wide, total):
    through(x, mask, count, simd.zeros32(), sums, masked, shifted, wide, total)


@kernel
def through_64(x, mask, count, sums, masked, shifted, wide, total):
    through(x, mask, count, simd.zeros64(), sums, masked, shifted, wide, total)


@pytest.mark.parametrize(("lanes", "run"), [(16, through_16), (32, through_32), (64, through_64)])
@pytest.mark.parametrize(("mask", "count"), [(0x33, 2), (0x0F, 4), (1, 7), (0xFF, 0)])
def test_byte_operations(lanes, run, mask, count):
    x = np.random.default_rng(0).integers(0, 256, lanes + 7).astype(np.uint8)
    sums, masked, shifted = np.zeros((3, lanes), np.uint8)
    wide, total = np.zeros(lanes, np.uint16), np.full(lanes + 5, 1000, np.int32)
    run(x, mask, count, sums, masked, shifted, wide, total)
    a, b = x[:lanes], x[7:]
    np.testing.assert_array_equal(sums, a + b)
    np.testing.assert_array_equal(masked, a & np.uint8(mask))
    np.testing.assert_array_equal(shifted, a >> np.uint8(count))
    np.testing.assert_array_equal(wide, a.astype(np.uint16) + b)
    np.testing.assert_array_equal(total[3:-2], 1000 + a.astype(np.int32))
    assert (total[:3] == 1000).all() and (total[-2:] == 1000).all()


@kernel
def dot(x, w, total):
    simd.store(simd.dot4(simd.dot4(simd.zeros_i32(), x, 0, w, 0), x, 4, w, 64), total, 0)


@pytest.mark.parametrize("extreme", [False, True])
def test_dot_product_does_not_saturate(extreme):
    rng = np.random.default_rng(0)
    x, w = rng.integers(0, 256, 8).astype(np.uint8), rng.integers(-128, 128, 128).astype(np.int8)
    if extreme:
        x[:], w[:64], w[64:] = 255, -128, 127
    total = np.zeros(16, np.int32)
    dot(x, w, total)
    pairs = w.reshape(2, 16, 4).astype(np.int64) * x.reshape(2, 1, 4)
    np.testing.assert_array_equal(total, pairs.sum((0, 2)))


@pytest.mark.parametrize("shape", [(1, 1), (5, 16), (8, 17), (1433, 7)])
@pytest.mark.parametrize("top", [3, 255])
def test_weights_are_tiled_and_moved_into_signed_bytes(shape, top):
    K, M = shape
    codes = np.random.default_rng(0).integers(0, top + 1, shape).astype(np.uint8)
    codes[0, 0] = top
    tiles, shift = tile_weight(codes)
    assert shift == (128 if top == 255 else 0)
    tiles = tiles.reshape(-(-M // 16), -(-K // 4), 16, 4)
    for k, m in [(0, 0), (K - 1, M - 1), (K // 2, M // 3)]:
        assert tiles[m // 16, k // 4, m % 16, k % 4] == int(codes[k, m]) - shift


@pytest.mark.skipif(numba.config.DISABLE_JIT or "NUMBA_CPU_NAME" in os.environ, reason="runs the others itself")
@pytest.mark.parametrize("cpu", ["generic", "haswell"])
def test_kernels_are_exact_on_lesser_machines(cpu, tmp_path):
    """The whole suite of this folder, compiled without AVX-512, and without AVX."""
    environment = {**os.environ, "NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-k",
            "not compiler",
            str(Path(__file__).parent),
        ],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
