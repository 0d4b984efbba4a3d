"""What callers pass, read without trust: arrays and whole numbers, or one GraphError that names the argument."""

from __future__ import annotations

import operator

import numpy as np

from .errors import GraphError

# Kinds of dtypes that hold real numbers: floating point, integers, bools.
REAL = "fiub"


def given_array(values, name: str, kinds: str | None = None, instead: str = "") -> np.ndarray:
    """``values`` as an array, without a copy where they are one.

    Parameters
    ----------
    values
        What NumPy makes an array of.
    name : str
        Of the argument.
    kinds : str, optional
        Kinds of dtypes that are taken, as ``numpy.dtype.kind`` has them. Default: all.
    instead : str
        What to write where it is of another kind.

    Raises
    ------
    GraphError
        For what is no array, or one that is masked, sparse, ragged or of another kind.
    """
    refuse_unread(values, name)
    try:
        array = np.asarray(values)
    except Exception as error:  # whatever ``__array__`` raises
        raise GraphError(f"{name} must be an array, got {type(values).__name__}, which has none: {error}") from error
    if kinds is not None and array.dtype.kind not in kinds and array.size:
        raise GraphError(f"{name} must hold {_NAMES[kinds]}, got {array.dtype}{instead and '; ' + instead}.")
    return array


def refuse_unread(values, name: str) -> None:
    """Raise GraphError for arrays of which NumPy would read something else than they mean."""
    if isinstance(values, np.ma.MaskedArray):
        raise GraphError(f"{name} is masked, which kernels do not read; pass {name}.filled(0), or another number.")
    if hasattr(values, "tocoo"):
        raise GraphError(f"{name} is a sparse matrix; pass {name}.toarray().")


def whole_number(value, name: str, least: int, most: int | None = None) -> int:
    """``value``, of Python's, NumPy's or any other type of whole numbers, as an int.

    Raises
    ------
    GraphError
        For another type, bools among them, or a number that is not from ``least`` to ``most``.
    """
    try:
        number = None if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except (TypeError, ValueError, RuntimeError):  # as torch raises
        number = None
    if number is None or number < least or (most is not None and number > most):
        bounds = f"at least {least}" if most is None else f"from {least} to {most:,}"
        raise GraphError(f"{name} must be a whole number, {bounds}, got {value!r}.")
    return number


def checked_nodes(nodes, count: int, name: str = "nodes") -> np.ndarray:
    """Numbers of nodes, int64, from integers or a mask.

    Raises
    ------
    GraphError
        When they are none, or there is no node of such a number.
    """
    array = given_array(nodes, name)
    if array.dtype == np.bool_ and array.shape == (count,):
        return np.flatnonzero(array)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise GraphError(
            f"{name} must be node numbers, integers in one dimension, or a mask of {count} bools; got {array.dtype} of "
            f"shape {array.shape}."
        )
    if array.size and not 0 <= array.min() <= array.max() < count:
        raise GraphError(f"{name} must be from 0 to {count - 1}, got {array.min()} to {array.max()}.")
    return array.astype(np.int64, copy=False)


_NAMES = {"f": "floating point numbers", "iu": "integers", REAL: "numbers"}
