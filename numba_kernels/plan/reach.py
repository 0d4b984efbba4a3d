"""Which rows of a plan's values some rows of its outputs follow from: through how many sums over in-neighbours."""

from __future__ import annotations

from dataclasses import dataclass, field

from .ops import OPERATIONS
from .ops.call import written

# What a value has rows of: nodes, edges, or nodes once for each type of edges.
NODES, EDGES, TYPED = "nodes", "edges", "typed nodes"
_READ_BY_ROWS = ("features", "float", "codes", "changes", "state")


@dataclass
class Reach:
    """How far a plan's outputs reach.

    Attributes
    ----------
    reason : str, optional
        Why rows of its outputs follow from all rows, or cannot be told to follow from less; then nothing else is known.
    graph : int
        The value of the one graph that it reads.
    needs : dict
        For each value what it has rows of, and through how many sums over in-neighbours outputs follow from it.
    features, targets, sources : int
        Outputs of which nodes change, as a number of edges that lead to them: with features of nodes; with the edges
        into nodes; with those out of nodes, −1 for none.
    """

    reason: str | None = None
    graph: int | None = None
    needs: dict = field(default_factory=dict)
    features: int = 0
    targets: int = 0
    sources: int = -1

    @property
    def hops(self) -> int | None:
        """Through how many sums over in-neighbours outputs follow from features; None where that cannot be told."""
        return None if self.reason else max((hops for _, hops in self.needs.values()), default=0)


class _WholeError(Exception):
    """Rows of an output follow from all rows."""


def reach_of(plan) -> Reach:
    """How far a plan's outputs reach."""
    try:
        return _Walk(plan).result()
    except _WholeError as error:
        return Reach(str(error))


class _Walk:
    """From the outputs back to the inputs."""

    def __init__(self, plan):
        self.plan, self.reach = plan, Reach()
        self.typed = {op["out"] for op in plan.ops if op["op"] == "edges_by_type"}
        self.of = {op["out"]: op["in"][0] for op in plan.ops if op["op"] == "edges_by_type"}
        self.normed = {op["out"] for op in plan.ops if op["op"] == "edge_norm"}

    def result(self):
        for value in self.plan.outputs:
            self.need(value, NODES, 0)
        for op in reversed(self.plan.ops):
            self.step(op)
        if self.reach.graph is None:
            raise _WholeError("it reads no graph")
        inputs = {entry["value"]: entry["kind"] for entry in self.plan.inputs}
        if inputs.get(self.reach.graph) != "graph":
            raise _WholeError("it makes its graph")
        of_nodes = [hops for value, (space, hops) in self.reach.needs.items() if value in inputs and space == NODES]
        self.reach.features = max(of_nodes, default=0)
        return self.reach

    def step(self, op):
        """What an operation reads, for the rows of its results that are needed."""
        operation, kinds, reach = OPERATIONS[op["op"]], self.plan.kinds, self.reach
        if operation.reads_sources is None:
            raise _WholeError(f"{op['op']} {op.get('function', '')}".strip() + " may read all rows")
        graphs = [value for value in op["in"] if value is not None and kinds[value] == "graph"]
        for value in graphs:
            self.read_graph(self.of.get(value, value))
        if operation.is_before:
            return
        typed = bool(self.typed.intersection(graphs))
        needed = [reach.needs[value] for value in (*written(op), op.get("state")) if value in reach.needs]
        space, hops = needed[0][0] if needed else NODES, max((hops for _, hops in needed), default=0)
        if op["op"] == "stack":
            space = self.other(space, TYPED, NODES)
        for position, value in enumerate(op["in"]):
            if value is None or kinds[value] not in _READ_BY_ROWS:
                continue
            if position in operation.reads_sources:
                self.need(value, TYPED if typed else NODES, hops + 1)
            else:
                self.need(value, EDGES if position in operation.reads_edges else space, hops)
        if operation.reads_sources:
            self.other(space, NODES, NODES)
            reach.targets = max(reach.targets, hops)
            if self.normed.intersection(op["in"]):
                reach.sources = max(reach.sources, hops + 1)
        elif op["op"] == "degree":
            self.other(TYPED if typed else space, NODES, NODES)
            side = "targets" if op["side"] == "in" else "sources"
            setattr(reach, side, max(getattr(reach, side), hops))

    def need(self, value, space, hops):
        known, most = self.reach.needs.get(value, (space, 0))
        self.reach.needs[value] = self.other(known, space, space), max(most, hops)

    @staticmethod
    def other(space, expected, instead):
        """``instead`` of a space, which must be the one expected."""
        if space != expected:
            raise _WholeError(f"it has rows of {space} where rows of {expected} are read")
        return instead

    def read_graph(self, value):
        if self.reach.graph not in (None, value):
            raise _WholeError("it reads several graphs")
        self.reach.graph = value
