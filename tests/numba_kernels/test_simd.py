"""Vector operations, one by one, against NumPy."""

import os

import numba
import numpy as np
import pytest

from numba_kernels import simd
from numba_kernels.jit import launcher

from .plans import run_tests_of_kernels


def values(kind, lanes, seed=0):
    rng = np.random.default_rng(seed)
    if kind == np.float32:
        return rng.uniform(-300, 300, lanes).astype(np.float32)
    info = np.iinfo(kind)
    return rng.integers(info.min, info.max, lanes, dtype=kind, endpoint=True)


@launcher
def bytes_through(x, mask, count, none, sums, anded, ored, right, left, wide, integers, signed, floats, total):
    p = simd.u8_at(simd.address(x))
    a, b = simd.load(none, p, 0), simd.load(none, p, 7)
    simd.store(simd.add(a, b), simd.u8_at(simd.address(sums)), 0)
    simd.store(simd.bits_and(a, mask), simd.u8_at(simd.address(anded)), 0)
    simd.store(simd.bits_or(a, b), simd.u8_at(simd.address(ored)), 0)
    simd.store(simd.shift_right(a, count), simd.u8_at(simd.address(right)), 0)
    simd.store(simd.shift_left(a, count), simd.u8_at(simd.address(left)), 0)
    simd.store(simd.add(simd.widen(a), simd.widen(b)), simd.u8_at(simd.address(wide)), 0)
    simd.store(simd.to_i32(a), simd.i32_at(simd.address(integers)), 0)
    simd.store(simd.signed_to_i32(a), simd.i32_at(simd.address(signed)), 0)
    simd.store(simd.to_f32(a), simd.f32_at(simd.address(floats)), 0)
    total[0] = simd.total(simd.to_i32(a))
    simd.prefetch(p, 0)


@launcher
def bytes_through_all(lanes, x, mask, count, sums, anded, ored, right, left, wide, integers, signed, floats, total):
    if lanes == 16:
        none = simd.zeros16()
        bytes_through(x, mask, count, none, sums, anded, ored, right, left, wide, integers, signed, floats, total)
    elif lanes == 32:
        none = simd.zeros32()
        bytes_through(x, mask, count, none, sums, anded, ored, right, left, wide, integers, signed, floats, total)
    else:
        none = simd.zeros64()
        bytes_through(x, mask, count, none, sums, anded, ored, right, left, wide, integers, signed, floats, total)


@pytest.mark.parametrize("lanes", [16, 32, 64])
@pytest.mark.parametrize(("mask", "count"), [(0x33, 2), (0x0F, 4), (1, 7), (0xFF, 0)])
def test_byte_operations(lanes, mask, count):
    x = values(np.uint8, lanes + 7)
    sums, anded, ored, right, left = np.zeros((5, lanes), np.uint8)
    integers, signed, total = np.zeros(lanes, np.int32), np.zeros(lanes, np.int32), np.zeros(1, np.int32)
    wide, floats = np.zeros(lanes, np.uint16), np.zeros(lanes, np.float32)
    bytes_through_all(lanes, x, mask, count, sums, anded, ored, right, left, wide, integers, signed, floats, total)
    a, b = x[:lanes], x[7:]
    np.testing.assert_array_equal(sums, a + b)
    np.testing.assert_array_equal(anded, a & np.uint8(mask))
    np.testing.assert_array_equal(ored, a | b)
    np.testing.assert_array_equal(right, a >> np.uint8(count))
    np.testing.assert_array_equal(left, a << np.uint8(count))
    np.testing.assert_array_equal(wide, a.astype(np.uint16) + b)
    np.testing.assert_array_equal(integers, a)
    np.testing.assert_array_equal(signed, a.view(np.int8))
    np.testing.assert_array_equal(floats, a)
    assert total[0] == a.sum()


@launcher
def integers_through(x, count, plus, minus, times, low, high, first, bytes_, floats, numbers):
    p = simd.i32_at(simd.address(x))
    a, b = simd.load(simd.zeros_i32(), p, 0), simd.load(simd.zeros_i32(), p, 16)
    simd.store(simd.add(a, b), simd.i32_at(simd.address(plus)), 0)
    simd.store(simd.subtract(a, b), simd.i32_at(simd.address(minus)), 0)
    simd.store(simd.multiply(a, b), simd.i32_at(simd.address(times)), 0)
    simd.store(simd.minimum(a, b), simd.i32_at(simd.address(low)), 0)
    simd.store(simd.maximum(a, b), simd.i32_at(simd.address(high)), 0)
    simd.store(simd.first_lanes(a, count), simd.i32_at(simd.address(first)), 0)
    simd.store(simd.low_bytes(a), simd.u8_at(simd.address(bytes_)), 0)
    simd.store(simd.to_f32(simd.to_f64(a)), simd.f32_at(simd.address(floats)), 0)
    numbers[0], numbers[1] = simd.smallest(a), simd.largest(a)
    numbers[2] = simd.nonzero_lanes(simd.first_lanes(a, count))
    numbers[3] = simd.trailing_zeros(np.int64(count))


