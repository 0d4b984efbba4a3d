"""A plan's program for one class of shapes: instructions of all its stages, and what each run fills in.

A program is assembled once, and never changes. What differs from run to run — addresses of arguments, of graphs' arrays
and of the memory between stages, numbers of rows — are its *references*: each has a number, found when a run begins.
All of them are written at once into a copy of the instructions that is the run's, so that threads may share a program.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, NamedTuple

import numpy as np

from ..kernels.instruction import HEADER_BYTES, Instruction, flatten, to_bits
from ..layout import padded
from .memory import address_of

# Of a stage: addresses of its first instruction and behind its last, address of its bounds, blocks, rows of a tile,
# floats of a slot's row; then bounds of its own for one block; address of the instruction that finds the rows of a tile
# that are awake, 0 where all are, and where in the scratch it says so.
STAGE_NUMBERS = 10
FIRST, LAST, BOUNDS, BLOCKS, TILE_ROWS, STRIDE, OWN_BOUNDS, ROWS, WAKE, AWAKE = range(10)
_NO_WAKE = -1  # before addresses are known

# Floats of a tile's widest slot: what stays in the fastest cache beside weights and codes.
_TILE_FLOATS = 4096
_MOST_ROWS, LEAST_TILE_ROWS = 64, 8


@dataclass(frozen=True)
class Reference:
    """A field that each run fills in: the place of its number among a run's."""

    place: int


@dataclass(frozen=True)
class Slot:
    """A field that is where a slot begins in the scratch."""

    number: int


@dataclass(frozen=True)
class Area:
    """A field that is where an area of the scratch begins."""

    name: object


# Where WAKE says which rows are awake: the first of a run, and how many.
AWAKE_AT = Area("awake")


