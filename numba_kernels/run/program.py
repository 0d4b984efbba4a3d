"""Instructions of a stage, as they are added, laid out for the kernel."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..kernels.fields import FIELDS, HEADER, Scratch
from ..layout import padded

# Floats of a tile's widest slot: what stays in the fastest cache beside weights and codes.
_TILE_FLOATS = 4096
_MOST_ROWS, _ROW_GROUP = 64, 8


class Argument(NamedTuple):
    """A field that each launch fills in."""

    kind: str
    value: object


class Local(NamedTuple):
    """A field that is the place in the scratch of memory of the tile."""

    number: int


class Program:
    """Instructions of one stage, as they are added, and the arrays they refer to."""

    def __init__(self):
        self._code, self._alive, self._arguments, self._locals = [], [], [], []
        self._local_sizes, self._slots, self._widest, self._codes, self._totals = [], 0, 1, 64, 0

    def at(self, array: np.ndarray | None) -> int:
        """The address of a contiguous array, kept alive with the program; 0 for None."""
        if array is None:
            return 0
        if not array.flags.c_contiguous:
            raise ValueError("kernels read contiguous arrays only.")
        self._alive.append(array)
        return array.ctypes.data

    def add(self, operation: int, dst: int, src: int, columns: int, *parts):
        """Append an instruction; ``parts`` are the named tuples its fields are made of."""
        row = np.zeros(FIELDS, np.int64)
        row[:HEADER] = operation, dst, src, columns
        for n, field in enumerate((field for part in parts for field in part), HEADER):
            if isinstance(field, Argument):
                self._arguments.append((len(self._code), n, field))
            elif isinstance(field, Local):
                self._locals.append((len(self._code), n, field.number))
            elif isinstance(field, (float, np.floating)):
                row.view(np.float64)[n] = field
            else:
                row[n] = field
        self._code.append(row)
        self._slots = max(self._slots, dst + 1, src + 1)
        self._widest = max(self._widest, columns)

    def widen(self, columns: int):
        """Make rows of slots fit ``columns``."""
        self._widest = max(self._widest, columns)

    def reserve(self, codes: int = 0, totals: int = 0):
        """Ask for scratch: bytes of unpacked codes a row, int32 totals."""
        self._codes, self._totals = max(self._codes, codes), max(self._totals, totals)

    def local(self, row_size: int) -> Local:
        """Memory of the tile, ``row_size`` bytes a row."""
        self._local_sizes.append(row_size)
        return Local(len(self._local_sizes) - 1)

    def finish(self, bounds: np.ndarray) -> Launch:
        """The program, laid out, for the blocks of rows between ``bounds``."""
        code, stride = np.array(self._code, np.int64).reshape(-1, FIELDS), padded(self._widest)
        rows = min(max(_TILE_FLOATS // stride // _ROW_GROUP, 1) * _ROW_GROUP, _MOST_ROWS)
        sizes = [self._slots * rows * stride * 4, rows * self._codes, self._totals * 4, 2 * 64 * 4]
        sizes += [rows * size for size in self._local_sizes]
        starts = np.cumsum([0, *(-(-size // 64) * 64 for size in sizes)]).tolist()
        for row, n, number in self._locals:
            code[row, n] = starts[4 + number]
        scratch = Scratch(rows, stride, starts[1], starts[2], starts[3], starts[-1])
        return Launch(code, bounds, scratch, self._arguments, self._alive)


class Launch(NamedTuple):
    """What :func:`numba_kernels.stage.run` takes, and what to fill in before."""

    code: np.ndarray
    bounds: np.ndarray
    scratch: Scratch
    arguments: list  # (instruction, field, Argument)
    alive: list  # arrays the code refers to