@pytest.mark.parametrize("count", [0, 1, 8, 15, 16, 40])
def test_integer_operations(count):
    x = values(np.int32, 32)
    plus, minus, times, low, high, first = np.zeros((6, 16), np.int32)
    bytes_, floats, numbers = np.zeros(16, np.uint8), np.zeros(16, np.float32), np.zeros(4, np.int64)
    integers_through(x, count, plus, minus, times, low, high, first, bytes_, floats, numbers)
    a, b = x[:16], x[16:]
    np.testing.assert_array_equal(plus, a + b)
    np.testing.assert_array_equal(minus, a - b)
    np.testing.assert_array_equal(times, a * b)
    np.testing.assert_array_equal(low, np.minimum(a, b))
    np.testing.assert_array_equal(high, np.maximum(a, b))
    np.testing.assert_array_equal(first, np.where(np.arange(16) < count, a, 0))
    np.testing.assert_array_equal(bytes_, a.view(np.uint8)[::4])
    np.testing.assert_array_equal(floats, a.astype(np.float32))
    expected = [a.min(), a.max(), 2 ** min(count, 16) - 1, (count & -count).bit_length() - 1 if count else 64]
    assert numbers.tolist() == expected


@launcher
def floats_through(x, number, plus, minus, times, fused, low, high, filled, rounded, magnitude, ends):
    p, lanes = simd.f32_at(simd.address(x)), simd.zeros_f32()
    a, b = simd.load(lanes, p, 0), simd.load(lanes, p, 16)
    simd.store(simd.add(a, b), simd.f32_at(simd.address(plus)), 0)
    simd.store(simd.subtract(a, b), simd.f32_at(simd.address(minus)), 0)
    simd.store(simd.multiply(a, b), simd.f32_at(simd.address(times)), 0)
    simd.store(simd.multiply_add(a, b, a), simd.f32_at(simd.address(fused)), 0)
    simd.store(simd.minimum(a, b), simd.f32_at(simd.address(low)), 0)
    simd.store(simd.maximum(a, b), simd.f32_at(simd.address(high)), 0)
    simd.store(simd.fill(a, number), simd.f32_at(simd.address(filled)), 0)
    inside = simd.minimum(simd.maximum(a, lanes), simd.fill(a, np.float32(255)))
    simd.store(simd.low_bytes(simd.rounded_bits(inside)), simd.u8_at(simd.address(rounded)), 0)
    simd.store(simd.magnitude_bits(a), simd.i32_at(simd.address(magnitude)), 0)
    ends[0], ends[1] = simd.smallest(a), simd.largest(a)


@pytest.mark.parametrize("halves", [False, True])
def test_float_operations(halves):
    x = values(np.float32, 32)
    if halves:
        x[:] = np.arange(-4, 28) * 10 + np.float32(0.5)  # ties round to even
    plus, minus, times, fused, low, high, filled = np.zeros((7, 16), np.float32)
    rounded, magnitude, ends = np.zeros(16, np.uint8), np.zeros(16, np.int32), np.zeros(2, np.float32)
    number = np.float32(1.5)
    floats_through(x, number, plus, minus, times, fused, low, high, filled, rounded, magnitude, ends)
    a, b = x[:16], x[16:]
    np.testing.assert_array_equal(plus, a + b)
    np.testing.assert_array_equal(minus, a - b)
    np.testing.assert_array_equal(times, a * b)
    np.testing.assert_allclose(fused, a * b + a, rtol=1e-6, atol=1e-3)
    np.testing.assert_array_equal(low, np.minimum(a, b))
    np.testing.assert_array_equal(high, np.maximum(a, b))
    np.testing.assert_array_equal(filled, number)
    np.testing.assert_array_equal(rounded, np.rint(np.clip(a, 0, 255)).astype(np.uint8))
    np.testing.assert_array_equal(magnitude.view(np.float32), abs(a))
    assert ends.tolist() == [a.min(), a.max()]


