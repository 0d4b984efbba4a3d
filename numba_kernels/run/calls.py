"""Array functions between launches: what they read, run, and what becomes of their results."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..arrays import as_array
from ..graph import GraphError
from ..plan.resolve import Op, whole
from .edge_space import EdgeGroup, NotByRowsError, grouped
from .memory import address_of
from .runtime import share


@dataclass
class Step:
    """An operation that runs in NumPy between launches of kernels, or a group of them that runs edge by edge."""

    ops: list[Op]
    group: EdgeGroup | None
    floats: dict  # what kernels made of what is read: value → where it stands (Floats)
    shapes: dict  # of matrices: value → (place of its rows among a run's sizes, columns)
    needed: set  # results that something else reads
    done: list = field(default_factory=list)  # arrays that nothing reads from here on


def steps_of(schedule, numbers: list, values: dict, assembly) -> list[Step]:
    """What the stages of a schedule of these numbers, one after another, do; ``values`` says where matrices stand."""
    steps, kept, last_step = [], schedule.kept, {}
    for part in grouped([op for number in numbers for op in schedule.stages[number].ops]):
        group = part if isinstance(part, EdgeGroup) and len(part.ops) > 1 else None
        ops = part.ops if isinstance(part, EdgeGroup) else [part]
        names = {name for op in ops for name in op.names.values()}
        known = {name: schedule.rows[name] for name in names if schedule.rows[name] is not None}
        needed = {value for op in ops for value in op.writes
                  if value in kept or any(reader not in ops for reader in schedule.readers[value])}  # fmt: skip
        floats = {value: values[value] for op in ops for value in map(whole, op.reads) if value in values}
        shapes = {name: (assembly.size_of(rows), schedule.columns[name]) for name, rows in known.items()}
        last_step.update({whole(value): len(steps) for op in ops for value in op.reads})
        steps.append(Step(ops, group, floats, shapes, needed))
    last_read = {value: max(reading) for value, reading in schedule.read_in.items() if reading and value not in kept}
    for value, last in last_read.items():
        if last < numbers[0]:
            steps[0].done.append(value)
        elif last <= numbers[-1]:
            steps[last_step[value]].done.append(value)
    return steps


class Arrays:
    """The n-dimensional arrays of one run: those it is given, and those that array functions make.

    Parameters
    ----------
    given : dict
        By value.
    constants : dict
        The plan's arrays by name.
    """

    def __init__(self, given: dict, constants: dict):
        self.made, self.constants = dict(given), constants

    def address(self, value) -> int:
        """Where an array stands, 0 while it is not made."""
        return address_of(self.made[value]) if value in self.made else 0

    def take(self, step: Step, run) -> None:
        """Run a step, and drop what is not read any more."""
        readers = [_Reader(self, op, step, run) for op in step.ops]
        if step.group is None or not self._take_by_edge(step, readers, share(run.threads)):
            for op, reader in zip(step.ops, readers):
                for value, array in zip(op.writes, op.operation.run(op.spec, reader)):
                    is_view = any(np.may_share_memory(array, memory) for memory in reader.lent)
                    self.made[value] = array.copy() if is_view else array
        for value in step.done:
            self.made.pop(value, None)

    def _take_by_edge(self, step, readers, threads):
        """Whether a group could run edge by edge."""
        try:
            self.made.update(step.group.run(readers, step.needed, threads))
        except (NotByRowsError, GraphError):  # what is wrong is said of whole arrays
            return False
        return True


class _Reader:
    """What an operation reads, by value of the plan, name of a constant, or size.

    Attributes
    ----------
    lent : list of numpy.ndarray
        What it read of memory that is used again, so that results must not be views of it.
    """

    def __init__(self, arrays, op, step, run):
        self._arrays, self._names, self._step, self._run = arrays, op.names, step, run
        self.graphs, self.lent, self.room = run.graphs, [], run.room
        self._read = {}

    def constant(self, name) -> np.ndarray:
        return self._arrays.constants[name]

    def array(self, value) -> np.ndarray:
        if value not in self._read:
            self._read[value] = self._find(value)
        return self._read[value]

    def _find(self, value):
        run = self._run
        if value not in self._names:
            if value in run.edge_types:
                return as_array(run.edge_types[value])
            if value not in run.edge_weights:
                raise GraphError("the model computes with edge weights; pass them.")
            return as_array(run.edge_weights[value])
        name = self._names[value]
        for arrays in (self._arrays.made, run.arrays, run.outputs):
            if whole(name) in arrays:
                array = run.columns_of(whole(name), arrays[whole(name)])
                return array if name == whole(name) else array[: self.shape(value)[0]]
        floats, (rows, columns) = self._step.floats[whole(name)], self.shape(value)
        address = run.assembled.program.references[floats.address.place](run)
        self.lent.append(run.arena.view(address, rows, floats.stride))
        return self.lent[-1][:, :columns]

    def shape(self, value) -> tuple:
        if value in self._names and self._names[value] in self._step.shapes:
            size, columns = self._step.shapes[self._names[value]]
            return self._run.sizes[size], columns
        return self.array(value).shape
