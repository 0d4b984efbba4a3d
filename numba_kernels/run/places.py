"""Where the values of a stage stand: in memory or in the tile a thread works on."""

from __future__ import annotations

import numpy as np

from ..kernels import fields
from ..kernels.fields import Matrix, Operand, Target
from ..plan.resolve import GATHERS, whole
from .matrices import Codes, Floats, Grid
from .program import Argument

# Bytes from which a float matrix is written past the caches.
STREAM_FROM = 1 << 24


class Places:
    """Finds room for what a stage writes, and says in the fields of a program where what it reads stands.

    Parameters
    ----------
    schedule : Schedule
    stage : Stage
    program : Program
        Of the stage.
    values : dict
        Floats and Codes in memory by value; those of this stage are added. Of floats that are arguments, features given
        and outputs, the address is filled in when the program is launched.
    sparse : set
        Features most of which is 0.
    buffers : Buffers
    """

    def __init__(self, schedule, stage, program, values, sparse, buffers):
        self.schedule, self.stage, self.program = schedule, stage, program
        self.values, self.sparse, self.buffers = values, sparse, buffers
        self.local, self.local_weights = {}, {}  # codes that never leave the tile: their operands, and powers of two

    def codes(self, value) -> Codes:
        """Codes that stand in memory."""
        return self.values[whole(value)]

    # -- floats -----------------------------------------------------------------------------------------
    def matrix(self, value) -> tuple[Matrix, int]:
        """Where floats stand in memory, and how many columns of them are read."""
        floats = self.values[whole(value)]
        if isinstance(floats.array, Argument):
            flag = Argument("flag", floats.array.value) if floats.array.kind == "in" else 0
            return Matrix(floats.array, floats.columns, flag), floats.columns
        stride = floats.array.shape[1]
        return Matrix(self.program.at(floats.array), stride, 0), stride

    def new_floats(self, value) -> Matrix:
        """Memory for floats needed beyond this stage."""
        columns = self.schedule.columns[value]
        if value in self.schedule.kept:
            self.values[value] = Floats(Argument("out", value), columns)
            return Matrix(Argument("out", value), columns, Argument("stream", value))
        stride = -(-columns // 16) * 16
        array = self.buffers.take((self.stage.rows, stride), np.float32)
        self.values[value] = Floats(array, columns)
        return Matrix(self.program.at(array), stride, int(array.nbytes > STREAM_FROM))

    # -- codes ------------------------------------------------------------------------------------------
    def new_codes(self, value, grid: Grid):
        """Room for codes made here, in the tile only where no other stage and no sum reads them."""
        readers = self.schedule.readers[value]
        stack = next((op for op in readers if op.name == "stack"), None)
        if stack is not None:
            self.values[value] = self._part_of(stack, value, grid)
        elif self.schedule.stays(value) and not any(op.name in GATHERS for op in readers):
            self._in_tile(value, grid)
        else:
            self.values[value] = self._in_memory(grid, self.stage.rows)

    def _in_tile(self, value, grid):
        packed = self.program.local(grid.width)
        if grid.per_row:
            scale, zero = self.program.local(4), self.program.local(4)
        else:
            scale, zero = self.program.at(grid.scale), self.program.at(grid.zero)
        self.local[value] = Operand(packed, grid.width, grid.bits, 1, int(grid.per_row), scale, zero)
        self.local_weights[value] = self.program.local(1) if grid.mode == fields.SHIFT else 0

    def _in_memory(self, grid, rows):
        packed = self.buffers.take((rows, grid.width), np.uint8)
        scale, zero = grid.scale, grid.zero
        if grid.per_row:
            scale, zero = (self.buffers.take((rows,), np.float32) for _ in range(2))
        weights = self.buffers.take((rows,), np.int8) if grid.mode == fields.SHIFT else None
        return Codes(packed, grid, scale, zero, weights)

    def _part_of(self, stack, value, grid):
        """The rows for ``value`` among those of the stack that it is part of."""
        (out,) = stack.writes
        if out not in self.values:
            self.values[out] = self._in_memory(grid, stack.rows)
        codes, rows = self.values[out], self.stage.rows
        first = stack.reads.index(value) * rows
        chosen = slice(first, first + rows)
        scale, zero = (part[chosen] if grid.per_row else part for part in (codes.scale, codes.zero))
        weights = None if codes.weights is None else codes.weights[chosen]
        return Codes(codes.packed[chosen], grid, scale, zero, weights)

    def looks_up(self, value, out, grid: Grid) -> bool:
        """Whether a product reads ``value``, features, without their codes being made: most of them are 0."""
        readers = self.schedule.readers[out]
        possible = value in self.sparse and grid.is_uniform and grid.mode != fields.SHIFT and self.schedule.stays(out)
        return possible and all(op.name == "linear" for op in readers)

    # -- fields -----------------------------------------------------------------------------------------
    def operand(self, value) -> Operand:
        """Codes to read."""
        if value in self.local:
            return self.local[value]
        codes, at = self.codes(value), self.program.at
        grid = codes.grid
        return Operand(at(codes.packed), grid.width, grid.bits, 0, int(grid.per_row), at(codes.scale), at(codes.zero))

    def target(self, value, grid: Grid, factor=0) -> Target:
        """Codes to write, or, where there is no room for them, to look up; ``factor`` is the address of row factors."""
        at = self.program.at
        if value in self.local:
            packed, width, bits, local, _, scale, zero = self.local[value]
            weights = self.local_weights[value]
        elif value in self.values:
            packed, width, bits, local, _, scale, zero = self.operand(value)
            weights = at(self.values[value].weights)
        else:
            packed, width, bits, local, weights = 0, grid.width, grid.bits, 0, 0
            scale, zero = at(grid.scale), at(grid.zero)
        return Target(
            packed, width, bits, grid.top, local, scale, zero, factor, grid.mode, at(grid.inverse), at(grid.offset),
            *grid.ranges, weights,
        )  # fmt: skip
