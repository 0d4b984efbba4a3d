"""Codes of a model's features that many runs share."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..plan.resolve import Op
from ..spec import CodedRows
from .matrices import Codes
from .places import empty_codes


@dataclass
class Coded:
    """What a model makes of features row by row, made once.

    Attributes
    ----------
    codes : dict
        Codes by value of the plan; before they ``are_made``, room for them.
    unread : set
        Features that are read by these codes only.
    """

    codes: dict = field(default_factory=dict)
    unread: frozenset = frozenset()
    are_made: bool = False


NOT_CODED = Coded()


def coded_features(ops: list[Op], features: dict, sparse: set) -> dict:
    """Of the operations those that make codes of ``features``, arrays by value, row by row, by the value they make.

    Codes of ``sparse`` features are left out, which need not be made, and those that are parts of a stack.
    """
    rows_of, found = {value: value for value in features}, {}
    for op in ops:
        feature = rows_of.get(op.reads[0]) if op.reads else None
        if op.name == "stack":
            found = {value: maker for value, maker in found.items() if value not in op.reads}
        elif feature is not None and op.rows == len(features[feature]):
            if op.name == "degree":
                rows_of[op.writes[0]] = feature
            elif op.name == "quantize" and feature not in sparse:
                found[op.writes[0]] = op
    return found


def slice_of(codes: Codes, start: int, stop: int) -> Codes:
    """The rows from ``start`` to below ``stop``, which are not copied."""
    rows, powers = slice(start, stop), codes.powers
    scale, zero = (part[rows] if codes.grid.per_row else part for part in (codes.scale, codes.zero))
    return Codes(codes.packed[rows], codes.grid, scale, zero, None if powers is None else powers[rows])


def values_of(codes: Codes) -> np.ndarray:
    """What codes stand for, (rows, columns) float32, to the bit that of a grid."""
    columns = slice(codes.grid.columns)
    scale, zero = (part[:, None] if codes.grid.per_row else part[columns] for part in (codes.scale, codes.zero))
    return CodedRows(codes.unpacked(), scale, zero).values()


def rows_of_codes(codes: Codes, rows: np.ndarray) -> Codes:
    """Some rows of codes."""
    taken = empty_codes(len(rows), codes.grid)
    of_rows = ["scale", "zero"] if codes.grid.per_row else []
    for name in ("packed", *of_rows, *([] if codes.powers is None else ["powers"])):
        np.take(getattr(codes, name), rows, axis=0, out=getattr(taken, name), mode="clip")  # rows are checked
    return taken
