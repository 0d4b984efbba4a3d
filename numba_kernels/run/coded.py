"""Codes of a model's features that many runs share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from ..codebook import Codewords
from ..plan.resolve import Op
from ..spec import CodedRows
from .codes import Codes
from .places import empty_codes

Kind = TypeVar("Kind", Codes, Codewords)


@dataclass
class Coded:
    """What a model makes of features row by row, made once.

    Attributes
    ----------
    codes : dict
        Codes by value of the plan, or room for them.
    unread : set
        Features that are read by these codes only.
    made : frozenset
        Values whose codes there are; those of others a run writes.
    """

    codes: dict = field(default_factory=dict)
    unread: frozenset = frozenset()
    made: frozenset = frozenset()

    def with_room(self, value, codes: Codes) -> Coded:
        """The same, and room for the codes of one more value."""
        return Coded({**self.codes, value: codes}, self.unread, self.made)


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
        elif feature is not None and op.rows == features[feature].shape[0]:
            if op.name == "degree":
                rows_of[op.writes[0]] = feature
            elif op.name == "quantize" and feature not in sparse:
                found[op.writes[0]] = op
    return found


def grids_of_features(plan) -> dict:
    """The first grid on which a plan codes features as they are given, by the names of its inputs."""
    return {name: grids[0] for name, grids, _ in _readings(plan) if grids}


def are_read_once(plan) -> bool:
    """Whether features are read on one grid alone, so that codes on it stand for all that is read of them."""
    return all(len(grids) == 1 and not others for _, grids, others in _readings(plan))


def _readings(plan):
    """Of each input of features its name, the different grids it is coded on, and how many operations read it else."""
    views = {entry["value"]: entry["name"] for entry in plan.inputs if entry["kind"] == "features"}
    grids: dict = {name: [] for name in views.values()}
    others = dict.fromkeys(grids, 0)
    for op in plan.ops:
        for place, read in enumerate(op["in"]):
            name = views.get(read) if isinstance(read, (int, str)) else None
            if name is None:
                continue
            if op["op"] in ("source", "destination"):
                views[op["out"]] = name
            elif op["op"] == "quantize" and place == 0 and "norm" not in op:
                grid = plan.grids[op["out"]]
                grids[name] += [grid] if grid not in grids[name] else []
            else:
                others[name] += 1
    return [(name, grids[name], others[name]) for name in grids]


def kept_codes(ops: list[Op], given: dict, grids: dict) -> dict:
    """The values of ``ops`` that are codes of features, on the grid that these are given on; with which, and the codes.

    ``given`` are features, some of them :class:`Codes`; ``grids`` those of values of the plan.
    """
    found = {}
    for value, op in coded_features(ops, given, set()).items():
        codes = given.get(op.reads[0])
        grid = grids[op.spec["out"]]
        # Those of all columns, where some are read, are others.
        if isinstance(codes, Codes) and codes.shape[1] == op.columns and codes.grid.spec == grid:
            found[value] = op.reads[0], codes
    return found


def decoded(given):
    """Features as floats."""
    return values_of(given) if isinstance(given, Codes) else given


def stand_in(given):
    """For codes an array of their shape, which nothing reads and which takes no memory."""
    return np.broadcast_to(np.float32(0), given.shape) if isinstance(given, Codes) else given


def of_rows(codes: Codes | Codewords) -> dict[str, np.ndarray]:
    """What each row of codes has of its own, by name: packed codes, and scale and zero point of a grid of its own."""
    own = ["scale", "zero"] if isinstance(codes, Codes) and codes.grid.per_row else []
    powers = ["powers"] if isinstance(codes, Codes) and codes.powers is not None else []
    return {name: getattr(codes, name) for name in ("packed", *own, *powers)}


def joined(parts: list[Kind]) -> Kind:
    """The rows of codes of one grid or book, one after another."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, Codewords):
        return Codewords(np.concatenate([part.packed for part in parts]), first.book, first.columns)
    result = empty_codes(sum(part.shape[0] for part in parts), first.grid)
    for name, array in of_rows(result).items():
        np.concatenate([getattr(part, name) for part in parts], out=array)
    return result


def slice_of(codes: Kind, rows: slice) -> Kind:
    """The rows of a slice, which are not copied but where they do not follow one another."""
    own: dict[str, Any] = {name: np.ascontiguousarray(array[rows]) for name, array in of_rows(codes).items()}
    return replace(codes, **own)


def values_of(codes: Codes) -> np.ndarray:
    """What codes stand for, (rows, columns) float32, to the bit that of a grid."""
    columns = slice(codes.grid.columns)
    scale, zero = (part[:, None] if codes.grid.per_row else part[columns] for part in (codes.scale, codes.zero))
    return CodedRows(codes.unpacked(), scale, zero).values()


def rows_of_codes(codes: Codes, rows: np.ndarray) -> Codes:
    """Some rows of codes."""
    taken = empty_codes(len(rows), codes.grid)
    for name, array in of_rows(taken).items():
        np.take(getattr(codes, name), rows, axis=0, out=array, mode="clip")  # rows are checked
    return taken
