"""Columns of features that a model reads, of all there are."""

from __future__ import annotations

import numpy as np

from .errors import GraphError
from .once import once


def packed_mask(index: np.ndarray, total: int) -> np.ndarray:
    """Which of ``total`` columns are in ``index``, a bit each, low bits first, uint8."""
    mask = np.zeros(total, np.bool_)
    mask[index] = True
    return np.packbits(mask, bitorder="little")


def unpacked_index(mask: np.ndarray, total: int) -> np.ndarray:
    """The columns, ascending, that :func:`packed_mask` was given."""
    return np.flatnonzero(np.unpackbits(mask, count=total, bitorder="little"))


class Selected:
    """Columns ``index``, ascending, of features that have ``total``; and what kernels find them by.

    Whole features stay as they are: kernels read these columns of their rows. Features may also come with these columns
    alone, which are then all there are.
    """

    def __init__(self, index: np.ndarray, total: int):
        self.index, self.total = index, total

    def check(self, features, name: str) -> None:
        """Raise GraphError for features that have neither all columns nor these alone."""
        if features.shape[1] not in (self.total, len(self.index)):
            raise GraphError(
                f"{name} must have {self.total} columns, or the {len(self.index)} of them that the model reads, "
                f"got {features.shape[1]}."
            )

    def of(self, rows: np.ndarray) -> np.ndarray:
        """These columns of whole rows, copied."""
        return np.take(rows, self.index, axis=1)

    @once
    def places(self) -> np.ndarray:
        """Where they stand in a row, (columns,) int32."""
        return self.index.astype(np.int32)

    @once
    def bits(self) -> np.ndarray:
        """A bit for each column of a row, low bits first, whether it is one of them, (⌈total / 64⌉,) int64."""
        mask = np.zeros(-(-self.total // 64) * 8, np.uint8)
        packed = packed_mask(self.index, self.total)
        mask[: len(packed)] = packed
        return mask.view("<i8").astype(np.int64)

    @once
    def ranks(self) -> np.ndarray:
        """How many of them stand before each column of a row, (total,) int32."""
        return np.searchsorted(self.index, np.arange(self.total)).astype(np.int32)


def selections(plan) -> dict[int, Selected]:
    """By value, the inputs of a plan of which some columns are read."""
    chosen = [entry for entry in plan.inputs if "columns" in entry]
    return {entry["value"]: Selected(plan.columns_read(entry), entry["columns"]["total"]) for entry in chosen}


def read_of(features, selected: Selected | None) -> Selected | None:
    """Which columns of features are read where ``selected`` are; None for all that they have."""
    is_whole = selected is not None and features.shape[1:] == (selected.total,)
    return selected if is_whole else None


def shape_read(features, selected: Selected | None) -> tuple:
    """The shape of what is read of features."""
    read = read_of(features, selected)
    return features.shape if read is None else (features.shape[0], len(read.index))