class StageProgram:
    """Instructions of one stage, as they are added."""

    def __init__(self):
        self.instructions, self.areas, self.row_areas = [], {}, {}
        self.num_slots, self.widest, self.wakes = 0, 1, False

    def add(self, instruction: Instruction, variant: tuple, fields: NamedTuple) -> None:
        """Append an instruction."""
        self.instructions.append((instruction, variant, flatten(fields)))
        self.widest = max(self.widest, getattr(fields, "columns", 1))

    def wake(self, instruction: Instruction, variant: tuple, fields: NamedTuple) -> None:
        """Find by an instruction the rows that the others work on, one run of them after another."""
        self.instructions.insert(0, (instruction, variant, flatten(fields)))
        self.wakes = True

    def area(self, name, size: int) -> Area:
        """Scratch of at least ``size`` bytes."""
        self.areas[name] = max(self.areas.get(name, 0), size)
        return Area(name)

    def area_of_rows(self, name, row_size: int) -> Area:
        """Scratch of at least ``row_size`` bytes for each row of a tile."""
        self.row_areas[name] = max(self.row_areas.get(name, 0), row_size)
        return Area(name)

    def slot(self, number: int) -> Slot:
        """A slot as a field."""
        self.num_slots = max(self.num_slots, number + 1)
        return Slot(number)

    def lay_out(self):
        """Rows of a tile, floats of a slot's row, bytes of scratch, and where slots and areas begin in it."""
        stride = padded(self.widest)
        rows = min(max(_TILE_FLOATS // stride // LEAST_TILE_ROWS, 1) * LEAST_TILE_ROWS, _MOST_ROWS)
        sizes = {Slot(n): rows * stride * 4 for n in range(self.num_slots)}
        sizes.update({Area(name): size for name, size in self.areas.items()})
        for name, size in self.row_areas.items():
            sizes[Area(name)] = max(sizes.get(Area(name), 0), rows * size)
        starts, end = {}, 0
        for place, size in sizes.items():
            starts[place] = end
            end += -(-size // 64) * 64
        return rows, stride, end, starts


@dataclass(frozen=True)
class Program:
    """Instructions of all stages, laid out.

    Attributes
    ----------
    stages : (S, STAGE_NUMBERS) int64
        Addresses in them count from the beginning of what they are in.
    code : (n,) int64
    references : list of callables
        From a run to the number of each reference.
    alive : list
        Arrays that instructions refer to.
    scratch_size : int
        Bytes of scratch that the largest stage asks for.
    names : list of list of str
        The instructions of each stage.
    places, sources : (m,) int64
        Where in the code references are written, and which.
    """

    stages: np.ndarray
    code: np.ndarray
    references: list[Callable]
    alive: list
    scratch_size: int
    names: list[list[str]]
    places: np.ndarray = field(repr=False)
    sources: np.ndarray = field(repr=False)


class Filled:
    """A run's own copy of a program, filled in with what differs between runs.

    Attributes
    ----------
    program : Program
    stages_at : int
        The address of the stages' numbers.
    """

    def __init__(self, program: Program, rows: list[int]):
        self.program, self._code, self._stages = program, program.code.copy(), program.stages.copy()
        self.stages_at = address_of(self._stages)
        self._stages[:, [FIRST, LAST]] += address_of(self._code)
        wake = self._stages[:, WAKE]
        self._stages[:, WAKE] = np.where(wake == _NO_WAKE, 0, wake + address_of(self._code))
        self._stages[:, BOUNDS] += self.stages_at
        self._stages[:, ROWS] = rows
        self._own_bounds, self._bounds = self._stages[:, BOUNDS].copy(), {}  # the latter by stage

    def set_bounds(self, number: int, bounds: np.ndarray) -> None:
        """Cut the rows of a stage, which are one block otherwise, into blocks between ``bounds``."""
        self._bounds[number] = bounds  # kept as long as the stage may run
        self._stages[number, BLOCKS], self._stages[number, BOUNDS] = len(bounds) - 1, address_of(bounds)

    def as_one_block(self, number: int) -> None:
        """Take a cut back: blocks of a batch do not reach the rows of the next one."""
        if self._bounds.pop(number, None) is not None:
            self._stages[number, BLOCKS], self._stages[number, BOUNDS] = 1, self._own_bounds[number]

    def fill_in(self, run) -> None:
        """Write the numbers of all references."""
        program = self.program
        if len(program.places):
            numbers = np.array([reference(run) for reference in program.references], np.int64)
            self._code[program.places] = numbers[program.sources]


def build(stages: list[StageProgram], references: list[Callable], alive: list) -> Program:
    """Lay out the instructions of ``stages``, compiling those that this process has not met."""
    numbers, code, places, sources, size = np.zeros((len(stages), STAGE_NUMBERS), np.int64), [], [], [], 0
    for n, stage in enumerate(stages):
        rows, stride, scratch, starts = stage.lay_out()
        numbers[n, [FIRST, TILE_ROWS, STRIDE, WAKE]] = len(code), rows, stride, _NO_WAKE
        for place, (instruction, variant, fields) in enumerate(stage.instructions):
            if stage.wakes and place == 1:
                numbers[n, [FIRST, WAKE, AWAKE]] = len(code), 8 * numbers[n, FIRST], starts[AWAKE_AT]
            code += [instruction.address(*variant), HEADER_BYTES + 8 * len(fields)]
            for kind, value in zip(instruction.leaves, fields):
                if isinstance(value, Reference):
                    places.append(len(code))
                    sources.append(value.place)
                    value = 0
                code.append(to_bits(kind, starts[value] if isinstance(value, (Slot, Area)) else value))
        numbers[n, LAST], size = len(code), max(size, scratch)
    numbers[:, [FIRST, LAST]] *= 8
    numbers[:, BLOCKS] = 1
    numbers[:, BOUNDS] = 8 * (OWN_BOUNDS + STAGE_NUMBERS * np.arange(len(stages)))
    names = [[instruction.name for instruction, _, _ in stage.instructions] for stage in stages]
    return Program(
        numbers, np.array(code, np.int64), references, alive, size, names,
        np.array(places, np.int64), np.array(sources, np.int64),
    )  # fmt: skip
