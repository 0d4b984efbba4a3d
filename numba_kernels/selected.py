"""Columns of features that a model reads, of all there are."""

from __future__ import annotations

import numpy as np

from .errors import GraphError


def packed_mask(index: np.ndarray, total: int) -> np.ndarray:
    """Which of ``total`` columns are in ``index``, a bit each, low bits first, uint8."""
    mask = np.zeros(total, np.bool_)
    mask[index] = True
    return np.packbits(mask, bitorder="little")


def unpacked_index(mask: np.ndarray, total: int) -> np.ndarray:
    """The columns, ascending, that :func:`packed_mask` was given."""
    return np.flatnonzero(np.unpackbits(mask, count=total, bitorder="little"))


class Selected:
    """Columns ``index``, ascending, of features that have ``total``."""

    def __init__(self, index: np.ndarray, total: int):
        self.index, self.total = index, total

    def check(self, shape: tuple, name: str) -> bool:
        """Whether features of a shape are whole; with these columns alone they are taken as they are.

        Raises
        ------
        GraphError
            When they have other columns.
        """
        if shape[1] not in (self.total, len(self.index)):
            raise GraphError(
                f"{name} must have {self.total} columns, or the {len(self.index)} of them that the model reads, "
                f"got {shape[1]}."
            )
        return shape[1] == self.total

    def of(self, features, name: str):
        """The columns of an array, or of what gives rows for slices."""
        if not self.check(features.shape, name):
            return features
        if isinstance(features, np.ndarray):
            return np.take(features, self.index, axis=1)
        return _SelectedRows(features, self.index)


def selections(plan) -> dict[int, Selected]:
    """By value, the inputs of a plan of which some columns are read."""
    chosen = [entry for entry in plan.inputs if "columns" in entry]
    return {entry["value"]: Selected(plan.columns_read(entry), entry["columns"]["total"]) for entry in chosen}


class _SelectedRows:
    """What gives rows for slices, with some columns; ``given`` and ``written`` tell of all, as of what has all."""

    def __init__(self, rows, index):
        self._rows, self._index, self.shape = rows, index, (rows.shape[0], len(index))
        self.given = getattr(rows, "given", rows)
        self.nbytes = 4 * self.shape[0] * self.shape[1]

    @property
    def written(self):
        return getattr(self._rows, "written", None)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        part = np.asarray(self._rows[rows])
        return np.take(part, self._index, axis=1) if part.ndim == 2 else part
