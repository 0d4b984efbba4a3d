"""Runs a plan on packed codes, stage by stage."""

from __future__ import annotations

import math
from collections import OrderedDict

import numba
import numpy as np

from ..graph import Graph, GraphError, row_bounds
from ..plan.ops import OPERATIONS
from ..plan.ops.call import written
from ..plan.plan import INPUT_KINDS, Plan
from ..plan.resolve import resolve
from ..plan.schedule import schedule
from ..plan.sizes import all_sizes
from .ahead import split
from .assemble import Assembled, assemble
from .calls import Arrays
from .features import is_sparse, rows_of
from .launch import run_parallel, run_serial
from .memory import Arena, address_of, aligned_empty
from .program import LEAST_TILE_ROWS
from .room import refuse_beyond, room_for
from .runtime import using_threads

# Programs kept for classes of shapes met.
_KEPT_PROGRAMS = 16
# Work, in about nanoseconds, below which a run is not shared among threads.
_SHARED_FROM = 200_000

_scratch = Arena()  # of all executors: one of them launches at a time


class Executor:
    """Runs ``plan``; holds what is derived from it: constants, programs for classes of shapes met.

    Two runs are of one class when the same of their numbers of rows are equal, and the same graphs are blocks, have
    hubs and edge weights. The memory between stages is kept for the next run.
    """

    def __init__(self, plan: Plan):
        self._whole, (self._ahead, self.plan) = plan, split(plan, Executor)
        self._kept, self._arena = {}, Arena()
        self._programs: OrderedDict = OrderedDict()
        self._before = [op for op in self.plan.ops if OPERATIONS[op["op"]].is_before]
        self._names = names_of(self.plan)
        self._multiplied = multiplied(self.plan)
        self._matrices = [op["rows"] for op in self.plan.ops if op["op"] == "matrix"]
        self._nbytes = sum(array.nbytes for array in plan.arrays.values())
        self._times = sorted({len(op["in"]) for op in self.plan.ops if op["op"] == "stack"})

    def __getstate__(self):
        return {"plan": self._whole}  # programs hold addresses

    def __setstate__(self, state):
        self.__init__(**state)

    def release(self):
        """Free the memory kept for the next run."""
        self._arena.release()
        self._programs.clear()

    def run(
        self,
        inputs: dict,
        threads: int,
        batch_size: int | None = None,
        out: np.ndarray | None = None,
        room: int | None = None,
    ) -> list:
        """Output arrays for ``inputs``: values by number — float32 arrays (or pairs), Graphs, edge weights and types.

        With ``batch_size`` stages work on as many rows at a time; features can then be anything that is sliced by rows.
        ``out`` takes the place of the one output. A run takes at most ``room`` bytes, by default what inputs allow.
        """
        room = self.room(inputs.values()) if room is None else room
        for ahead in self._ahead:
            inputs = {**inputs, ahead.value: ahead.of(inputs, threads, room)}
        run = self._run_of(inputs, room)
        assembled = self._assembled(run)
        for check in assembled.checks:
            check(run)
        run.begin(assembled, self._arena, out)
        steps = (
            run.execute(assembled, threads)
            if batch_size is None
            else run.execute_in_batches(assembled, batch_size, threads)
        )
        for _ in steps:
            self._refuse_faults(assembled)
        return [run.result(value, size) for value, size in assembled.results]

    def _run_of(self, inputs, room):
        """The run of arguments by value, with the graphs and weights that the plan makes of others."""
        given = {kind: {} for kind in INPUT_KINDS}
        for entry in self.plan.inputs:
            given[entry["kind"]][entry["value"]] = inputs[entry["value"]]
        graphs, types = given["graph"], given["edge_types"]
        edge_weights = {value: weight for value, weight in given["edge_weight"].items() if weight is not None}
        for op in self._before:
            OPERATIONS[op["op"]].prepare(op, graphs, edge_weights, types)
            refuse_beyond(room, 8 * getattr(graphs.get(op.get("out")), "num_src", 0))
        arrays = Arrays(given["array"], self.plan.arrays)
        run = Run(given["features"], graphs, edge_weights, self._times, self._multiplied, arrays, self._matrices, room)
        run.edge_types = types
        return run

    def room(self, arguments) -> int:
        """Bytes that a run may take."""
        return room_for(self._nbytes, arguments)

    def _refuse_faults(self, assembled):
        if any(assembled.faults.tolist()):
            place = int(assembled.faults.argmax())
            if place == len(assembled.checked):
                raise GraphError("numbers within the model grow beyond float32; make the features smaller.")
            value = assembled.checked[place]
            name = self._names[value[0] if isinstance(value, tuple) else value]
            raise GraphError(f"{name} holds NaN or infinity; clean it before running the model.")

    def _assembled(self, run) -> Assembled:
        key = run.key()
        if key in self._programs:
            self._programs.move_to_end(key)
            return self._programs[key]
        resolved = resolve(self.plan, run.shapes, run.graphs, run.edge_weights, run.array_shapes)
        _, _, columns, _ = resolved
        refuse_beyond(run.room, LEAST_TILE_ROWS * 4 * max(columns.values(), default=0))
        planned = schedule(*resolved)
        assembled = assemble(planned, self.plan, self._kept, run)
        while len(self._programs) >= _KEPT_PROGRAMS:
            self._programs.popitem(last=False)
        self._programs[key] = assembled
        return assembled


