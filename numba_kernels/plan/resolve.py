"""A plan, resolved for the arguments at hand.

Pairs of features become two values, views of sources and destinations other names of them, and every value gets its
number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..graph import Graph, GraphError
from .plan import Plan

# For operations that read rows of other nodes: which of what they read.
GATHERS = {"aggregate": (0,), "aggregate_edges": (0, 1), "attend": (0, 1), "readout": (0,)}
# Operations on graphs and weights, done before any stage.
BEFORE = ("item", "relation", "edges_by_type", "edge_norm", "check_in_degrees")


@dataclass(eq=False)
class Op:
    """An operation of a plan, resolved."""

    name: str
    reads: list  # values; None where an optional one is missing
    writes: list
    rows: int  # of what it writes
    columns: int
    spec: dict  # the plan's attributes
    factors: list = field(default_factory=list)  # for each of reads a degree operation or None, applied when read

    @property
    def graphs(self):
        """Values of the graphs it reads."""
        own = [self.spec["in"][0]] if self.name in GATHERS else []
        own += [self.spec["in"][1]] if self.name == "degree" else []
        return own + [op.spec["in"][1] for op in self.factors if op]


def whole(value):
    """The value that a head, the first rows of it, is part of."""
    return value[1] if isinstance(value, tuple) and value[0] == "head" else value


def resolve(plan: Plan, shapes: dict, graphs: dict, weights=()) -> tuple[list[Op], list, dict]:
    """Operations of ``plan``, outputs and columns of values, for feature shapes and graphs by value.

    ``shapes`` holds (rows, columns), or a pair of them for features given as (source, destination); ``weights`` the
    values of edge weights that are given.

    Raises
    ------
    GraphError
        When rows or widths do not fit.
    """
    return _Resolver(plan, shapes, graphs, weights).result()


class _Resolver:
    def __init__(self, plan, shapes, graphs, weights):
        self.plan, self.graphs, self.weights = plan, graphs, weights
        self.names, self.rows, self.columns, self.ops = {None: None}, {}, {}, []
        self.heads = {}  # value → rows of it that a block's destinations are
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
            if op["op"] not in BEFORE:
                getattr(self, f"_{op['op']}", self._row_by_row)(op)
        return self.ops, [self._one(value) for value in self.plan.outputs], self.columns

    def _one(self, value):
        name = self.names[value]
        if isinstance(name, tuple) and isinstance(name[0], tuple):
            raise GraphError("the model reads one array of features here, got a pair (source, destination).")
        return name

    def _graph(self, value):
        graph = self.graphs[value]
        if not isinstance(graph, Graph):
            what = "one of several edge types" if isinstance(graph, dict) else f"a list of {len(graph)}"
            raise GraphError(f"the model reads one graph here, got {what}.")
        return graph

    def _each(self, op, columns):
        """An operation that takes a pair as well, part by part."""
        name = self.names[op["in"][0]]
        if isinstance(name, tuple) and isinstance(name[0], tuple):
            self.names[op["out"]] = tuple((op["out"], n) for n in range(2))
            for part, out in zip(name, self.names[op["out"]]):
                self._emit(op, [part], [out], columns)
        else:
            self.names[op["out"]] = op["out"]
            self._emit(op, [name], [op["out"]], columns)

    def _emit(self, op, reads, writes, columns, rows=None):
        rows = self.rows[reads[0]] if rows is None else rows
        for value in writes:
            self.rows[value], self.columns[value] = rows, columns
        self.ops.append(Op(op["op"], reads, writes, rows, columns, op))

    def _expect_width(self, value, columns):
        if self.columns[value] != columns:
            raise GraphError(f"expected features of width {columns}, got {self.columns[value]}.")

    def _source(self, op):
        name = self.names[op["in"][0]]
        self.names[op["out"]] = name[0] if isinstance(name, tuple) and isinstance(name[0], tuple) else name

    def _destination(self, op):
        name, graph = self.names[op["in"][0]], self._graph(op["in"][1])
        if isinstance(name, tuple) and isinstance(name[0], tuple):
            name = name[1]
        elif graph.is_block and self.rows[name] != graph.num_dst:
            head = ("head", name, graph.num_dst)
            if self.rows[name] < graph.num_dst:
                raise GraphError(
                    f"a block has its {graph.num_dst} destinations among its sources, of which there are "
                    f"{self.rows[name]} rows."
                )
            self.rows[head], self.columns[head] = graph.num_dst, self.columns[name]
            name = head
        self.names[op["out"]] = name

    def _quantize(self, op):
        name = self.names[op["in"][0]]
        for value in name if isinstance(name, tuple) and isinstance(name[0], tuple) else (name,):
            self._expect_width(value, op["columns"])
        self._each(op, op["columns"])

    def _stack(self, op):
        parts = [self._one(value) for value in op["in"]]
        for value in parts[1:]:
            self._expect_rows(value, self.rows[parts[0]])
        self.names[op["out"]] = op["out"]
        self._emit(op, parts, [op["out"]], self.columns[parts[0]], len(parts) * self.rows[parts[0]])

    def _linear(self, op):
        self._each(op, op["weight"]["shape"][1])

    def _delta(self, op):
        value, state = self._one(op["in"][0]), self.names[op["in"][1]]
        self._expect_width(value, op["columns"])
        if state is not None:
            self._expect_rows(state, self.rows[value])
        self.names[op["out"]], self.names[op["state"]] = op["out"], op["state"]
        self._emit(op, [value, state], [op["out"], op["state"]], op["columns"])

    def _aggregate(self, op):
        graph, codes = self._graph(op["in"][0]), self._one(op["in"][1])
        own = self._one(op["in"][3])
        self._sources(graph, codes)
        if own is not None and self.rows[own] != graph.num_dst:
            raise GraphError(
                f"expected a row for each of {graph.num_dst} destination nodes, got {self.rows[own]} rows."
            )
        self.names[op["out"]] = op["out"]
        self._emit(op, [codes, own], [op["out"]], self.columns[codes], graph.num_dst)

    def _sources(self, graph, *values):
        for value in values:
            if self.rows[value] != graph.num_src:
                raise GraphError(
                    f"expected a row for each of {graph.num_src} source nodes, got {self.rows[value]} rows."
                )

    def _aggregate_edges(self, op):
        graph, nodes, edges = self._graph(op["in"][0]), self._one(op["in"][1]), self._one(op["in"][2])
        self._sources(graph, nodes)
        if self.rows[edges] != graph.num_edges:
            raise GraphError(f"expected a row for each of {graph.num_edges} edges, got {self.rows[edges]} rows.")
        self.names[op["out"]] = op["out"]
        self._emit(op, [nodes, edges], [op["out"]], self.columns[nodes], graph.num_dst)

    def _attend(self, op):
        graph, (codes, left, right) = self._graph(op["in"][0]), map(self._one, op["in"][1:])
        self._sources(graph, codes, left)
        if self.rows[right] != graph.num_dst:
            raise GraphError(
                f"expected a row for each of {graph.num_dst} destination nodes, got {self.rows[right]} rows."
            )
        self.names[op["out"]] = op["out"]
        self._emit(op, [codes, left, right], [op["out"]], self.columns[codes], graph.num_dst)

    def _readout(self, op):
        graph, value = self._graph(op["in"][0]), self._one(op["in"][1])
        if self.rows[value] != graph.num_dst:
            raise GraphError(f"expected a row for each of {graph.num_dst} nodes, got {self.rows[value]} rows.")
        self.names[op["out"]] = op["out"]
        self._emit(op, [value], [op["out"]], self.columns[value], len(graph.batch_starts) - 1)

    def _concat(self, op):
        self._row_by_row(op, sum)

    def _head_sums(self, op):
        self._row_by_row(op, lambda widths: op["heads"])

    def _head_mean(self, op):
        self._row_by_row(op, lambda widths: widths[0] // op["heads"])

    def _degree(self, op):
        value, graph = self._one(op["in"][0]), self._graph(op["in"][1])
        if len(op["in"]) > 2 and op["in"][2] in self.weights:
            self.names[op["out"]] = value
            return
        side, expected = ("source", graph.num_src) if op["side"] == "out" else ("destination", graph.num_dst)
        if self.rows[value] != expected:
            raise GraphError(f"expected a row for each of {expected} {side} nodes, got {self.rows[value]} rows.")
        self.names[op["out"]] = op["out"]
        self._emit(op, [value], [op["out"]], self.columns[value])

    def _row_by_row(self, op, columns=None):
        """An operation on rows of the same nodes; ``columns`` makes its width of theirs, else all are of one."""
        values = [self._one(value) for value in op["in"]]
        widths = [self.columns[value] for value in values]
        for value in values[1:]:
            self._expect_rows(value, self.rows[values[0]])
        if columns is None and len(set(widths)) > 1:
            raise GraphError(f"values of widths {widths[0]} and {max(set(widths) - {widths[0]})} do not go together.")
        self.names[op["out"]] = op["out"]
        self._emit(op, values, [op["out"]], widths[0] if columns is None else columns(widths))

    def _expect_rows(self, value, rows):
        if self.rows[value] != rows:
            raise GraphError(f"a sum of values of {rows} and of {self.rows[value]} rows.")
