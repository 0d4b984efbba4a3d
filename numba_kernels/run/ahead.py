"""What runs ahead of a plan: operations of :mod:`numba_kernels.plan.ops.ahead`, each in a plan of what leads to it."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from ..graph import Graph
from ..plan import Plan
from ..plan.ops import OPERATIONS
from ..plan.ops.call import data_of
from .room import refuse_beyond


class Ahead:
    """One operation that runs ahead, ``op`` of ``plan``, whose other operations take ``inputs``.

    What follows from graphs alone is kept for the graphs that it was last made of.
    """

    def __init__(self, plan: Plan, inputs: list, op: dict, make_executor: Callable):
        operation = OPERATIONS[op["op"]]
        self.value, self.make, self.asks_for = op["out"], operation.make, operation.asks_for
        ops = _leading_to(op["in"], plan.ops)
        read = set(op["in"]).union(*map(_reads, ops))
        inputs = [entry for entry in inputs if entry["value"] in read]
        self.graphs = [entry["value"] for entry in inputs if entry["kind"] == "graph"]
        self.follows_from_graphs = len(self.graphs) == len(inputs) > 0
        self.executor = make_executor(Plan(inputs, ops, op["in"], plan.arrays, "tuple"))
        self._made: tuple = (), None  # of which graphs, and what

    def of(self, inputs: dict, threads: int, room: int):
        """What the operation makes of a run's inputs, in at most ``room`` bytes."""
        graphs = [inputs[value] for value in self.graphs]
        known, made = self._made
        if known and all(reference() is graph for reference, graph in zip(known, graphs)):
            return made
        arrays = self.executor.run(inputs, threads, room=room)
        refuse_beyond(room, self.asks_for(*arrays))
        made = self.make(*arrays)
        if self.follows_from_graphs and all(isinstance(graph, Graph) for graph in graphs):
            self._made = tuple(map(weakref.ref, graphs)), made
        return made


def split(plan: Plan, make_executor: Callable) -> tuple[list[Ahead], Plan]:
    """What runs ahead of a plan, in order, and what is left of it, which takes the former as inputs."""
    inputs, ahead = list(plan.inputs), []
    for op in plan.ops:
        if OPERATIONS[op["op"]].is_ahead:
            ahead.append(Ahead(plan, inputs, op, make_executor))
            name, kind = f"value {op['out']}", plan.kinds[op["out"]]
            inputs.append({"name": name, "kind": kind, "value": op["out"], "optional": False})
    if not ahead:
        return [], plan
    ops = [op for op in plan.ops if not OPERATIONS[op["op"]].is_ahead]
    return ahead, Plan(inputs, ops, plan.outputs, plan.arrays, plan.returns, plan.heads)


def _leading_to(values, ops):
    """The operations that values follow from, up to those that run ahead."""
    wanted, found = set(values), []
    for op in reversed(ops):
        if OPERATIONS[op["op"]].is_ahead:
            continue
        out = op.get("out")
        if wanted.intersection([*(out if isinstance(out, tuple) else [out]), op.get("state", -1)]):
            wanted |= _reads(op)
            found.append(op)
    return found[::-1]


def _reads(op):
    """Values that an operation reads, for their numbers or for their shapes."""
    read = {value for value in op["in"] if value is not None}
    if op["op"] == "call":
        read.update(data_of(op))
    rows = op.get("rows")
    if isinstance(rows, dict):
        read.add(rows["value"] if rows["of"] == "rows" else rows["graph"])
    return read