class Run:
    """One run's arguments, and the numbers that a program's references stand for.

    Parameters
    ----------
    features : dict
        Arrays, or pairs of them, by value.
    graphs, edge_weights : dict
        Graphs and edge weights by value.
    times : iterable of int
        By what numbers of rows may be multiplied.
    multiplied : collection
        Features whose codes are multiplied, which pays to look up where most of them are 0.
    arrays : Arrays, optional
        The n-dimensional arrays that are given.
    matrices : list
        Rows, as sizes of the plan, of matrices made of arrays.
    room : float
        Bytes that it may take.
    """

    def __init__(
        self, features, graphs, edge_weights, times=(), multiplied=(), arrays=None, matrices=(), room=math.inf
    ):
        self.room = room
        self.graphs, self.edge_weights, self.arrays_made = graphs, edge_weights, arrays or Arrays({}, {})
        self.array_shapes = {value: array.shape for value, array in self.arrays_made.made.items()}
        self.single = {value: graph for value, graph in self.graphs.items() if isinstance(graph, Graph)}
        self.shapes, self.arrays = {}, {}
        for value, given in features.items():
            is_pair = isinstance(given, tuple)
            self.shapes[value] = tuple(part.shape for part in given) if is_pair else given.shape
            self.arrays.update({(value, n): part for n, part in enumerate(given)} if is_pair else {value: given})
        self.sparse = {
            value
            for value, array in self.arrays.items()
            if (value[0] if isinstance(value, tuple) else value) in multiplied and is_sparse(array)
        }
        sizes = [array.shape[0] for array in self.arrays.values()]
        for graph in self.single.values():
            sizes += [graph.num_src, graph.num_dst, graph.num_edges, graph.batch_size]
        self.sizes = all_sizes(sizes, times, matrices, self.graphs, self.array_shapes)
        self._ordered_weights, self.edge_types = {}, {}

    def key(self) -> tuple:
        """What decides the program: which sizes are equal, widths, what is sparse, what graphs and weights are like."""
        sizes = self.sizes
        graphs = tuple(
            (value, graph.is_block, graph.num_hubs > 0, graph.is_block and tuple(n >= graph.num_dst for n in sizes))
            for value, graph in self.single.items()
        )
        widths = tuple((value, array.shape[1]) for value, array in self.arrays.items())
        weights = tuple((value, self.kind_of(value)) for value in self.edge_weights)
        return tuple(map(sizes.index, sizes)), widths, frozenset(self.sparse), graphs, weights

    def kind_of(self, weight) -> str:
        """How edge weights are summed: as "int8" or "float32"."""
        return "int8" if getattr(self.edge_weights[weight], "dtype", None) == np.int8 else "float32"

    def ordered_weights(self, graph, weight, kind=None) -> np.ndarray:
        """Edge weights in the order of a graph's indices, as they are summed or of a dtype; none before they are."""
        if (graph, weight, kind) not in self._ordered_weights:
            weights = self.edge_weights.get(weight, self.arrays_made.made.get(weight))
            if weights is None:
                return np.empty(0, np.float32)
            ordered = self.graphs[graph].edge_weights(weights)
            self._ordered_weights[graph, weight, kind] = ordered if kind is None else ordered.astype(kind, copy=False)
        return self._ordered_weights[graph, weight, kind]

    def rows(self, size) -> int:
        """A number of rows, as :class:`~numba_kernels.run.assemble.Costs` names it."""
        return self.sizes[size] if isinstance(size, int) else self.graphs[size[1]].num_hub_parts

    def begin(self, assembled, arena, out=None):
        """Find room for what is written."""
        self.stage_rows = [self.rows(cost.size) for cost in assembled.costs]
        if min(self.stage_rows, default=0) < 0:
            raise GraphError(f"the model makes a matrix of {min(self.stage_rows)} rows of these arguments.")
        sizes = [self.rows(size) * row_bytes for size, row_bytes in assembled.buffers]
        outputs = sum(4 * self.sizes[size] * columns for size, columns in assembled.outputs.values())
        refuse_beyond(self.room, sum(sizes) + outputs + assembled.program.scratch_size)
        self.arena, self.buffers = arena, arena.places(sizes)
        self.outputs = {}
        for value, (size, columns) in assembled.outputs.items():
            shape = self.sizes[size], columns
            if out is not None and out.shape != shape:
                raise GraphError(f"out must have shape {shape}, got {out.shape}.")
            self.outputs[value] = aligned_empty(shape, np.float32) if out is None else out
        self.output_at = {value: address_of(array) for value, array in self.outputs.items()}
        self.inputs, self.out = {}, out
        assembled.faults[:] = 0

    def address(self, value) -> int:
        """Where features, or an array that a function made, stand; 0 where they do not yet."""
        return self.inputs[value] if value in self.inputs else self.arrays_made.address(value)

    def execute(self, assembled, threads: int):
        """All stages, on this thread where there is little to do; yields where numbers are to be checked."""
        program, costs = assembled.program, assembled.costs
        self.inputs = {value: address_of(array) for value, array in self.arrays.items()}
        program.set_rows(self.stage_rows)
        is_shared = threads > 1 and sum(map(self._work, costs)) >= _SHARED_FROM
        scratch = _scratch.take(program.scratch_size * (numba.config.NUMBA_NUM_THREADS if is_shared else 1))
        most = max(self.stage_rows, default=0)
        for calls, first, stop in assembled.segments():
            self._call(assembled, calls, threads)
            if first == stop:
                continue
            program.fill_in(self)
            if not is_shared:
                run_serial(program.stages_at, first, stop, 0, most, scratch)
            else:
                with using_threads(threads):
                    for number in range(first, stop):
                        self._launch(assembled, number, 0, most, scratch)
            yield

    def execute_in_batches(self, assembled, batch_size: int, threads: int):
        """All stages, each ``batch_size`` rows at a time; yields after each of them."""
        if assembled.called_with:
            raise GraphError("features that array functions read as they are do not come in batches; call the model.")
        for calls, first, stop in assembled.segments():
            self._call(assembled, calls, threads)
            for number in range(first, stop):
                yield from self._in_batches(assembled, number, batch_size, threads)

    def _in_batches(self, assembled, number, batch_size, threads):
        if assembled.read_out[number]:
            raise GraphError("features that are read out as they are do not come in batches; call the model itself.")
        program = assembled.program
        program.set_rows(self.stage_rows)
        scratch = _scratch.take(program.scratch_size * numba.config.NUMBA_NUM_THREADS)
        for start in range(0, self.stage_rows[number], batch_size):
            stop = min(start + batch_size, self.stage_rows[number])
            self.inputs, read = dict.fromkeys(self.arrays, 0), []
            for value in assembled.reads[number]:
                read.append(rows_of(self.arrays[value], start, stop))
                self.inputs[value] = address_of(read[-1]) - start * read[-1].strides[0]
            program.fill_in(self)
            with using_threads(threads):
                self._launch(assembled, number, start, stop, scratch)
            yield

    def _call(self, assembled, steps, threads):
        for step in steps:
            self.arrays_made.take(step, self, assembled.program, self.arena, threads)

    def _launch(self, assembled, number, low, high, scratch):
        """One stage on all threads."""
        program, cost = assembled.program, assembled.costs[number]
        graph = None if cost.graph is None else self.graphs[cost.graph]
        bounds = row_bounds(self.rows(cost.size)) if graph is None else graph.bounds(cost.edge, cost.row)
        program.set_bounds(number, bounds)
        run_parallel(program.stages_at, number, len(bounds) - 1, low, high, scratch, program.scratch_size)

    def _work(self, cost):
        """What a stage costs, in about nanoseconds."""
        edges = 0 if cost.graph is None else cost.edge * self.graphs[cost.graph].num_edges
        return edges + cost.row * self.rows(cost.size)

    def result(self, value, size) -> np.ndarray:
        """A value that is returned, or the first rows of it, as an array of its own."""
        rows = None if size is None else self.sizes[size]
        if value in self.arrays_made.made:
            array = self.arrays_made.made[value]
            return np.array(array) if self.out is None else _written(self.out, array)
        if value in self.arrays:
            return np.array(rows_of(self.arrays[value], 0, len(self.arrays[value]) if rows is None else rows))
        return self.outputs[value][:rows]


