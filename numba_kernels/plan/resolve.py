"""A plan, resolved for the arguments at hand.

Pairs of features become two values, views of sources and destinations other names of them, and every value gets its
number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable

from ..graph import Graph, GraphError
from .attributes import argument_name
from .ops import OPERATIONS, Operation
from .ops.finish import FINISH
from .plan import Plan
from .sizes import single


@dataclass(eq=False)
class Op:
    """An operation of a plan, resolved."""

    name: str
    reads: list  # values; None where an optional one is missing
    writes: list
    rows: int | None  # of what it writes; None of operations between launches, which are not done row by row
    columns: int | None
    spec: dict  # the plan's attributes
    factors: list = field(default_factory=list)  # for each of reads a degree operation or None, applied when read
    names: dict = field(default_factory=dict)  # of values of the plan, for operations between launches

    @property
    def operation(self) -> Operation:
        """What it is in the registry; what the schedule makes of several stands beside it."""
        return FINISH if self.name == "finish" else OPERATIONS[self.name]

    @property
    def gathers(self) -> tuple:
        """Positions in ``reads`` of what must be complete before."""
        gathers = self.operation.gathers
        return tuple(range(len(self.reads))) if gathers is None else gathers

    @property
    def read_at_sources(self) -> list:
        """What it reads at rows of in-neighbours; these values come first, as the graph does in the plan."""
        return self.reads[: len(self.operation.reads_sources or ())]


def whole(value):
    """The value that the first rows of it are part of."""
    return value[1] if isinstance(value, tuple) and value[0] == "first" else value


def resolve(plan: Plan, shapes: dict, graphs: dict, edge_weights=(), arrays=None) -> tuple[list[Op], list, dict, dict]:
    """Operations of ``plan``, outputs, and columns and rows of values, for feature shapes and graphs by value.

    ``shapes`` holds (rows, columns), or a pair of them for features given as (source, destination); ``edge_weights``
    the values of those that are given; ``arrays`` shapes of n-dimensional arrays.

    Raises
    ------
    GraphError
        When rows or widths do not fit.
    """
    return Resolver(plan, shapes, graphs, edge_weights, arrays or {}).result()


class Resolver:
    """What operations say their shapes to.

    Attributes
    ----------
    names : dict
        For each value of the plan its name here: itself, one it is another name of, or a pair of names.
    rows, columns : dict
        Of values by name.
    edge_weights : set
        Those that are given, or made.
    """

    def __init__(self, plan, shapes, graphs, edge_weights, arrays):
        self.plan, self.graphs, self.edge_weights, self.arrays = plan, graphs, set(edge_weights), arrays
        self.names, self.rows, self.columns, self.ops = {None: None}, {}, {}, []
        self.alike: dict = {}  # the first value that others have rows and width of
        self.made_of: dict = {}  # the first value that others have the rows of
        self.names.update({value: value for value in arrays})
        self.rows.update(dict.fromkeys(arrays))
        for value, shape in shapes.items():
            if isinstance(shape[0], tuple):
                self.names[value] = ((value, 0), (value, 1))
                for part, (rows, columns) in zip(self.names[value], shape):
                    self.rows[part], self.columns[part] = rows, columns
            else:
                self.names[value] = value
                self.rows[value], self.columns[value] = shape

    def result(self):
        for op in self.plan.ops:
            operation = OPERATIONS[op["op"]]
            if not operation.is_before:
                operation.resolve(self, op)
        return self.ops, [self.one(value) for value in self.plan.outputs], self.columns, self.rows

    # -- what operations read ---------------------------------------------------------------------------
    @staticmethod
    def is_pair(name) -> bool:
        """Whether a name is a pair of names."""
        return isinstance(name, tuple) and isinstance(name[0], tuple)

    def parts(self, value) -> tuple:
        """The names of a value: two of a pair."""
        name = self.names[value]
        return name if self.is_pair(name) else (name,)

    def one(self, value):
        """The name of a value that must be no pair."""
        name = self.names[value]
        if self.is_pair(name):
            raise GraphError("the model reads one array of features here, got a pair (source, destination).")
        return name

    def graph(self, value) -> Graph:
        """A graph of the plan that must be one of one edge type."""
        return single(self.graphs[value])

    def shape(self, value) -> tuple:
        """The shape of a given array, or of a matrix."""
        if value in self.arrays:
            return self.arrays[value]
        name = self.one(value)
        return self.rows[name], self.columns[name]

    def first(self, name, graph: Graph):
        """The first rows of a value, those of a block's destinations."""
        if self.rows[name] < graph.num_dst:
            raise GraphError(
                f"a block has its {graph.num_dst} destinations among its sources, of which there are "
                f"{self.rows[name]} rows."
            )
        first = ("first", name, graph.num_dst)
        self.rows[first], self.columns[first] = graph.num_dst, self.columns[name]
        return first

    def made_weight(self, op: dict, place: int) -> list:
        """The edge weights that an operation reads there, if a function makes them: then they must be complete."""
        weight = op["in"][place] if len(op["in"]) > place else None
        return [weight] if weight in self.names and weight is not None else []

    def called(self, name, of: dict) -> str:
        """What the argument is called that ``of`` leads from a value to; nothing where it leads to none."""
        name = of.get(name, name)
        value, part = name if isinstance(name, tuple) and len(name) == 2 else (name, None)
        given = next((argument_name(entry) for entry in self.plan.inputs if entry["value"] == value), None)
        return "" if given is None else f"{given}: " if part is None else f"{given}[{part}]: "

    # -- what they expect -------------------------------------------------------------------------------
    def expect_width(self, name, columns: int) -> None:
        if self.columns[name] != columns:
            argument = self.called(name, self.alike)
            raise GraphError(f"{argument}expected features of width {columns}, got {self.columns[name]}.")

    def expect_rows(self, name, rows: int) -> None:
        if self.rows[name] != rows:
            raise GraphError(f"{self.called(name, self.made_of)}expected {rows} rows, got {self.rows[name]}.")

    def expect_same_rows(self, values: list) -> None:
        if len({self.rows[value] for value in values}) > 1:
            given = [value for value in values if self.called(value, self.made_of)]
            of_graphs = [self.rows[value] for value in values if value not in given]
            for value in (*given, *values):
                self.expect_rows(value, (*of_graphs, self.rows[values[0]])[0])

    def expect_nodes(self, count: int, what: str, *names) -> None:
        for name in names:
            if self.rows[name] != count:
                rows = f"expected a row for each of {count} {what}, got {self.rows[name]} rows."
                raise GraphError(self.called(name, self.made_of) + rows)

    # -- what they write --------------------------------------------------------------------------------
    def emit(self, op: dict, reads: list, writes: list, columns: int, rows: int | None = None) -> None:
        """Add an operation that writes ``writes``, of ``columns``, and as many rows as what it reads first."""
        if rows is None:
            rows = self.rows[reads[0]]
            self.made_of.update(dict.fromkeys(writes, self.made_of.get(reads[0], reads[0])))
        if reads and self.columns.get(reads[0]) == columns:
            self.alike.update(dict.fromkeys(writes, self.alike.get(reads[0], reads[0])))
        for value in writes:
            self.rows[value], self.columns[value] = rows, columns
        self.ops.append(Op(op["op"], reads, writes, rows, columns, op))

    def call(self, op: dict, names: dict, reads: list, writes: list) -> None:
        """Add an operation between launches that reads values of the plan by ``names``; only a run knows its shapes."""
        self.names.update({value: value for value in writes})
        self.rows.update(dict.fromkeys(writes))
        self.ops.append(Op(op["op"], [names[value] for value in reads], writes, None, None, op, names=names))

    def each(self, op: dict, columns: int) -> None:
        """An operation that takes a pair as well, part by part."""
        name = self.names[op["in"][0]]
        if not self.is_pair(name):
            self.names[op["out"]] = op["out"]
            self.emit(op, [name], [op["out"]], columns)
            return
        self.names[op["out"]] = tuple((op["out"], n) for n in range(2))
        for part, out in zip(name, self.names[op["out"]]):
            self.emit(op, [part], [out], columns)

    def row_by_row(self, op: dict, columns: Callable | None = None) -> None:
        """An operation on rows of the same nodes; ``columns`` makes its width of theirs, else all are of one."""
        values = [self.one(value) for value in op["in"]]
        widths = [self.columns[value] for value in values]
        self.expect_same_rows(values)
        if columns is None and len(set(widths)) > 1:
            raise GraphError(f"values of widths {widths[0]} and {max(set(widths) - {widths[0]})} do not go together.")
        self.names[op["out"]] = op["out"]
        self.emit(op, values, [op["out"]], widths[0] if columns is None else columns(widths))
