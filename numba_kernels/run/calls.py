"""Array functions between launches: what they read, run, and what becomes of their results."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..graph import GraphError
from ..plan.resolve import Op, whole
from .memory import address_of


@dataclass
class CallStage:
    """Operations that run in NumPy, one after another, between launches of kernels."""

    ops: list[Op]
    floats: dict  # what kernels made of what is read: value → where it stands (Floats)
    shapes: dict  # of matrices: value → (place of its rows among a run's sizes, columns)
    done: list  # arrays that nothing reads from here on
    read_on: set  # those that something reads later


def call_stage(schedule, number: int, values: dict, assembly) -> CallStage:
    """The ``number``-th stage of a schedule, whose values stand where ``values`` says."""
    ops = schedule.stages[number].ops
    names = {name for op in ops for name in op.names.values()}
    known = {name: schedule.rows[name] for name in names if schedule.rows[name] is not None}
    last_read = {value: max(reading) for value, reading in schedule.read_in.items() if reading}
    kept = schedule.kept
    return CallStage(
        ops,
        {value: values[value] for op in ops for value in map(whole, op.reads) if value in values},
        {name: (assembly.size_of(rows), schedule.columns[name]) for name, rows in known.items()},
        [value for value, last in last_read.items() if last < number and value not in kept],
        {value for op in ops for value in op.writes if value in kept or value in last_read},
    )


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

    def call(self, stage: CallStage, run, program, arena) -> None:
        """Run the operations of a stage."""
        for value in stage.done:
            self.made.pop(value, None)
        for op in stage.ops:
            reader = _Reader(self, op, stage, run, program, arena)
            for value, array in zip(op.writes, op.operation.run(op.spec, reader)):
                if value in stage.read_on:
                    is_view = any(np.may_share_memory(array, memory) for memory in reader.lent)
                    self.made[value] = array.copy() if is_view else array


class _Reader:
    """What an operation reads, by value of the plan, name of a constant, or size.

    Attributes
    ----------
    lent : list of numpy.ndarray
        What it read of memory that is used again, so that results must not be views of it.
    """

    def __init__(self, arrays, op, stage, run, program, arena):
        self._arrays, self._names, self._stage, self._run = arrays, op.names, stage, run
        self._program, self._arena = program, arena
        self.graphs, self.lent = run.graphs, []

    def constant(self, name) -> np.ndarray:
        return self._arrays.constants[name]

    def array(self, value) -> np.ndarray:
        run = self._run
        if value not in self._names:
            if value not in run.weights:
                raise GraphError("the model computes with edge weights; pass them.")
            return np.asarray(run.weights[value])
        name = self._names[value]
        for arrays in (self._arrays.made, run.arrays, run.outputs):
            if whole(name) in arrays:
                array = arrays[whole(name)]
                return array if name == whole(name) else array[: self.shape(value)[0]]
        floats, (rows, columns) = self._stage.floats[whole(name)], self.shape(value)
        address = self._program.references[floats.address.place](run)
        self.lent.append(self._arena.view(address, rows, floats.stride))
        return self.lent[-1][:, :columns]

    def shape(self, value) -> tuple:
        if value in self._names and self._names[value] in self._stage.shapes:
            size, columns = self._stage.shapes[self._names[value]]
            return self._run.sizes[size], columns
        return self.array(value).shape
