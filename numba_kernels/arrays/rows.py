"""Which functions work on each row of an array by itself, so that some rows of a result need the same rows only.

A rule takes a function's arguments by name and the arrays among them that have a row an edge (by identity), and says
whether the result has a row an edge too, computed of that row alone.
"""

from __future__ import annotations

import numpy as np

from . import activations, elementwise
from .registry import FUNCTIONS


def _arrays(arguments):
    for argument in arguments.values():
        yield from (part for part in (argument if isinstance(argument, (list, tuple)) else [argument])
                    if isinstance(part, np.ndarray))  # fmt: skip


def _is_in(array, rows):
    return any(array is row for row in rows)


def _broadcast(arguments, rows):
    """Number by number: whatever else there is is the same for all rows."""
    ndim = rows[0].ndim
    others = [array for array in _arrays(arguments) if not _is_in(array, rows)]
    fit = all(array.ndim < ndim or (array.ndim == ndim and len(array) == 1) for array in others)
    return fit and all(row.ndim == ndim for row in rows)


def _along(*names):
    """Along dimensions other than the first, of the array that comes first."""

    def rule(arguments, rows):
        first = next(iter(arguments.values()))
        arrays = first if isinstance(first, list) else [first]
        ndim = arrays[0].ndim
        dims = [arguments[name] for name in names]
        dims = [dim for part in dims for dim in (part if isinstance(part, (list, tuple)) else [part])]
        fit = all(type(dim) is int and -ndim < dim < ndim and dim % ndim for dim in dims)
        return bool(dims) and fit and all(_is_in(array, rows) and array.ndim == ndim for array in arrays)

    return rule


def _unsqueeze(arguments, rows):
    ndim = arguments["input"].ndim + 1
    return -ndim < arguments["dim"] < ndim and arguments["dim"] % ndim != 0


def _product(arguments, rows):
    """Rows times one matrix."""
    first, *others = _arrays(arguments)
    return _is_in(first, rows) and first.ndim >= 2 and others[0].ndim == 2 and not any(_is_in(o, rows) for o in others)


def _reshape(arguments, rows):
    first, *rest = (part for size in arguments["shape"] for part in (size if isinstance(size, list) else [size]))
    count = len(arguments["input"])
    whole = all(size > 0 for size in rest) and int(np.prod(rest)) * count == arguments["input"].size
    return whole and first in (-1, count)


def _getitem(arguments, rows):
    index = arguments["index"]
    is_kept = isinstance(index, list) and index[:1] == [slice(None)]
    return (
        _is_in(arguments["input"], rows)
        and is_kept
        and all(part is None or type(part) is int or isinstance(part, slice) for part in index)
    )


# All of these two files work number by number, but for these.
BY_NUMBER = [
    name
    for name, function in FUNCTIONS.items()
    if function.function.__module__ in (activations.__name__, elementwise.__name__) and name not in ("glu", "prelu")
]
ALONG_DIM = (
    *("sum", "mean", "max", "min", "amax", "amin", "prod", "std", "var", "norm", "argmax", "argmin"),
    *("softmax", "log_softmax", "normalize", "glu", "cat"),
)
RULES = {
    **dict.fromkeys(BY_NUMBER, _broadcast),
    **dict.fromkeys(ALONG_DIM, _along("dim")),
    "transpose": _along("dim0", "dim1"),
    "flatten": _along("start_dim"),
    "unsqueeze": _unsqueeze,
    "squeeze": _along("dim"),
    "linear": _product,
    "matmul": _product,
    "reshape": _reshape,
    "getitem": _getitem,
}


def is_by_rows(name: str, args: list, kwargs: dict, rows: list) -> bool:
    """Whether a function gives a row an edge of arrays that have one, ``rows``, each of that row alone."""
    bound = FUNCTIONS[name].signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return RULES[name](bound.arguments, rows)
