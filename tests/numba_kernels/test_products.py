"""Products of codes against NumPy's int64, on the instructions of this machine, at codes where sums would overflow."""

import numba
import numpy as np
import pytest

import numba_kernels as nk
from numba_kernels import simd
from numba_kernels.kernels.product import center_codes, tile_weight
from numba_kernels.layout import PACKED_BITS, row_bytes
from numba_kernels.simd.features import dot_product_of, features_of
from numba_kernels.simd.pairs import LIFT, STEPS, TABLE
from numba_kernels.simd.products import form_of

from .plans import JIT_OFF


def exact_product(x, x_zero, w, w_zero):
    """(x − x_zero) @ (w − w_zero), zero points multiples of ½."""
    twice = (2 * x.astype(np.int64) - int(2 * x_zero)) @ (2 * w.astype(np.int64) - int(2 * w_zero))
    return (twice / 4).astype(np.float32)


@pytest.mark.parametrize("weight_bits", PACKED_BITS)
@pytest.mark.parametrize("bits", PACKED_BITS)
@pytest.mark.parametrize(("rows", "K", "M"), [(1, 1, 1), (2, 3, 15), (3, 257, 17), (4, 64, 64), (9, 1030, 70)])
def test_products_are_exact_at_extreme_codes(bits, weight_bits, rows, K, M):
    rng = np.random.default_rng(0)
    top, weight_top = 2**bits - 1, 2**weight_bits - 1
    x, w = np.full((rows, K), top, np.uint8), np.full((K, M), weight_top, np.uint8)
    x[1::3], w[:, 1::3] = rng.integers(0, top + 1, x[1::3].shape), 0
    w[:, 2::3] = rng.integers(0, weight_top + 1, w[:, 2::3].shape)
    codes = nk.quantize(x.astype(np.float32), nk.Grid(K, bits, scale=1.0, zero_point=0.5, offset=0.0))
    np.testing.assert_array_equal(codes.unpacked(), x)
    for zero in (weight_top / 2, 0.0, float(weight_top)):
        got = nk.gemm(codes, nk.Weight(w, 1.0, zero))
        np.testing.assert_array_equal(got, exact_product(x, 0.5, w, zero))


@pytest.mark.parametrize("rows", range(1, 10))
def test_any_number_of_rows(rows):
    rng = np.random.default_rng(0)
    x, w = rng.integers(0, 256, (rows, 37)).astype(np.uint8), rng.integers(0, 256, (37, 83)).astype(np.uint8)
    codes = nk.quantize(x.astype(np.float32), nk.Grid(37, 8, scale=1.0, zero_point=128.0, offset=0.0))
    np.testing.assert_array_equal(nk.gemm(codes, nk.Weight(w, 1.0, 7.5)), exact_product(x, 128, w, 7.5))


@pytest.mark.parametrize("K", [7_168, 7_169, 10_920, 10_924, 16_400])
def test_long_rows_of_narrow_codes_do_not_overflow(K):
    x, w = np.full((2, K), 3, np.uint8), np.zeros((K, 20), np.uint8)
    w[:, 1::2] = 3
    codes = nk.quantize(x.astype(np.float32), nk.Grid(K, 2, scale=1.0))
    np.testing.assert_array_equal(nk.gemm(codes, nk.Weight(w, 1.0, 0.0)), x.astype(np.int64) @ w)


@pytest.mark.parametrize("zero", [0.1, -3.0, 300.5, 2.0**-30])
@pytest.mark.parametrize("weight_zero", [1 / 3, 7.5, 1000.0])
def test_zero_points_that_int32_does_not_hold_are_taken_in_float64(zero, weight_zero):
    rng = np.random.default_rng(0)
    x, w = rng.integers(0, 256, (5, 40)).astype(np.uint8), rng.integers(0, 16, (40, 20)).astype(np.uint8)
    codes = nk.quantize(x.astype(np.float32), nk.Grid(40, 8, scale=1.0, zero_point=zero, offset=0.0))
    z, weight_z = np.float64(np.float32(zero)), np.float64(np.float32(weight_zero))
    moved = z * w.sum(0, dtype=np.int64) + weight_z * (x.sum(1, keepdims=True, dtype=np.int64) - 40 * z)
    expected = (x.astype(np.int64) @ w - moved).astype(np.float32)
    np.testing.assert_array_equal(nk.gemm(codes, nk.Weight(w, 1.0, weight_zero)), expected)