def _written(out, array):
    """``out`` with the numbers of an array."""
    if (array.shape, array.dtype) != (out.shape, out.dtype):
        raise GraphError(f"out must be {array.dtype} of shape {array.shape}, got {out.dtype} {out.shape}.")
    np.copyto(out, array)
    return out


def names_of(plan: Plan) -> dict:
    """What features, and matrices made of arrays, are called in messages."""
    names = {entry["value"]: entry["name"] for entry in plan.inputs}
    for op in plan.ops:
        if op["op"] == "call":
            names.update(dict.fromkeys(written(op), f"the result of {op['function']}"))
        elif op["op"] == "matrix":
            names[op["out"]] = names[op["in"][0]]
    return names


def compile_loops() -> None:
    """Compile, or load, the loops over stages."""
    run_serial(0, 0, 0, 0, 0, 0)
    run_parallel(0, 0, 0, 0, 0, 0, 0)


def multiplied(plan: Plan) -> set:
    """Features whose codes are operands of products."""
    views = {entry["value"]: entry["value"] for entry in plan.inputs if entry["kind"] == "features"}
    coded = {}
    for op in plan.ops:
        known = views if op["op"] in ("source", "destination", "quantize") else {}
        if op["in"] and op["in"][0] in known:
            (coded if op["op"] == "quantize" else views)[op["out"]] = known[op["in"][0]]
    return {coded[op["in"][0]] for op in plan.ops if op["op"] == "linear" and op["in"][0] in coded}
