"""What the stages of one program share: references, memory between stages, constants."""

from __future__ import annotations

from collections import defaultdict
from typing import Callable

import numpy as np

from ..plan.schedule import Schedule
from .program import Reference


class Assembly:
    """What stages of one program share: references, memory between stages, constants.

    Numbers of rows that are equal in ``run`` stand for one. ``kept`` holds constants laid out before, by what they are;
    new ones are added. ``fault`` is where it is said that numbers within grow beyond float32.
    """

    def __init__(self, schedule: Schedule, plan, kept: dict, run):
        self.schedule, self.plan, self.kept = schedule, plan, kept
        made = {op["out"]: "float32" for op in (plan.ops if plan else ()) if op["op"] == "edge_weight"}
        self.edge_weight_kinds = {**made, **{value: run.kind_of(value) for value in run.edge_weights}}
        self.hubs = {value for value, graph in run.single.items() if graph.num_hubs}
        self._size_of = {size: place for place, size in reversed(list(enumerate(run.sizes)))}
        self.references, self._known, self.alive = [], {}, []
        self.buffers, self._buffer_of, self._free = [], {}, defaultdict(list)
        self.checks, self.outputs = [], {}
        self.fault: Reference | int = 0

    def reference(self, key, function: Callable) -> Reference:
        """The field that is ``function(run)`` in each run, ``key`` says what that is."""
        if key not in self._known:
            self._known[key] = Reference(len(self.references))
            self.references.append(function)
        return self._known[key]

    def fault_of(self, number: int) -> Reference:
        """Where a run says that what it checks, by its number, is not finite."""
        return self.reference(("fault", number), lambda run: run.fault_address(number))

    def size_of(self, rows) -> int:
        """The place of a number of rows among a run's sizes."""
        return self._size_of[rows]

    def at(self, array: np.ndarray | None) -> int:
        """The address of a contiguous array, kept alive with the program; 0 for None."""
        if array is None:
            return 0
        if not array.flags.c_contiguous:
            raise ValueError("kernels read contiguous arrays only.")
        self.alive.append(array)
        return array.ctypes.data

    def keep(self, key, make: Callable):
        """A constant of the plan, made once."""
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]

    def buffer(self, owner, name, rows: int, row_bytes: int) -> int:
        """The number of a buffer for a value, until :meth:`give_back`."""
        if (owner, name) not in self._buffer_of:
            kind = self.size_of(rows), row_bytes
            if not self._free[kind]:
                self._free[kind].append(len(self.buffers))
                self.buffers.append(kind)
            self._buffer_of[owner, name] = self._free[kind].pop()
        return self._buffer_of[owner, name]

    def hand_over(self, owner, to) -> None:
        """Let a value stand where another does, whose last readers read it row by row before they write."""
        for key in [key for key in self._buffer_of if key[0] == owner]:
            self._buffer_of[to, key[1]] = self._buffer_of.pop(key)

    def give_back(self, owner) -> None:
        """Let others use the buffers of a value."""
        for key in [key for key in self._buffer_of if key[0] == owner]:
            number = self._buffer_of.pop(key)
            self._free[self.buffers[number]].append(number)
