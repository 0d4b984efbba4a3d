"""One run of a program: its arguments, the memory that it writes to, its stages one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..graph import Graph, GraphError, row_bounds
from ..plan.sizes import all_sizes
from ..result_file import ResultFile
from ..selected import read_of, shape_read
from .calls import Arrays
from .features import read_ahead, rows_of
from .launch import run_parallel, run_serial
from .memory import address_of, aligned_empty
from .part import of_each
from .program import Filled
from .room import refuse_beyond
from .runtime import sharing
from .sources import parts

# Work, in about nanoseconds, below which a run is not shared among threads.
_SHARED_FROM = 200_000
# Rows that stages without features work on at a time, at least, where they work in batches.
_LEAST_ROWS = 1 << 16


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
    sparse : collection
        Features whose codes are multiplied, which pays to look up as most of them are 0.
    arrays : Arrays, optional
        The n-dimensional arrays that are given.
    matrices : list
        Rows, as sizes of the plan, of matrices made of arrays.
    room : float
        Bytes that it may take.
    selected : dict
        Columns of features that are read, by value; features that have others are whole.

    Attributes
    ----------
    read : dict
        Of whole features the columns that are read, as of ``selected``, by value, or value and place in a pair.
    codes : dict
        Codes by value that the caller holds: given, or room for what is made.
    made : frozenset
        Values whose codes are given.
    names : dict
        What values are called in messages.
    moved : dict
        Where sources stand while those of a part of the destinations were brought together, see :mod:`.sources`.
    progress : callable, optional
        Called with the share of the work that is done, in batches.
    """

    def __init__(
        self, features, graphs, edge_weights, times=(), sparse=(), arrays=None, matrices=(), room=math.inf,
        selected=None,
    ):  # fmt: skip
        self.room, selected = room, selected or {}
        self.graphs, self.edge_weights, self.arrays_made = graphs, edge_weights, arrays or Arrays({}, {})
        self.array_shapes = {value: array.shape for value, array in self.arrays_made.made.items()}
        self.single = {value: graph for value, graph in self.graphs.items() if isinstance(graph, Graph)}
        self.shapes = {value: of_each(shape_read, given, selected.get(value)) for value, given in features.items()}
        self.arrays, self.sparse, self.part = by_part(features), set(sparse), None
        read = by_part({value: of_each(read_of, given, selected.get(value)) for value, given in features.items()})
        self.read = {name: columns for name, columns in read.items() if columns is not None}
        sizes = [array.shape[0] for array in self.arrays.values()]
        for graph in self.single.values():
            sizes += [graph.num_src, graph.num_dst, graph.num_edges, graph.batch_size]
        self.sizes = all_sizes(sizes, times, matrices, self.graphs, self.array_shapes)
        self._ordered_weights, self.edge_types = {}, {}
        self.codes, self.made, self.names = {}, frozenset(), {}
        self.states, self.moved, self.progress = None, {}, None

    def key(self) -> tuple:
        """What decides the program: which sizes are equal, widths, what is sparse, what graphs and weights are like."""
        sizes = self.sizes
        graphs = tuple(
            (value, graph.is_block, graph.num_hubs > 0, graph.is_block and tuple(n >= graph.num_dst for n in sizes))
            for value, graph in self.single.items()
        )
        widths = tuple((value, array.shape[1]) for value, array in self.arrays.items())
        weights = tuple((value, self.kind_of(value)) for value in self.edge_weights)
        codes = frozenset(self.codes), self.made
        return tuple(map(sizes.index, sizes)), widths, frozenset(self.sparse), graphs, weights, codes

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

    def stage_size(self, cost) -> int:
        """How many rows a stage has."""
        return self.rows(cost.size)

    def begin(self, assembled, arena, threads, out=None, states=None):
        """Find room for what is written, by a run on at most as many threads; ``states`` has some in files."""
        self.assembled, self.arena, self.threads, self.out = assembled, states or arena, threads, out
        self.states = states
        if states is not None:
            states.is_kept = isinstance(out, ResultFile) and not assembled.calls
        rows_to_run = Run.stage_size if self.part is None else self.part.rows_to_run
        self.stage_rows = [rows_to_run(self, cost) for cost in assembled.costs]
        if min(self.stage_rows, default=0) < 0:
            raise GraphError(f"the model makes a matrix of {min(self.stage_rows)} rows of these arguments.")
        sizes = [self.rows(size) * row_bytes for size, row_bytes in assembled.buffers]
        outputs = sum(4 * self.sizes[size] * columns for size, columns in assembled.outputs.values())
        scratch_size = assembled.program.scratch_size
        refuse_beyond(self.room, sum(sizes) + outputs + scratch_size)
        # The scratch of threads comes first: small runs find it in the caches.
        if states is None:
            self.scratch, *self.buffers = arena.places([threads * scratch_size, *sizes])
        else:
            self.scratch, self.buffers = arena.take(threads * scratch_size), states.places(sizes)
        self.outputs = {}
        for value, (size, columns) in assembled.outputs.items():
            self.outputs[value] = self._room_for((self.sizes[size], columns))
        self.output_at = {value: address_of(array) for value, array in self.outputs.items()}
        self.inputs, self.program = {}, Filled(assembled.program, self.stage_rows)
        self.faults = np.zeros(len(assembled.checked) + 1, np.int32)  # the last for numbers within
        self._is_shared = threads > 1 and sum(map(self._work, assembled.costs, self.stage_rows)) >= _SHARED_FROM

    def _room_for(self, shape):
        """Where an output of a shape is written."""
        out = self.out
        if isinstance(out, ResultFile):
            return out.array(shape)
        if out is not None and out.shape != shape:
            raise GraphError(f"out must have shape {shape}, got {out.shape}.")
        return aligned_empty(shape, np.float32) if out is None else out

    def sources_at(self, graph) -> int:
        """Where the sources of a graph stand, or of a part of its destinations, at an address as if all were there."""
        return self.moved[graph][1] if graph in self.moved else self.graphs[graph].address("indices")

    def gathered_at(self, graph, number: int) -> int:
        """Where the rows of a buffer stand that the sources of a graph name."""
        return self.moved[graph, number][1] if (graph, number) in self.moved else self.buffers[number]

    def address(self, value) -> int:
        """Where features, or an array that a function made, stand; 0 where they do not yet."""
        return self.inputs[value] if value in self.inputs else self.arrays_made.address(value)

    def columns_of(self, value, rows: np.ndarray) -> np.ndarray:
        """Of rows of features, or of another value, the columns that are read."""
        return self.read[value].of(rows) if value in self.read else rows

    def fault_address(self, number: int) -> int:
        """Where it is said whether what is checked holds a number that is not finite."""
        return address_of(self.faults) + self.faults.itemsize * number

    def execute(self, batch_size: int | None = None, after_stage: Callable | None = None) -> None:
        """All stages, ``batch_size`` rows at a time if it is given.

        ``after_stage(run, number)`` is called when stage ``number`` is complete and its numbers are checked; without
        it, stages between which nothing comes are launched together. Those that states say are complete are not run.
        """
        if batch_size is not None and self.assembled.called_with:
            raise GraphError("features that array functions read as they are do not come in batches; call the model.")
        for calls, first, stop in self.assembled.segments():
            self._call(calls)
            if batch_size is None and after_stage is None:
                self.launch(first, stop)
                continue
            for number in range(first, stop):
                if self.states is not None and number < self.states.done:
                    continue
                if batch_size is None:
                    self.launch(number, number + 1)
                else:
                    self.launch_in_batches(number, batch_size)
                if after_stage is not None:
                    after_stage(self, number)

    def launch(self, first: int, stop: int) -> None:
        """Stages ``first`` to below ``stop``, all their rows, on this thread where there is little to do."""
        if first == stop:
            return
        self.inputs = {value: address_of(array) for value, array in self.arrays.items()}
        self.program.fill_in(self)
        self._launch(first, stop, 0, max(self.stage_rows), self.threads if self._is_shared else 1)
        self.refuse_faults()

    def launch_in_batches(self, number: int, batch_size: int) -> None:
        """One stage, ``batch_size`` rows at a time, of which the features are read when it comes to them."""
        if self.assembled.read_out[number]:
            raise GraphError("features that are read out as they are do not come in batches; call the model itself.")
        features = {value: self.arrays[value] for value in self.assembled.reads[number]}
        step = batch_size if features else max(batch_size, _LEAST_ROWS)
        for low, high in parts(self, number):
            batches = ((start, min(start + step, high)) for start in range(low, high, step))
            for start, stop, read in read_ahead(features, batches):
                at = {value: address_of(rows) - start * rows.strides[0] for value, rows in read.items()}
                self.inputs = {**dict.fromkeys(self.arrays, 0), **at}
                self.program.fill_in(self)
                self._launch(number, number + 1, start, stop, self.threads)
                self.refuse_faults()
                if self.progress is not None:
                    self.progress(self.share_done(number, stop))

    def share_done(self, number: int, rows: int) -> float:
        """The share of the work that all stages before stage ``number`` are, and as many rows of that."""
        work = [self._work(cost, count) for cost, count in zip(self.assembled.costs, self.stage_rows)]
        return (sum(work[:number]) + self._work(self.assembled.costs[number], rows)) / max(sum(work), 1)

    def refuse_faults(self) -> None:
        """Raise GraphError where numbers that kernels have met are not finite."""
        if any(self.faults.tolist()):
            place, checked = int(self.faults.argmax()), self.assembled.checked
            if place == len(checked):
                raise GraphError("numbers within the model grow beyond float32; make the features smaller.")
            value = checked[place]
            name = self.names[value[0] if isinstance(value, tuple) else value]
            raise GraphError(f"{name} holds NaN or infinity; clean it before running the model.")

    def _call(self, steps):
        for step in steps:
            self.arrays_made.take(step, self)

    def _launch(self, first, stop, low, high, threads):
        """Stages ``first`` to below ``stop``, rows ``low`` to below ``high``, on at most as many threads."""
        program, scratch_size = self.program, self.assembled.program.scratch_size
        with sharing(threads) as granted:
            if granted == 1:
                for number in range(first, stop):
                    program.as_one_block(number)
                run_serial(program.stages_at, first, stop, low, high, self.scratch)
                return
            for number in range(first, stop):
                last = min(high, self.stage_rows[number])
                bounds = self._bounds(number, low, last)
                program.set_bounds(number, bounds)
                run_parallel(program.stages_at, number, len(bounds) - 1, low, last, self.scratch, scratch_size)

    def _bounds(self, number, low, high):
        """Of a stage's rows from ``low`` to before ``high``: blocks that cost about as much each."""
        cost = self.assembled.costs[number]
        if cost.graph is None:
            return low + row_bounds(high - low)
        if low == 0 and high == self.stage_rows[number]:
            return self.graphs[cost.graph].bounds(cost.edge, cost.row)
        return self.graphs[cost.graph].bounds_between(low, high, cost.edge, cost.row)

    def _work(self, cost, rows):
        """What the first rows of a stage cost, in about nanoseconds."""
        edges = 0 if cost.graph is None else cost.edge * int(self.graphs[cost.graph].indptr[rows])
        return edges + cost.row * rows

    def results(self) -> list[np.ndarray]:
        """What is returned: values, or the first rows of them, as arrays of their own."""
        return [self._result(value, size) for value, size in self.assembled.results]

    def _result(self, value, size):
        rows = None if size is None else self.sizes[size]
        if value in self.arrays_made.made:
            array = self.arrays_made.made[value]
            out = self.out.array(array.shape, array.dtype) if isinstance(self.out, ResultFile) else self.out
            return np.array(array) if out is None else _written(out, array)
        if value in self.arrays:
            features = self.arrays[value]
            return np.array(self.columns_of(value, rows_of(features, 0, len(features) if rows is None else rows)))
        return self.outputs[value][:rows]


def by_part(features: dict) -> dict:
    """Arrays by value, those of pairs by value and place."""
    arrays = {}
    for value, given in features.items():
        arrays.update(
            {(value, n): part for n, part in enumerate(given)} if isinstance(given, tuple) else {value: given}
        )
    return arrays


def _written(out, array):
    """``out`` with the numbers of an array."""
    if (array.shape, array.dtype) != (out.shape, out.dtype):
        raise GraphError(f"out must be {array.dtype} of shape {array.shape}, got {out.dtype} {out.shape}.")
    np.copyto(out, array)
    return out