def test_every_column_of_weights_may_have_a_zero_point_of_its_own():
    rng = np.random.default_rng(0)
    x, w = rng.integers(0, 16, (5, 40)).astype(np.uint8), rng.integers(0, 16, (40, 20)).astype(np.uint8)
    codes = nk.quantize(x.astype(np.float32), nk.Grid(40, 4, scale=1.0, zero_point=7.5, offset=0.0))
    zeros = np.arange(20) / 2
    expected = np.concatenate([exact_product(x, 7.5, w[:, m : m + 1], zeros[m]) for m in range(20)], axis=1)
    np.testing.assert_array_equal(nk.gemm(codes, nk.Weight(w, 1.0, zeros)), expected)


def test_sums_that_do_not_fit_int32_as_quarters_are_exact():
    K = 8_000
    x, w = np.full((1, K), 255, np.uint8), np.full((K, 2), 255, np.uint8)
    w[1::2, 0], w[0, 1] = 0, 254
    codes = nk.quantize(x.astype(np.float32), nk.Grid(K, 8, scale=1.0, zero_point=-255.0, offset=0.0))
    np.testing.assert_array_equal(nk.gemm(codes, nk.Weight(w, 1.0, 0.0)), exact_product(x, -255, w, 0))


@pytest.mark.parametrize("form", ["bytes", "words"])
@pytest.mark.parametrize("shape", [(1, 1), (5, 16), (8, 17), (1433, 7)])
def test_weights_are_tiled(shape, form):
    codes = np.random.default_rng(0).integers(-128, 128, shape).astype(np.int8)
    inputs, (K, M) = 2 if form == "words" else 4, shape
    tiles = tile_weight(codes, form)
    assert tiles.shape == (-(-M // 16), -(-K // inputs), 16, inputs) and tiles.itemsize * inputs == 4
    for k, m in [(0, 0), (K - 1, M - 1), (K // 2, M // 3)]:
        assert tiles[m // 16, k // inputs, m % 16, k % inputs] == codes[k, m]
    assert tiles.sum(dtype=np.int64) == codes.sum(dtype=np.int64)


def test_weights_are_tiled_as_pairs():
    codes = np.random.default_rng(0).integers(-2, 2, (130, 40)).astype(np.int8)
    tiles, W = tile_weight(codes, "pairs"), row_bytes(130, 2)
    assert W == 64 and tiles.shape == (2, 128, 32)
    filled = np.zeros((256, 64), int)
    filled[:130, :40] = codes
    for step, first, m in [(0, 0, 0), (63, 63, 17), (1, 1, 39), (64, 128, 5), (127, 191, 63)]:
        pair = int(tiles[m // 32, step, m % 16 * 2 + m % 32 // 16])
        assert (pair % 4 - 2, pair // 4 - 2) == (filled[first, m], filled[first + W, m])


@pytest.mark.parametrize(("top", "largest"), [(1, 1), (3, 2), (15, 8), (254, 127), (255, 128)])
def test_codes_are_moved_to_the_middle(top, largest):
    codes, shift = center_codes(np.array([[0, top]], np.uint8))
    assert codes.dtype == np.int8 and abs(codes.astype(int)).max() == largest
    np.testing.assert_array_equal(codes.astype(int) + shift, [[0, top]])


@pytest.mark.parametrize(("bits", "top"), [(1, 1), (1, 3), (2, 7), (4, 15), (4, 255), (8, 15)])
def test_as_many_steps_as_int16_holds(bits, top):
    form, steps = form_of(bits, top, 256, 256, "avx2")
    largest = 2 * (2**bits - 1) * ((top + 1) // 2)
    assert form == "bytes" and steps * largest < 2**15 <= (steps + 1) * largest


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((8, 255, 256, 256, "avx2"), "words"),
        ((8, 63, 256, 256, "avx2"), "words"),
        ((2, 3, 256, 256, "avx2"), "pairs"),
        ((2, 4, 256, 256, "avx2"), "bytes"),
        ((1, 3, 256, 256, "avx2"), "bytes"),
        ((2, 3, 256, 16, "avx2"), "bytes"),
        ((2, 3, 20, 256, "avx2"), "bytes"),
        ((2, 3, 7281, 256, "avx2"), "bytes"),
        ((8, 1, 256, 256, "dotprod"), "words"),
        ((4, 255, 256, 256, "dotprod"), "bytes"),
        ((8, 255, 256, 256, "i8mm"), "bytes"),
        ((8, 255, 256, 256, "avxvnni"), "bytes"),
        ((8, 255, 256, 256, "avx512vnni"), "bytes"),
        ((2, 3, 256, 256, "generic"), "words"),
    ],
)
def test_the_fastest_exact_form(arguments, expected):
    assert form_of(*arguments)[0] == expected


def test_every_entry_of_the_table_is_a_product():
    for x, w in np.ndindex(16, 16):
        assert TABLE[x, w] == x % 4 * (w % 4 - 2) + x // 4 * (w // 4 - 2) + LIFT
    assert TABLE.max() * STEPS <= 255 and TABLE.min() == 0


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        (set(), "generic"),
        ({"sse4.2", "avx"}, "generic"),
        ({"avx2", "avx512f", "avx512bw"}, "avx2"),
        ({"avx2", "avxvnni"}, "avxvnni"),
        ({"avx2", "avx512vnni", "avx512f", "avx512bw", "avxvnni"}, "avx512vnni"),
        ({"avx2", "avx512vnni", "avx512f"}, "avx2"),
        ({"neon"}, "generic"),
        ({"neon", "dotprod"}, "dotprod"),
        ({"neon", "dotprod", "i8mm"}, "i8mm"),
    ],
)
def test_the_fastest_instructions_a_machine_has(features, expected):
    assert dot_product_of(features) == expected


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        (None, None, {"avx2", "fma"}),
        ("", "", {"avx2", "fma"}),
        ("generic", "", set()),
        ("generic", "+avx2,+avxvnni", {"avx2", "avxvnni"}),
        ("haswell", None, {"avx2"}),
        ("haswell", "-avx2", set()),
    ],
)
def test_features_of_the_machine_that_code_is_made_for(name, given, expected):
    assert features_of(name, given, {"avx2": True, "fma": True, "avx512f": False}) == expected


@pytest.mark.parametrize("form", ["bytes", "words"])
def test_sums_do_not_depend_on_when_they_are_widened(form):
    if form == "bytes" and simd.DOT_PRODUCT == "generic" and not JIT_OFF:
        pytest.skip("bytes are not multiplied on this machine")
    rng = np.random.default_rng(0)
    x, w = rng.integers(0, 4, (8, 52)).astype(np.uint8), rng.integers(-2, 2, (52, 64)).astype(np.int8)
    shape, tiles = simd.FORMS[form], tile_weight(w, form)
    given = x.astype(np.uint16) if form == "words" else x
    for rows, blocks in {(shape.rows, shape.blocks), (shape.rows_of_one, 1)}:
        totals = np.zeros((rows, 16 * blocks), np.int32)
        for steps in (1, 5, tiles.shape[1], 1 << 30):
            totals[:] = 99
            multiplying(simd.tile_product(form, rows, blocks))(given, tiles, tiles.shape[1], steps, totals)
            np.testing.assert_array_equal(totals, x[:rows].astype(np.int32) @ w[:, : 16 * blocks])


def multiplying(multiply):
    @numba.njit
    def run(x, tiles, groups, steps, totals):
        p, q = simd.u8_at(simd.address(x)), simd.i8_at(simd.address(tiles))
        room, out = x.shape[1] * x.itemsize, simd.i32_at(simd.address(totals))
        multiply(p, room, q, groups, steps, out, totals.shape[1])

    return run
