"""Codes to packed rows and back, in NumPy. Kernels pack and unpack in their own loops."""

from __future__ import annotations

import numpy as np

from .layout import check_bits, row_bytes


def pack(codes: np.ndarray, bits: int, width: int | None = None) -> np.ndarray:
    """Pack codes into rows of bytes.

    Parameters
    ----------
    codes : (rows, columns) uint8 array
    bits : int
        1, 2, 4 or 8.
    width : int, optional
        Bytes of a row. Default: the layout's padded width.

    Returns
    -------
    numpy.ndarray
        (rows, width) uint8.

    Raises
    ------
    ValueError
        For bits that are not 1, 2, 4 or 8, codes of another dtype or beyond 2^bits − 1, or too small a width.

    Examples
    --------
    >>> pack(np.array([[1, 2, 3]], np.uint8), bits=2, width=1)
    array([[57]], dtype=uint8)
    """
    check_bits(bits)
    if codes.ndim != 2 or codes.dtype != np.uint8:
        raise ValueError(f"codes must be a (rows, columns) uint8 array, got {codes.dtype} of shape {codes.shape}.")
    if codes.size and codes.max() >= 1 << bits:
        raise ValueError(f"{bits}-bit codes end at {(1 << bits) - 1}, got {codes.max()}.")
    rows, columns = codes.shape
    width = row_bytes(columns, bits) if width is None else width
    planes = 8 // bits
    if planes * width < columns:
        raise ValueError(f"{columns} codes of {bits} bits do not fit {width} bytes.")
    spread = np.zeros((rows, planes * width), np.uint8)
    spread[:, :columns] = codes
    packed = np.zeros((rows, width), np.uint8)
    for plane in range(planes):
        packed |= spread[:, plane * width : (plane + 1) * width] << np.uint8(plane * bits)
    return packed


def unpack(packed: np.ndarray, bits: int, columns: int) -> np.ndarray:
    """Codes of packed rows.

    Parameters
    ----------
    packed : (rows, W) uint8 array
    bits : int
        1, 2, 4 or 8.
    columns : int
        Codes of a row.

    Returns
    -------
    numpy.ndarray
        (rows, columns) uint8.

    Raises
    ------
    ValueError
        For bits that are not 1, 2, 4 or 8, packed rows of another dtype, or more columns than the rows hold.

    Examples
    --------
    >>> unpack(np.array([[57]], np.uint8), bits=2, columns=3)
    array([[1, 2, 3]], dtype=uint8)
    """
    check_bits(bits)
    if packed.ndim != 2 or packed.dtype != np.uint8:
        raise ValueError(f"packed rows must be a (rows, W) uint8 array, got {packed.dtype} of shape {packed.shape}.")
    planes = 8 // bits
    if columns > planes * packed.shape[1]:
        raise ValueError(f"rows of {packed.shape[1]} bytes hold {planes * packed.shape[1]} codes, not {columns}.")
    mask = np.uint8((1 << bits) - 1)
    blocks = [(packed >> np.uint8(plane * bits)) & mask for plane in range(planes)]
    return np.ascontiguousarray(np.concatenate(blocks, axis=1)[:, :columns])
