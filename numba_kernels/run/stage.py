"""What operations add their instructions to: the program of one stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, NamedTuple

import numpy as np

from ..fixed_point import Multiplier
from ..kernels.fields import Edges, Multiplied, ProductWeight
from ..kernels.load import Load, Store, load, store
from ..kernels.silence import Wake, wake
from ..layout import pad, padded
from ..plan.resolve import whole
from ..plan.schedule import Stage
from .assembly import Assembly
from .matrices import Grid, Weight
from .memory import address_of
from .places import Places
from .program import AWAKE_AT, StageProgram

# Bytes from which a float matrix is written past the caches.
STREAM_FROM = 1 << 24
# What an edge and a row cost, in about nanoseconds, to balance threads; only their ratio matters.
_EDGE_COST, _ROW_COST, _PRODUCTS_A_COST = 4, 40, 400


@dataclass
class Costs:
    """What a stage's rows cost: each, and for each edge of a graph, a value of the plan or None."""

    size: object  # place of its number of rows among a run's sizes, or ("hub parts", graph)
    graph: object = None
    edge: int = 0
    row: int = _ROW_COST
    needs: tuple = ()  # what it makes rows of, and how far outputs reach it; see Reach


class StageAssembler:
    """What operations add their instructions to: the program of one stage.

    Attributes
    ----------
    places : Places
        Where values stand.
    looked_up : dict
        Codes that are never made: the features they would be made of, and how.
    before : list
        Programs of stages that must come before this one.
    """

    def __init__(self, assembly: Assembly, stage: Stage, values: dict, sparse: set):
        self.assembly, self.stage, self.program, self.before = assembly, stage, StageProgram(), []
        self.places = Places(assembly.schedule, stage, self, values, sparse)
        self.slots, self.free, self.looked_up = {}, [], {}
        self.costs = Costs(assembly.size_of(stage.rows))
        self.last_use = {value: n for n, op in enumerate(stage.ops) for value in op.reads}
        self.position = 0

    def assemble(self, asleep=None) -> None:
        """Let all operations add their instructions, and store what is needed beyond the stage.

        Rows that are ``asleep``, an :class:`~numba_kernels.run.asleep.Asleep`, are left as they are.
        """
        if asleep is not None:
            for value, old in asleep.continued.items():
                self.assembly.hand_over(old, value)
        for position, op in enumerate(self.stage.ops):
            self.position = position
            op.operation.emit(self, op)
            for value in op.writes:
                if value in self.slots and not self.assembly.schedule.stays(value):
                    matrix, rows = self.places.new_floats(value)
                    fault: Any = self.assembly.fault if value in self.assembly.schedule.kept else 0
                    self.add(store, (), Store(self.at_slot(self.slots[value]), matrix.stride, matrix, rows, fault))
            for value in {*op.reads, *op.writes}:
                if self.last_use.get(value, -1) <= self.position and value in self.slots:
                    self.release(value)
        if asleep is not None:
            edges = Edges(*(self.graph_array(asleep.graph, name) for name in ("indptr", "indices")))
            arrived, sent = (self.places.codes(value).sent for value in (asleep.arrived, asleep.sent))
            self.area(AWAKE_AT.name, 16)
            self.program.wake(wake, (), Wake(edges, arrived, sent, AWAKE_AT))

    # -- slots ------------------------------------------------------------------------------------------
    def new_slot(self) -> int:
        """A slot that is free until it is held."""
        return self.free.pop() if self.free else max([-1, *self.slots.values()]) + 1

    def slot(self, value, asks: bool = True) -> int:
        """The slot ``value`` is in, loading it from memory if it is in none; see :class:`Load` on ``asks``."""
        if value not in self.slots:
            slot = self.hold(value, self.new_slot())
            matrix, columns = self.places.matrix(value)
            self.add(load, (), Load(self.at_slot(slot), columns, matrix, asks))
        return self.slots[value]

    def over(self, value) -> int:
        """A slot to write to in place of ``value``, if this operation is the last to read it."""
        slot = self.slot(value)
        if self.last_use[value] > self.position:
            return self.new_slot()
        del self.slots[value]
        return slot

    def hold(self, value, slot: int) -> int:
        """Say that ``value`` is in a slot."""
        self.slots[value] = slot
        return slot

    def let_go(self, value) -> None:
        """Say that ``value`` is in no slot any more, which stays taken."""
        del self.slots[value]

    def release(self, value) -> None:
        """Free the slot of ``value``."""
        self.free.append(self.slots.pop(value))

    # -- the program ------------------------------------------------------------------------------------
    def add(self, instruction, variant: tuple, fields: NamedTuple) -> None:
        """Append an instruction."""
        self.program.add(instruction, variant, fields)

    def add_before(self, graph, instruction, variant: tuple, fields: NamedTuple) -> None:
        """A stage of one instruction, on the parts of the edges of a graph's hubs, that must come before this one."""
        program = StageProgram()
        program.add(instruction, variant, fields)
        self.before.append((program, Costs(("hub parts", graph), row=10**6)))

    def at_slot(self, slot: int) -> Any:
        """A slot as a field."""
        return self.program.slot(slot)

    def area(self, name, size: int):
        """Scratch of at least ``size`` bytes."""
        return self.program.area(name, size)

    def area_of_rows(self, name, row_size: int):
        """Scratch of at least ``row_size`` bytes for each row of a tile."""
        return self.program.area_of_rows(name, row_size)

    def widen(self, columns: int) -> None:
        """Make rows of slots fit ``columns``."""
        self.program.widest = max(self.program.widest, columns)

    # -- constants --------------------------------------------------------------------------------------
    def at(self, array) -> int:
        """The address of an array that lives as long as the program."""
        return self.assembly.at(array)

    def columns(self, value) -> int:
        """Columns of a value."""
        return self.assembly.schedule.columns[value]

    def grid(self, value) -> Grid:
        """The grid of codes that are made here, or of what is computed with coded numbers."""
        value = whole(value)
        key = value[0] if isinstance(value, tuple) else value  # a part of a pair
        return self.assembly.keep(("grid", key), lambda: Grid.of(self.assembly.plan.grids[key], self.columns(value)))

    def sent_rows(self, value):
        """Which rows of changes that are made here are sent, as a field; there is room for both."""
        return self.places.sent_rows(value, self.grid(value))

    def weight(self, spec: dict) -> Weight:
        """The weight of a product."""
        return self.assembly.keep(("weight", spec["out"]), lambda: Weight.of(self.assembly.plan, spec["weight"]))

    def weight_fields(self, weight: Weight, codes) -> ProductWeight:
        """A weight as fields, its codes in one of its layouts."""
        at = self.at
        numbers = at(weight.scale), at(weight.zero), at(weight.sums), weight.twice_zero, at(weight.twice_sums)
        return ProductWeight(at(codes), weight.inputs, *numbers)

    def padded(self, key, numbers, columns: int) -> int:
        """The address of numbers of the plan, one or one a column, as an array padded with zeros."""
        plan = self.assembly.plan
        return self.at(
            self.assembly.keep(("padded", key, columns), lambda: pad(plan.numbers(numbers, (1, columns)), columns))
        )

    def thresholds(self, spec: dict) -> int:
        """The address of the thresholds of a dead zone, which no number behind the last column reaches."""
        columns, numbers = spec["columns"], spec["dead_zone"]["thresholds"]

        def make():
            reached = np.full(padded(columns), np.inf, np.float32)
            reached[:columns] = self.assembly.plan.numbers(numbers, (1, columns))
            return reached

        return self.at(self.assembly.keep(("dead zone", spec["out"]), make))

    def multiplied(self, key, make: Callable[[], Multiplier], columns: int) -> Multiplied:
        """How accumulators become fixed-point numbers, as fields; ``make()`` gives what they are multiplied with."""
        multiplier, numbers = self.assembly.keep(
            ("multiplier", key, columns), lambda: (made := make(), pad(made.numbers, columns, np.int32))
        )
        return Multiplied(self.at(numbers), multiplier.shift, multiplier.bits, multiplier.term, 2.0**-multiplier.unit)

    # -- what runs differ in ----------------------------------------------------------------------------
    def factor(self, op):
        """Where the factors of a degree operation stand, 0 for None."""
        if op is None:
            return 0
        return self._factor(op.spec["in"][1], op.spec["side"], op.spec["power"], op.spec["plus"])

    def norm(self, graph, norm: dict):
        """Where degree norms of 15 bits stand, 0 for None."""
        return 0 if norm is None else self._factor(graph, norm["side"], norm["power"], norm["plus"], True)

    def _factor(self, graph, *norm):
        return self.assembly.reference((graph, norm), lambda run: run.graphs[graph].factor_address(*norm))

    def graph_array(self, graph, name: str):
        """Where an array of a graph of the plan stands, 0 where it has none."""
        return self.assembly.reference((graph, name), lambda run: run.graphs[graph].address(name))

    def graph_number(self, graph, name: str):
        """A number of a graph of the plan."""
        return self.assembly.reference((graph, name), lambda run: getattr(run.graphs[graph], name))

    def has_hubs(self, graph) -> bool:
        """Whether a graph of the plan has nodes whose edges are summed in parts."""
        return graph in self.assembly.hubs

    def hub_partials(self, graph, grid: Grid):
        """Memory for the partial sums of a graph's hubs."""
        row_bytes, owner = 4 * (grid.width * 8 // grid.bits), ("hubs", graph, self.position, id(self.stage))
        assembly = self.assembly
        number = len(assembly.buffers)
        assembly.buffers.append((("hub parts", graph), row_bytes))
        return assembly.reference(owner, lambda run: run.buffers[number])

    @property
    def edge_weight_kinds(self) -> dict:
        """Of edge weights that are given: "int8" or "float32"."""
        return self.assembly.edge_weight_kinds

    def edge_weight(self, graph, weight, kind=None):
        """Where edge weights stand, in the order of a graph's indices, as they are summed or of a dtype."""
        return self.assembly.reference(
            ("weight", graph, weight, kind), lambda run: address_of(run.ordered_weights(graph, weight, kind))
        )

    def check(self, graph, refuse: Callable) -> None:
        """Let each run check a graph: ``refuse(graph)`` raises GraphError."""
        self.assembly.checks.append(lambda run: refuse(run.graphs[graph]))

    def check_weighted(self, graph, weight, most: int, refuse: Callable) -> None:
        """As :meth:`check`, of numbers up to ``most`` times the largest of edge weights: ``refuse(graph, bound)``."""

        def checked(run):
            largest = int(np.abs(run.ordered_weights(graph, weight).astype(np.int16)).max(initial=1))
            refuse(run.graphs[graph], most * largest)

        self.assembly.checks.append(checked)

    def rows(self, rows: int):
        """A number of rows as a field."""
        size = self.assembly.size_of(rows)
        return self.assembly.reference(("rows", size), lambda run: run.sizes[size])

    def memory(self, owner, name, rows: int, row_bytes: int, first: int = 0, total: int | None = None):
        """Memory for a value beyond the stage, and whether it is written past the caches, as fields.

        It is for ``rows``, or, of a value of ``total``, for the ``first``-th as many.
        """
        assembly = self.assembly
        number = assembly.buffer(owner, name, rows if total is None else total, row_bytes)
        size = assembly.size_of(rows)
        address = assembly.reference(
            ("memory", number, first), lambda run: run.buffers[number] + first * run.sizes[size] * row_bytes
        )
        stream = assembly.reference(("stream", number), lambda run: run.sizes[size] * row_bytes > STREAM_FROM)
        return address, stream

    def output(self, value):
        """Where a value that is returned is written, and whether past the caches, as fields."""
        assembly = self.assembly
        assembly.outputs[value] = assembly.size_of(self.stage.rows), self.columns(value)
        address = assembly.reference(("out", value), lambda run: run.output_at[value])
        return address, assembly.reference(("stream out", value), lambda run: _streams(run.outputs[value]))

    # -- balance ----------------------------------------------------------------------------------------
    def costs_products(self, products: int) -> None:
        """Count the products of a row."""
        self.costs.row += products // _PRODUCTS_A_COST

    def costs_edges(self, graph, grid: Grid, times: int = 1) -> None:
        """Count a sum over the edges of a graph."""
        self.costs.edge += times * _EDGE_COST * -(-grid.width // 64)
        self.costs.row += _ROW_COST
        self.costs.graph = graph


def _streams(array) -> bool:
    return array.nbytes > STREAM_FROM and address_of(array) % 64 == 0 and array.shape[1] % 16 == 0
