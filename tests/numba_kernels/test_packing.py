"""Packed rows: what packs them, and what kernels make of them."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numba_kernels import pack, simd, unpack
from numba_kernels.kernels.unpack import unpacking
from numba_kernels.layout import PACKED_BITS, row_bytes

from .plans import EXAMPLES


def unpacking_rows(bits, form):
    unpack_row = unpacking(bits, form)

    @numba.njit
    def unpack_rows(packed, codes, sums):
        for i in range(packed.shape[0]):
            row, at = simd.u8_at(simd.address(packed) + i * packed.shape[1]), simd.address(codes) + i * codes.shape[1]
            sums[i] = unpack_row(row, packed.shape[1], simd.u8_at(at))

    return unpack_rows


UNPACKING = {(bits, form): unpacking_rows(bits, form) for bits in PACKED_BITS for form in ("bytes", "words")}
UNPACKING[2, "pairs"] = unpacking_rows(2, "pairs")


@pytest.mark.parametrize("bits", PACKED_BITS)
@given(rows=st.integers(0, 9), columns=st.integers(1, 300), seed=st.integers(0, 999))
@settings(max_examples=EXAMPLES, deadline=None)
def test_packing_round_trips_and_kernels_agree(bits, rows, columns, seed):
    codes = np.random.default_rng(seed).integers(0, 2**bits, (rows, columns)).astype(np.uint8)
    packed = pack(codes, bits)
    assert packed.shape == (rows, row_bytes(columns, bits))
    np.testing.assert_array_equal(unpack(packed, bits, columns), codes)
    width, sums = packed.shape[1], np.full(rows, -1)
    for kind in ("u1", "u2"):
        spread = np.full((rows, width * 8 // bits), 99, kind)
        UNPACKING[bits, "bytes" if kind == "u1" else "words"](packed, spread.view(np.uint8), sums)
        np.testing.assert_array_equal(spread[:, :columns], codes)
        assert not spread[:, columns:].any()
        np.testing.assert_array_equal(sums, codes.sum(1, dtype=np.int64))
    if bits == 2:
        pairs, filled = np.full((rows, 2 * width), 99, np.uint8), np.zeros((rows, 2, 2, width), np.uint8)
        filled.reshape(rows, 4 * width)[:, :columns] = codes
        UNPACKING[2, "pairs"](packed, pairs, sums)
        np.testing.assert_array_equal(pairs, (16 * (filled[:, :, 0] + 4 * filled[:, :, 1])).reshape(rows, 2 * width))
        np.testing.assert_array_equal(sums, codes.sum(1, dtype=np.int64))


def test_packed_layout_is_planar_low_bits_first():
    codes = np.zeros((1, 64), np.uint8)
    codes[0, [0, 16, 32, 48]] = [3, 2, 1, 0]
    assert pack(codes, 2)[0, 0] == 3 | 2 << 2 | 1 << 4 and not pack(codes, 2)[0, 1:].any()


@pytest.mark.parametrize(
    ("codes", "bits", "width", "message"),
    [
        (np.zeros((1, 1), np.uint8), 3, None, "1, 2, 4, 8 bits, got 3"),
        (np.zeros((1, 1), np.int64), 2, None, "uint8 array, got int64"),
        (np.full((1, 1), 4, np.uint8), 2, None, "2-bit codes end at 3, got 4"),
        (np.zeros((1, 9), np.uint8), 2, 2, "9 codes of 2 bits do not fit 2 bytes"),
    ],
)
def test_pack_refuses(codes, bits, width, message):
    with pytest.raises(ValueError, match=message):
        pack(codes, bits, width)


def test_unpack_refuses():
    with pytest.raises(ValueError, match="hold 16 codes, not 17"):
        unpack(np.zeros((1, 4), np.uint8), 2, 17)
    with pytest.raises(ValueError, match="uint8 array, got float64"):
        unpack(np.zeros((1, 4)), 2, 3)
