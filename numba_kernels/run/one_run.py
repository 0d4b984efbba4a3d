"""One run of a program: its arguments, the memory that it writes to, its stages one after the other."""

from __future__ import annotations

import math

import numpy as np

from ..graph import Graph, GraphError, row_bounds
from ..plan.sizes import all_sizes
from .calls import Arrays
from .features import rows_of
from .launch import run_parallel, run_serial
from .memory import address_of, aligned_empty
from .part import of_each
from .program import Filled
from .room import refuse_beyond
from .runtime import sharing

# Work, in about nanoseconds, below which a run is not shared among threads.
_SHARED_FROM = 200_000


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

    Attributes
    ----------
    codes : dict
        Codes by value that the caller holds: given, or room for what is made.
    made : frozenset
        Values whose codes are given.
    """

    def __init__(self, features, graphs, edge_weights, times=(), sparse=(), arrays=None, matrices=(), room=math.inf):
        self.room = room
        self.graphs, self.edge_weights, self.arrays_made = graphs, edge_weights, arrays or Arrays({}, {})
        self.array_shapes = {value: array.shape for value, array in self.arrays_made.made.items()}
        self.single = {value: graph for value, graph in self.graphs.items() if isinstance(graph, Graph)}
        self.shapes = {value: of_each(lambda part: part.shape, given) for value, given in features.items()}
        self.arrays, self.sparse, self.part = by_part(features), set(sparse), None
        sizes = [array.shape[0] for array in self.arrays.values()]
        for graph in self.single.values():
            sizes += [graph.num_src, graph.num_dst, graph.num_edges, graph.batch_size]
        self.sizes = all_sizes(sizes, times, matrices, self.graphs, self.array_shapes)
        self._ordered_weights, self.edge_types = {}, {}
        self.codes, self.made = {}, frozenset()

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

    def rows_to_run(self, cost) -> int:
        """How many rows of a stage are computed: all, or those that the nodes of a part follow from."""
        rows = self.rows(cost.size)
        if self.part is None:
            return rows
        needed = self.part.rows(cost.needs)
        return min(rows, needed if isinstance(cost.size, int) else self.graphs[cost.size[1]].hub_parts_within(needed))

    def begin(self, assembled, arena, threads, out=None):
        """Find room for what is written, by a run on at most as many threads."""
        self.assembled, self.arena, self.threads, self.out = assembled, arena, threads, out
        self.stage_rows = [self.rows_to_run(cost) for cost in assembled.costs]
        if min(self.stage_rows, default=0) < 0:
            raise GraphError(f"the model makes a matrix of {min(self.stage_rows)} rows of these arguments.")
        sizes = [self.rows(size) * row_bytes for size, row_bytes in assembled.buffers]
        outputs = sum(4 * self.sizes[size] * columns for size, columns in assembled.outputs.values())
        scratch_size = assembled.program.scratch_size
        refuse_beyond(self.room, sum(sizes) + outputs + scratch_size)
        # The scratch of threads comes first: small runs find it in the caches.
        self.scratch, *self.buffers = arena.places([threads * scratch_size, *sizes])
        self.outputs = {}
        for value, (size, columns) in assembled.outputs.items():
            shape = self.sizes[size], columns
            if out is not None and out.shape != shape:
                raise GraphError(f"out must have shape {shape}, got {out.shape}.")
            self.outputs[value] = aligned_empty(shape, np.float32) if out is None else out
        self.output_at = {value: address_of(array) for value, array in self.outputs.items()}
        self.inputs, self.program = {}, Filled(assembled.program, self.stage_rows)
        self.faults = np.zeros(len(assembled.checked) + 1, np.int32)  # the last for numbers within

    def address(self, value) -> int:
        """Where features, or an array that a function made, stand; 0 where they do not yet."""
        return self.inputs[value] if value in self.inputs else self.arrays_made.address(value)

    def fault_address(self, number: int) -> int:
        """Where it is said whether what is checked holds a number that is not finite."""
        return address_of(self.faults) + self.faults.itemsize * number

    def execute(self):
        """All stages, on this thread where there is little to do; yields where numbers are to be checked."""
        self.inputs = {value: address_of(array) for value, array in self.arrays.items()}
        is_shared = self.threads > 1 and sum(map(self._work, self.assembled.costs, self.stage_rows)) >= _SHARED_FROM
        most = max(self.stage_rows, default=0)
        for calls, first, stop in self.assembled.segments():
            self._call(calls)
            if first == stop:
                continue
            self.program.fill_in(self)
            self._launch(first, stop, 0, most, self.threads if is_shared else 1)
            yield

    def execute_in_batches(self, batch_size: int):
        """All stages, each ``batch_size`` rows at a time; yields after each of them."""
        if self.assembled.called_with:
            raise GraphError("features that array functions read as they are do not come in batches; call the model.")
        for calls, first, stop in self.assembled.segments():
            self._call(calls)
            for number in range(first, stop):
                yield from self._in_batches(number, batch_size)

    def _in_batches(self, number, batch_size):
        if self.assembled.read_out[number]:
            raise GraphError("features that are read out as they are do not come in batches; call the model itself.")
        for start in range(0, self.stage_rows[number], batch_size):
            stop = min(start + batch_size, self.stage_rows[number])
            self.inputs, read = dict.fromkeys(self.arrays, 0), []
            for value in self.assembled.reads[number]:
                read.append(rows_of(self.arrays[value], start, stop))
                self.inputs[value] = address_of(read[-1]) - start * read[-1].strides[0]
            self.program.fill_in(self)
            self._launch(number, number + 1, start, stop, self.threads)
            yield

    def _call(self, steps):
        for step in steps:
            self.arrays_made.take(step, self)

    def _launch(self, first, stop, low, high, threads):
        """Stages ``first`` to below ``stop``, rows ``low`` to below ``high``, on at most as many threads."""
        program, scratch_size = self.program, self.assembled.program.scratch_size
        with sharing(threads) as granted:
            if granted == 1:
                run_serial(program.stages_at, first, stop, low, high, self.scratch)
                return
            for number in range(first, stop):
                bounds = self._bounds(self.assembled.costs[number])
                program.set_bounds(number, bounds)
                last = min(high, self.stage_rows[number])
                run_parallel(program.stages_at, number, len(bounds) - 1, low, last, self.scratch, scratch_size)

    def _bounds(self, cost):
        """Of a stage: blocks of rows that cost about as much each."""
        if cost.graph is None:
            return row_bounds(self.rows(cost.size))
        return self.graphs[cost.graph].bounds(cost.edge, cost.row)

    def _work(self, cost, rows):
        """What as many rows of a stage cost, in about nanoseconds."""
        edges = 0 if cost.graph is None else cost.edge * int(self.graphs[cost.graph].indptr[rows])
        return edges + cost.row * rows

    def result(self, value, size) -> np.ndarray:
        """A value that is returned, or the first rows of it, as an array of its own."""
        rows = None if size is None else self.sizes[size]
        if value in self.arrays_made.made:
            array = self.arrays_made.made[value]
            return np.array(array) if self.out is None else _written(self.out, array)
        if value in self.arrays:
            return np.array(rows_of(self.arrays[value], 0, len(self.arrays[value]) if rows is None else rows))
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
