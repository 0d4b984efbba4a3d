"""Where the values of a stage stand: in memory or in the tile a thread works on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..kernels.fields import GROUP, INTEGER, SHIFT, SIGN, Chosen, Matrix, Operand, Target
from ..plan.resolve import whole
from ..selected import Selected
from .codes import Codes
from .matrices import Grid
from .memory import address_of, aligned_empty


@dataclass(frozen=True)
class Floats:
    """Rows of float32 in memory: address and, for those that are arguments, the address of their flag, as fields."""

    address: Any
    stride: int
    flag: Any = 0
    read: Selected | None = None  # which columns of arguments are


@dataclass(frozen=True)
class CodesAt:
    """Packed codes in memory: addresses, as fields."""

    grid: Grid
    packed: Any
    scale: Any
    zero: Any
    powers: Any = 0  # a row's
    buffers: dict = field(default_factory=dict)  # of what is a row's: numbers of buffers
    sent: Any = 0  # which rows are, or 0 for all

    def operand(self) -> Operand:
        """They as what is read."""
        grid = self.grid
        return Operand(self.packed, grid.width, grid.bits, 0, int(grid.per_row), self.scale, self.zero)

    @property
    def is_shifted(self) -> bool:
        """Whether rows are multiples of a common scale by powers of two."""
        return self.grid.mode == SHIFT


def given_codes(value, codes: Codes, assembly) -> CodesAt:
    """Where the codes of ``value`` stand that runs like one with these ``codes`` are given."""

    def at(name):
        return assembly.reference(("codes", value, name), lambda run: address_of(getattr(run.codes[value], name)))

    return CodesAt(codes.grid, at("packed"), at("scale"), at("zero"), 0 if codes.powers is None else at("powers"))


def empty_codes(rows: int, grid: Grid) -> Codes:
    """Room for codes on a grid."""
    scale, zero = (aligned_empty((rows,), np.float32) for _ in range(2)) if grid.per_row else (grid.scale, grid.zero)
    powers = aligned_empty((rows,), np.int8) if grid.mode == SHIFT else None
    return Codes(aligned_empty((rows, grid.width), np.uint8), grid, scale, zero, powers)


class Places:
    """Finds room for what a stage writes, and says in fields of instructions where what it reads stands.

    Parameters
    ----------
    schedule, stage
        What runs, and of it what runs here.
    assembler : StageAssembler
        Whose program refers to memory.
    values : dict
        Floats and CodesAt in memory by value; those of this stage are added.
    sparse : set
        Features most of which is 0.
    """

    def __init__(self, schedule, stage, assembler, values, sparse):
        self.schedule, self.stage, self.assembler = schedule, stage, assembler
        self.values, self.sparse = values, sparse
        self.local, self.local_powers = {}, {}  # codes that never leave the tile: their operands, and powers of two

    def codes(self, value) -> CodesAt:
        """Codes that stand in memory."""
        return self.values[whole(value)]

    def gathered(self, value, graph) -> CodesAt:
        """Codes that the sources of a graph are read of: in memory, or where they were brought together."""
        codes = self.codes(value)
        at = {name: self.assembler.gathered(graph, number) for name, number in codes.buffers.items()}
        return replace(codes, **at)

    # -- floats -----------------------------------------------------------------------------------------
    def matrix(self, value) -> tuple[Matrix, int]:
        """Where floats stand in memory, and how many columns of them are read."""
        floats = self.values[whole(value)]
        places = None if floats.read is None else floats.read.places
        columns = floats.stride if places is None else len(places)
        return Matrix(floats.address, floats.stride, floats.flag, self.assembler.at(places)), columns

    def chosen(self, value) -> Chosen:
        """Which columns of floats in memory are read."""
        read, at = self.values[whole(value)].read, self.assembler.at
        return Chosen(0, 0) if read is None else Chosen(at(read.bits), at(read.ranks))

    def new_floats(self, value) -> tuple[Matrix, Any]:
        """Memory for floats needed beyond this stage, and for how many rows, as a field."""
        columns, rows = self.schedule.columns[value], self.schedule.rows_beyond(value)
        if value in self.schedule.kept:
            stride = columns
            address, stream = self.assembler.output(value)
        else:
            stride = -(-columns // 16) * 16
            address, stream = self.assembler.memory(value, "rows", rows, 4 * stride)
        self.values[value] = Floats(address, stride)
        return Matrix(address, stride, stream), self.assembler.rows(rows)

    # -- codes ------------------------------------------------------------------------------------------
    def new_codes(self, value, grid: Grid):
        """Room for codes made here, in the tile only where no other stage and no sum reads them."""
        if value in self.values:  # there is room, given from outside
            return
        readers = self.schedule.readers[value]
        stack = next((op for op in readers if op.name == "stack"), None)
        if stack is not None:
            self.values[value] = self._part_of(stack, value, grid)
        elif self.schedule.stays(value) and not any(op.gathers for op in readers):
            self._in_tile(value, grid)
        else:
            self.values[value] = self._in_memory(value, grid, self.stage.rows)

    def sent_rows(self, value, grid: Grid) -> Any:
        """Room in memory for changes made here, and for which rows of them are sent; the latter as a field."""
        sent = self.assembler.memory(value, "sent", self.stage.rows, 1)[0]
        self.values[value] = replace(self._in_memory(value, grid, self.stage.rows), sent=sent)
        return sent

    def _in_tile(self, value, grid):
        area, at = self.assembler.area_of_rows, self.assembler.at
        packed = area(("packed", value), grid.width)
        scale, zero = at(grid.scale), at(grid.zero)
        if grid.per_row:
            scale, zero = area(("scale", value), 4), area(("zero", value), 4)
        self.local[value] = Operand(packed, grid.width, grid.bits, 1, int(grid.per_row), scale, zero)
        self.local_powers[value] = area(("powers", value), 1) if grid.mode == SHIFT else 0

    def _in_memory(self, value, grid, rows, first=0, total=None):
        """Room for ``rows``, those from ``first`` on of ``total`` where they are part of a stack."""
        at, powers, buffers = self.assembler.at, 0, {}

        def memory(name, row_bytes):
            buffers[name] = self.assembler.assembly.buffer(value, name, rows if total is None else total, row_bytes)
            return self.assembler.memory(value, name, rows, row_bytes, first, total)[0]

        packed, scale, zero = memory("packed", grid.width), at(grid.scale), at(grid.zero)
        if grid.per_row:
            scale, zero = memory("scale", 4), memory("zero", 4)
        if grid.mode == SHIFT:
            powers = memory("powers", 1)
        return CodesAt(grid, packed, scale, zero, powers, buffers)

    def _part_of(self, stack, value, grid):
        """The rows for ``value`` among those of the stack that it is part of."""
        (out,) = stack.writes
        if out not in self.values:
            self.values[out] = self._in_memory(out, grid, stack.rows)
        return self._in_memory(out, grid, self.stage.rows, stack.reads.index(value), stack.rows)

    def looks_up(self, value, out, grid: Grid) -> bool:
        """Whether a product reads ``value``, features, without their codes being made: most of them are 0."""
        is_served = grid.is_uniform and grid.mode not in (SHIFT, SIGN, GROUP)
        possible = is_served and value in self.sparse and self.schedule.stays(out)
        # Numbers and results are integers in both, or in neither.
        is_integer, readers = grid.mode == INTEGER, self.schedule.readers[out]
        return possible and all(op.name == "linear" and ("unit" in op.spec) == is_integer for op in readers)

    # -- fields -----------------------------------------------------------------------------------------
    def operand(self, value) -> Operand:
        """Codes to read."""
        if value in self.local:
            return self.local[value]
        return self.codes(value).operand()

    def target(self, value, grid: Grid, factor=0) -> Target:
        """Codes to write, or, where there is no room for them, to look up; ``factor`` is the address of row factors."""
        at = self.assembler.at
        if value in self.local:
            packed, width, bits, local, _, scale, zero = self.local[value]
            powers = self.local_powers[value]
        elif value in self.values:
            packed, width, bits, local, _, scale, zero = self.operand(value)
            powers = self.values[value].powers
        else:
            packed, width, bits, local, powers = 0, grid.width, grid.bits, 0, 0
            scale, zero = at(grid.scale), at(grid.zero)
        alpha, range_qmax, divisor, added = grid.ranges
        return Target(
            packed, width, bits, grid.top, local, scale, zero, factor, grid.mode, at(grid.inverse), at(grid.offset),
            alpha, range_qmax, divisor, added, powers, self.assembler.assembly.fault,
        )  # fmt: skip
