"""Packed rows: where a code stands in memory.

A matrix of b-bit codes has one row of W bytes a node. With k = 8 / b codes a byte, byte j holds columns
j, W + j, 2W + j, … in its 1st, 2nd, … group of b bits, low bits first. For 2-bit codes:

    byte j:   bits 7–6        5–4         3–2        1–0
              column 3W+j     2W+j        W+j        j

Unpacking is a shift and a mask of whole vectors, and yields contiguous blocks of columns. W is padded so that
rows are whole SIMD blocks; padding holds code 0.
"""

from __future__ import annotations

import numpy as np

PACKED_BITS = (1, 2, 4, 8)
_BLOCK = 64
# Indices that stand behind those of a graph's edges, so that kernels can fetch as many edges ahead without looking.
AHEAD = 96


def check_bits(bits: int) -> None:
    """Raise ValueError unless ``bits`` is a packed width: 1, 2, 4 or 8."""
    if bits not in PACKED_BITS:
        raise ValueError(f"packed codes have {', '.join(map(str, PACKED_BITS))} bits, got {bits!r}.")


def dense_bytes(columns: int, bits: int) -> int:
    """Bytes of a row without padding, as in files.

    >>> dense_bytes(7, 2), dense_bytes(9, 8)
    (2, 9)
    """
    return -(-columns * bits // 8)


def row_bytes(columns: int, bits: int) -> int:
    """Bytes W of a row in memory: 16 or 32 where the codes fit, else whole blocks of 64.

    >>> row_bytes(7, 2), row_bytes(128, 2), row_bytes(256, 2), row_bytes(602, 2)
    (16, 32, 64, 192)
    """
    dense = max(dense_bytes(columns, bits), 1)
    for small in (16, 32):
        if dense <= small:
            return small
    return -(-dense // _BLOCK) * _BLOCK


def storage_bits(bits: int) -> int:
    """Bits a code takes in a packed row: 3-bit codes are kept as 4.

    Rows of 3 bits, of which two planes are read, would be no shorter where it is common: padded they have as many bytes
    as those of 4 at 64, 128 and 256 columns.

    >>> [(row_bytes(columns, 3), row_bytes(columns, 4)) for columns in (64, 128, 256, 512)]
    [(32, 32), (64, 64), (128, 128), (192, 256)]
    """
    return 4 if bits == 3 else bits


def padded(columns: int) -> int:
    """Columns that every block of columns fits: 16, 32 or whole 64.

    >>> padded(7), padded(40), padded(256)
    (16, 64, 256)
    """
    return row_bytes(columns, 8)


def pad(numbers: np.ndarray, columns: int, dtype=np.float32) -> np.ndarray:
    """``numbers``, (1,) or (columns,), as a per-column array padded with zeros."""
    result = np.zeros(padded(columns), dtype)
    result[:columns] = numbers
    return result
