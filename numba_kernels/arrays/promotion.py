"""The dtypes of results: float32 where an operand is floating point, else int64 where one is an integer, else bool.

Numbers count by their Python type, and no dtype is wider than another of its kind, so torch's rule comes to this.
"""

from __future__ import annotations

import numpy as np

_BY_RANK = np.bool_, np.int64, np.float32


def _rank(operand):
    kind = operand.dtype.kind if isinstance(operand, np.ndarray) else np.dtype(type(operand)).kind
    return "bif".index(kind)


def promoted(*operands) -> list[np.ndarray]:
    """Arrays and numbers as arrays of one dtype."""
    dtype = _BY_RANK[max(map(_rank, operands))]
    return [np.asarray(operand, dtype) for operand in operands]


def floats(*operands):
    """Arrays and numbers as float32: a list of several, one by itself."""
    arrays = [np.asarray(operand, np.float32) for operand in operands]
    return arrays[0] if len(arrays) == 1 else arrays


def refuse_integers(name: str, array: np.ndarray) -> np.ndarray:
    """``array``, which must be floating point.

    Raises
    ------
    TypeError
        Otherwise.
    """
    if array.dtype.kind != "f":
        raise TypeError(f"{name} is of floating point numbers, got {array.dtype}; convert it first.")
    return array
