"""From a stage of a schedule to the program the kernel executes."""

from __future__ import annotations

import numpy as np

from ..graph import AHEAD, Graph, GraphError, row_bounds
from ..kernels import fields
from ..kernels.attend import scratch_of
from ..kernels.fields import Edges, Finish, Term
from ..layout import pad, padded
from ..plan.plan import MAPS, REDUCTIONS
from ..plan.schedule import Schedule
from .matrices import Grid
from .places import Places
from .program import Launch, Program

# Share of numbers that are not 0 up to which looking them up is faster than the dense product.
SPARSE_BELOW = 0.1
_SAMPLED_ROWS = 16
# What an edge and a row cost, in about nanoseconds, to balance threads; only their ratio matters.
_EDGE_COST, _ROW_COST, _PRODUCTS_A_COST = 4, 40, 400


class Assembler:
    """Writes the program of stage ``number``.

    Parameters
    ----------
    schedule : Schedule
    number : int
    values : dict
        Floats and Codes that earlier stages made; those of this one are added. Of floats that are arguments, features
        given and outputs, the address is filled in when the program is launched.
    sparse : set
        Features most of which is 0.
    graphs, edge_weights : dict
        Arguments by value of the plan.
    constants : Constants
    buffers : Buffers
    """

    def __init__(self, schedule: Schedule, number, values, sparse, graphs, edge_weights, constants, buffers):
        self.schedule, self.stage = schedule, schedule.stages[number]
        self.graphs, self.edge_weights = graphs, edge_weights
        self.constants, self.buffers = constants, buffers
        self.program, self.hub_sums = Program(), []
        self.places = Places(schedule, self.stage, self.program, values, sparse, buffers)
        self.slots, self.free = {}, []
        self.looked_up = {}  # codes that are never made: what of
        self.edge_cost, self.row_cost, self.graph = 0, _ROW_COST, None
        self.last_use = {value: n for n, op in enumerate(self.stage.ops) for value in op.reads}

    def assemble(self) -> tuple[Launch, list]:
        """The stage's launch, and the arguments of the launches of ``sum_segments`` that must come before."""
        for n, op in enumerate(self.stage.ops):
            getattr(self, f"_{op.name}")(op, n)
            for value in op.writes:
                self._keep(value)
            for value in {*op.reads, *op.writes}:
                if self.last_use.get(value, -1) <= n and value in self.slots:
                    self.free.append(self.slots.pop(value))
        return self.program.finish(self._bounds()), self.hub_sums

    # -- slots and memory -------------------------------------------------------------------------------
    def _new_slot(self):
        return self.free.pop() if self.free else max([-1, *self.slots.values()]) + 1

    def _slot(self, value):
        """The slot ``value`` is in, loading it from memory if it is in none."""
        if value not in self.slots:
            self.slots[value] = self._new_slot()
            matrix, columns = self.places.matrix(value)
            self.program.add(fields.LOAD, self.slots[value], 0, columns, matrix)
        return self.slots[value]

    def _slot_over(self, value, n):
        """A slot to write to in place of ``value``, if operation ``n`` is the last to read it."""
        slot = self._slot(value)
        if self.last_use[value] > n:
            return self._new_slot()
        del self.slots[value]
        return slot

    def _keep(self, value):
        """Store a float value that is needed beyond this stage."""
        if value not in self.slots or self.schedule.stays(value):
            return
        matrix = self.places.new_floats(value)
        self.program.add(fields.STORE, 0, self.slots[value], matrix.stride, matrix)

    def _factor(self, op):
        """Address of the factors of a degree operation, 0 for None."""
        if op is None:
            return 0
        graph, spec = self.graphs[op.spec["in"][1]], op.spec
        return self.program.at(graph.degree_factor(spec["side"], spec["power"], spec["plus"]))

    def _weight(self, weight, codes):
        at = self.program.at
        return fields.Weight(at(codes), weight.inputs, at(weight.scale), at(weight.zero), at(weight.sums))

    # -- operations -------------------------------------------------------------------------------------
    def _quantize(self, op, n):
        (value,), (out,) = op.reads, op.writes
        grid, factor = self.constants.grids[op.spec["out"]], self._factor(op.factors[0])
        if self.places.looks_up(value, out, grid):
            self.looked_up[out] = value, self.places.target(out, grid, factor)
            return
        self.places.new_codes(out, grid)
        self.program.add(fields.ENCODE, 0, self._slot(value), op.columns, self.places.target(out, grid, factor))

    def _delta(self, op, n):
        (value, state), (out, after) = op.reads, op.writes
        grid, columns = self.constants.grids[op.spec["out"]], op.columns
        source, change = self._slot(value), self._new_slot()
        self.slots["change"] = change
        self.program.add(fields.TERM, change, source, columns, Term(1.0, self._factor(op.factors[0]), 1))
        if state is not None:
            self.program.add(fields.TERM, change, self._slot(state), columns, Term(-1.0, 0, 0))
        self.places.new_codes(out, grid)
        self.program.add(fields.ENCODE, 0, change, columns, self.places.target(out, grid))
        self.program.add(fields.DECODE, change, 0, columns, self.places.operand(out))
        del self.slots["change"]
        if state is None:
            self.slots[after] = change
            return
        before, self.slots["change"] = self._slot(state), change
        self.slots[after] = self._slot_over(state, n)
        if self.slots[after] != before:
            self.program.add(fields.TERM, self.slots[after], before, columns, Term(1.0, 0, 1))
        self.program.add(fields.TERM, self.slots[after], change, columns, Term(1.0, 0, 0))
        self.free.append(self.slots.pop("change"))

    def _dequantize(self, op, n):
        (value,), (out,) = op.reads, op.writes
        self.slots[out] = self._new_slot()
        self.program.add(fields.DECODE, self.slots[out], 0, op.columns, self.places.operand(value))

    def _finish(self, op, n):
        (value,), (out,), spec = op.reads, op.writes, op.spec
        source, slot = self._slot(value), self._slot_over(value, n)
        bias = pad(self.constants.biases[spec["bias"]["out"]] if "bias" in spec else 0, op.columns)
        self.slots[out] = slot
        scale = 0
        if "scale" in spec:
            scale = self.program.at(pad(self.constants.scales[spec["scale"]["out"]], op.columns))
        floor = 0.0 if "relu" in spec else -np.inf
        finish = Finish(self._factor(op.factors[0]), scale, self.program.at(bias), floor)
        self.program.add(fields.FINISH, slot, source, op.columns, finish)

    def _combine(self, op, n):
        first = op.reads[0]
        terms = [
            (coefficient, self._slot(value), self._factor(factor))
            for coefficient, value, factor in zip(op.spec["coefficients"], op.reads, op.factors)
        ]
        alone = op.reads.count(first) == 1
        slot = self._slot_over(first, n) if alone else self._new_slot()
        self.slots[op.writes[0]] = slot
        for position, (coefficient, source, factor) in enumerate(terms):
            term = Term(float(coefficient), factor, int(position == 0))
            if source != slot or (coefficient, factor) != (1, 0):
                self.program.add(fields.TERM, slot, source, op.columns, term)

    def _map(self, op, n):
        source, slot = self._slot(op.reads[0]), self._slot_over(op.reads[0], n)
        self.slots[op.writes[0]] = slot
        function = fields.Map(MAPS.index(op.spec["function"]), float(np.float32(op.spec["parameter"])))
        self.program.add(fields.MAP, slot, source, op.columns, function)

    def _concat(self, op, n):
        slot, offset = self._new_slot(), 0
        self.slots[op.writes[0]] = slot
        for value in op.reads:
            columns = self.schedule.columns[value]
            self.program.add(fields.PLACE, slot, self._slot(value), columns, (offset, op.columns))
            offset += columns
        self.program.widen(op.columns)

    def _maximum(self, op, n):
        slot, (first, *others) = self._new_slot(), op.reads
        self.slots[op.writes[0]] = slot
        self.program.add(fields.TERM, slot, self._slot(first), op.columns, Term(1.0, 0, 1))
        for value in others:
            self.program.add(fields.LARGER, slot, self._slot(value), op.columns)

    def _heads(self, op, step, count, stride, vector):
        source = self._slot(op.reads[0])
        self.slots[op.writes[0]] = slot = self._new_slot()
        heads = fields.Heads(step, count, stride, self.program.at(vector))
        self.program.add(fields.HEADS, slot, source, op.columns, heads)

    def _head_sums(self, op, n):
        columns = self.schedule.columns[op.reads[0]]
        per_head = columns // op.columns
        self._heads(op, per_head, per_head, 1, pad(self.constants.vectors[op.writes[0]], columns))

    def _head_mean(self, op, n):
        columns = self.schedule.columns[op.reads[0]]
        heads = columns // op.columns
        self._heads(op, 1, heads, op.columns, pad(np.float32(1 / heads), columns))

    def _readout(self, op, n):
        graph, matrix = self.graphs[op.spec["in"][0]], self.places.matrix(op.reads[0])[0]
        self.slots[op.writes[0]] = slot = self._new_slot()
        segments = fields.Segments(self.program.at(graph.batch_starts), REDUCTIONS.index(op.spec["reduce"]))
        self.program.add(fields.READOUT, slot, 0, op.columns, matrix, segments)

    def _stack(self, op, n):
        """Its parts were made where they stand: nothing is left to do."""

    def _linear(self, op, n):
        (value,), (out,) = op.reads, op.writes
        weight, slot = self.constants.weights[op.spec["out"]], self._new_slot()
        self.slots[out] = slot
        self.row_cost += weight.inputs * weight.columns // _PRODUCTS_A_COST
        if value in self.looked_up:
            source, target = self.looked_up[value]
            self.program.reserve(codes=weight.inputs + 64, totals=padded(weight.columns))
            features, _ = self.places.matrix(source)
            self.program.add(fields.LOOKUP, slot, 0, op.columns, features, target, self._weight(weight, weight.rows))
            return
        operand = self.places.operand(value)
        self.program.reserve(codes=operand.width * 8 // operand.bits + 24)
        self.program.add(fields.PRODUCT, slot, 0, op.columns, operand, self._weight(weight, weight.tiles))

    def _aggregate(self, op, n):
        codes, own = (None if value is None else self.places.codes(value) for value in op.reads)
        graph, given = (self.graphs[op.spec["in"][0]], self.edge_weights.get(op.spec["in"][2]))
        grid = codes.grid
        weights, kind = codes.weights, fields.NODE_WEIGHTS if codes.is_shifted else fields.UNWEIGHTED
        if given is not None and codes.is_shifted:
            raise GraphError("messages with a power of two each are summed without edge weights.")
        if op.spec.get("reduce") == "max":
            if given is not None:
                raise GraphError("a maximum over neighbours is taken without edge weights.")
            self._gather(op, graph, codes, fields.LARGEST)
            return
        if given is not None:
            weights = graph.edge_weights(given)
            kind = fields.INT8_WEIGHTS if weights.dtype == np.int8 else fields.FLOAT_WEIGHTS
        _check_sums(graph, weights, grid)
        # Signed weights may cancel, so that their sum bounds nothing.
        exact = grid.exact_sum if kind in (fields.UNWEIGHTED, fields.FLOAT_WEIGHTS) else -1
        self._gather(op, graph, codes, kind, weights, own, exact)

    def _aggregate_edges(self, op, n):
        nodes, edges = map(self.places.codes, op.reads)
        graph = self.graphs[op.spec["in"][0]]
        _check_sums(graph, None, nodes.grid, most=2)
        self._gather(op, graph, nodes, fields.EDGE_CODES, edge_codes=edges)

    def _gather(self, op, graph, codes, kind, weights=None, own=None, exact=-1, edge_codes=None):
        grid, room = codes.grid, codes.packed.shape[1] * 8 // codes.grid.bits
        hubs, partials = graph.hubs, None
        if kind == fields.UNWEIGHTED and len(hubs.nodes):
            partials = self.buffers.take((len(hubs.starts), room), np.int32)
            self.hub_sums.append(
                (hubs.starts, hubs.stops, codes.packed, grid.bits, grid.columns, graph.indices, partials)
            )
        at = self.program.at
        edges = Edges(
            at(graph.indptr), at(graph.indices), exact, at(weights), kind,
            0 if own is None else at(own.packed), 0 if own is None else at(own.weights),
            at(hubs.nodes), 0 if partials is None else len(hubs.nodes), at(hubs.first_part), at(partials),
            *((0, 0) if edge_codes is None else (at(edge_codes.packed), at(graph.edge_ids))),
        )  # fmt: skip
        self.slots[op.writes[0]] = self._new_slot()
        self.program.reserve(totals=room + AHEAD + 1)
        operand = self.places.operand(op.reads[0])
        if codes.is_shifted:  # what weighted sums are multiples of
            operand = operand._replace(per_row=0, scale=at(grid.unit), zero=at(grid.zero))
        self.program.add(fields.GATHER, self.slots[op.writes[0]], 0, op.columns, operand, edges)
        self._costs(graph, codes)

    def _attend(self, op, n):
        codes, left, _ = map(self.places.codes, op.reads)
        graph, heads = self.graphs[op.spec["in"][0]], op.spec["heads"]
        width, grid, at = left.grid.columns, self.constants.grids[op.spec["out"]], self.program.at
        _check_sums(graph, None, codes.grid, most=grid.top)
        attention = fields.Attention(
            at(graph.indptr), at(graph.indices), heads, width,
            at(pad(self.constants.vectors[op.writes[0]], width)), float(np.float32(op.spec["slope"])),
            grid.top, float(grid.scale[0]),
        )  # fmt: skip
        self.slots[op.writes[0]] = self._new_slot()
        room = codes.packed.shape[1] * 8 // codes.grid.bits
        self.program.reserve(totals=scratch_of(room, width, heads))
        operands = (self.places.operand(value) for value in op.reads)
        self.program.add(fields.ATTEND, self.slots[op.writes[0]], 0, op.columns, *operands, attention)
        self._costs(graph, codes, times=10)

    def _costs(self, graph, codes, times=1):
        """What summing over the edges of ``graph`` costs, for the balance of threads."""
        self.edge_cost += times * _EDGE_COST * -(-codes.packed.shape[1] // 64)
        self.row_cost += _ROW_COST
        self.graph = graph

    def _bounds(self):
        if self.graph is None:
            return row_bounds(self.stage.rows)
        return self.graph.bounds(self.edge_cost, self.row_cost)


def is_sparse(array: np.ndarray) -> bool:
    """Whether so much of a matrix is 0 that its products are faster looked up; judged by some of its rows."""
    sample = array[:: max(len(array) // _SAMPLED_ROWS, 1)]
    return bool(np.count_nonzero(sample) < SPARSE_BELOW * sample.size)


def _check_sums(graph: Graph, weights, grid: Grid, most: int = 1):
    """Refuse a sum, of codes times weights up to ``most``, that could exceed int32."""
    largest = (graph.max_in_degree + 1) * most
    if grid.mode == fields.SHIFT:
        largest <<= fields.MOST_HALVINGS
    elif weights is not None and weights.dtype == np.int8:
        largest *= int(np.abs(weights.astype(np.int16)).max(initial=1))
    if largest * ((1 << grid.bits) - 1) >= 2**31:
        raise GraphError(f"a node of in-degree {graph.max_in_degree} overflows an int32 sum of {grid.bits}-bit codes.")