def test_magnitudes_tell_what_is_not_finite():
    odd = np.array([np.nan, np.inf, -np.inf, 3e38, 0, -0.0, 1e-45, -1], np.float32)
    bits = odd.view(np.int32) & 0x7FFFFFFF
    np.testing.assert_array_equal(bits >= 0x7F800000, ~np.isfinite(odd))


@launcher
def quads_through(x, w, rows, total, small, interleaved):
    p, q, r = simd.u8_at(simd.address(x)), simd.u8_at(simd.address(w)), simd.u8_at(simd.address(rows))
    none = simd.zeros16()
    a, b = simd.load(simd.zeros64(), p, 0), simd.load(simd.zeros64(), q, 0)
    start = simd.load(simd.zeros_i32(), simd.i32_at(simd.address(x)), 0)
    simd.store(simd.dot_quads(start, a, b), simd.i32_at(simd.address(total)), 0)
    simd.store(simd.dot_small_quads(start, simd.bits_and(a, 15), b), simd.i32_at(simd.address(small)), 0)
    y = simd.load(none, r, 0), simd.load(none, r, 16), simd.load(none, r, 32), simd.load(none, r, 48)
    simd.store(simd.interleave(y[0], y[1], y[2], y[3]), simd.u8_at(simd.address(interleaved)), 0)


@pytest.mark.parametrize("extreme", [False, True])
def test_dot_products_of_quads_do_not_saturate(extreme):
    rng = np.random.default_rng(1)
    x, w = rng.integers(0, 256, 64).astype(np.uint8), rng.integers(-128, 128, 64).astype(np.int8)
    if extreme:
        x[:], w[:32], w[32:] = 255, -128, 127
    rows, (total, small), interleaved = values(np.uint8, 64), np.zeros((2, 16), np.int32), np.zeros(64, np.uint8)
    quads_through(x, w, rows, total, small, interleaved)
    start, w = x.view(np.int32), w.astype(np.int64)
    np.testing.assert_array_equal(total, start + (x * w).reshape(16, 4).sum(1))
    np.testing.assert_array_equal(small, start + ((x & 15) * w).reshape(16, 4).sum(1))
    np.testing.assert_array_equal(interleaved, rows.reshape(4, 16).T.ravel())


@launcher
def totals_through(x, totals, magnitudes):
    p, none = simd.f32_at(simd.address(x)), simd.zeros_f32()
    y = simd.load(none, p, 0), simd.load(none, p, 16), simd.load(none, p, 32), simd.load(none, p, 48)
    simd.store(simd.totals_of_four(y[0], y[1], y[2], y[3]), simd.f32_at(simd.address(totals)), 0)
    simd.store(simd.absolute(y[0]), simd.f32_at(simd.address(magnitudes)), 0)


def test_totals_of_four_vectors():
    x, totals, magnitudes = values(np.float32, 64), np.zeros(4, np.float32), np.zeros(16, np.float32)
    totals_through(x, totals, magnitudes)
    np.testing.assert_allclose(totals, x.reshape(4, 16).sum(1), rtol=1e-4)
    np.testing.assert_array_equal(magnitudes, abs(x[:16]))


@launcher
def rounded_through(x, count, down, near):
    a = simd.load(simd.zeros_i32(), simd.i32_at(simd.address(x)), 0)
    moved = simd.shift_down(a, count)
    quarters = simd.multiply(simd.to_f32(moved), simd.fill(simd.zeros_f32(), np.float32(0.25)))
    simd.store(moved, simd.i32_at(simd.address(down)), 0)
    simd.store(simd.nearest(quarters), simd.i32_at(simd.address(near)), 0)


@pytest.mark.parametrize("count", [0, 1, 9, 14])
def test_rounding(count):
    x = values(np.int32, 16) >> np.int32(9)
    down, near = np.zeros((2, 16), np.int32)
    rounded_through(x, count, down, near)
    np.testing.assert_array_equal(down, np.floor(x / 2**count + 0.5 * (count > 0)))
    np.testing.assert_array_equal(near, np.rint(down / 4))


@pytest.mark.skipif(numba.config.DISABLE_JIT or "NUMBA_CPU_NAME" in os.environ, reason="runs the others itself")
@pytest.mark.slow
@pytest.mark.parametrize("cpu", ["generic", *(["haswell"] if simd.DOT_PRODUCT != "avx2" else [])])
def test_kernels_are_exact_on_lesser_machines(cpu, tmp_path):
    """The tests of kernels, compiled without AVX-512, and without AVX."""
    cache = {"NUMBA_CACHE_DIR": str(tmp_path)}
    run_tests_of_kernels("not compiler", NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES="", **cache)
