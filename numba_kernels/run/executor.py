"""Runs a plan on packed codes, stage by stage."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator

import numpy as np
from numba.core.compiler_lock import global_compiler_lock

from ..graph import GraphError
from ..partition import whole_graph
from ..plan.attributes import argument_name
from ..plan.ops import OPERATIONS
from ..plan.ops.call import written
from ..plan.plan import INPUT_KINDS, Plan
from ..plan.reach import reach_of
from ..plan.resolve import resolve
from ..plan.schedule import schedule
from ..result_file import ResultFile
from ..selected import selections
from .ahead import split
from .assemble import Assembled, assemble
from .calls import Arrays
from .coded import NOT_CODED, Coded, coded_features, decoded, kept_codes, stand_in
from .codes import Codes
from .features import as_floats, is_sparse
from .halo import HaloRun
from .matrices import Grid
from .memory import Arenas
from .one_run import Run, by_part
from .part import Part, node_count, of_each, rows_at
from .places import empty_codes
from .program import LEAST_TILE_ROWS
from .room import refuse_beyond, room_for
from .states import States

# Programs kept for classes of shapes met.
_KEPT_PROGRAMS = 16


class Executor:
    """Runs ``plan``; holds what is derived from it: constants, programs for classes of shapes met.

    Two runs are of one class when the same of their numbers of rows are equal, and the same graphs are blocks, have
    hubs and edge weights. The memory between stages is kept for the next run. Several threads may run it at once.
    """

    def __init__(self, plan: Plan):
        self._whole, (self._ahead, self.plan), self.reach = plan, split(plan, Executor), reach_of(plan)
        self._kept, self._arenas = {}, Arenas()
        self._programs: OrderedDict = OrderedDict()
        self._before = [op for op in self.plan.ops if OPERATIONS[op["op"]].is_before]
        self._names, self.selected = names_of(self.plan), selections(self.plan)
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
        self._arenas.release()
        self._programs.clear()

    def run(
        self,
        inputs: dict,
        threads: int,
        batch_size: int | None = None,
        out: np.ndarray | ResultFile | None = None,
        room: int | None = None,
        part: Part | HaloRun | None = None,
        coded: Coded = NOT_CODED,
        after_stage: Callable | None = None,
        states: States | None = None,
        progress: Callable | None = None,
    ) -> list:
        """Output arrays for ``inputs``: what :meth:`prepared` gives, all its stages executed, its results.

        With ``batch_size`` stages work on as many rows at a time; features can then be anything that is sliced by rows.
        ``after_stage`` is called between stages, see :meth:`numba_kernels.run.one_run.Run.execute`, ``progress`` with
        the share of the work that is done. ``states`` are recorded after each stage where the result is a file.
        """
        with self.prepared(inputs, threads, out, room, part, coded, states) as run:
            run.progress = progress
            run.execute(batch_size, after_stage if states is None else states.after_stage)
            return run.results()

    @contextlib.contextmanager
    def prepared(
        self,
        inputs: dict,
        threads: int,
        out: np.ndarray | ResultFile | None = None,
        room: int | None = None,
        part: Part | HaloRun | None = None,
        coded: Coded = NOT_CODED,
        states: States | None = None,
    ) -> Iterator[Run]:
        """A run of ``inputs``, checked and before its first stage; its memory lasts until the ``with`` block is left.

        Parameters
        ----------
        inputs : dict
            Values by number: float32 arrays (or pairs), Graphs, edge weights and types.
        threads : int
        out : array, optional
            Takes the place of the one output.
        room : int, optional
            The most bytes that the run may take. Default: what inputs allow.
        part : Part or HaloRun, optional
            Says which rows of stages are computed.
        coded : Coded
            Codes that are read, or made, where they stand.
        states : States, optional
            Files that what stands between stages is kept in. Default: memory.
        """
        room = self.room(inputs.values()) if room is None else room
        run = self._run_of(self._with_ahead(inputs, threads, room), room, part)
        run.codes, run.made = coded.codes if part is None else part.codes, coded.made
        if part is None and not all(map(whole_graph, run.single.values())):
            raise GraphError("a partition's rows need those of other workers; call inference with an exchange.")
        assembled = self._assembled(run)
        for check in assembled.checks:
            check(run)
        with self._arenas.one() as arena:
            run.begin(assembled, arena, threads, out, states)
            yield run

    def run_at(self, nodes: np.ndarray, inputs: dict, threads: int, coded: Coded = NOT_CODED) -> list:
        """The rows of ``nodes`` of what :meth:`run` returns, to the bit; features may be floats of any width."""
        count, part = node_count(self.plan.inputs, inputs), Part.of(self.reach, inputs, nodes, coded)
        if part is None:
            inputs = self.with_float32(inputs)
            return [rows_at(output, nodes, count) for output in self.run(inputs, threads, coded=coded)]
        outputs = self.run(inputs, threads, part=part, coded=coded)
        return [rows_at(output, part.places, part.graph.num_dst) for output in outputs]

    def run_partition(self, inputs: dict, threads: int, batch_size: int, exchange: Callable) -> list:
        """The rows of :meth:`run` that a worker computes of graphs that are partitions; see :class:`HaloRun`."""
        halo = HaloRun(self.plan, self.reach, inputs, exchange)
        outputs = self.run(halo.inputs, threads, batch_size, part=halo, after_stage=halo.after_stage)
        return [halo.inner_rows(output) for output in outputs]

    def coded(self, inputs: dict, threads: int) -> Coded:
        """Codes that runs of ``inputs`` share."""
        room = self.room(inputs.values())
        run = self._run_of(self._with_ahead(inputs, threads, room), room)
        ops, _, columns, _ = self._resolve(run)
        makers = coded_features(ops, run.arrays, run.sparse)
        if self.reach.hops is not None:
            makers = {value: op for value, op in makers.items() if op.spec["out"] in self.reach.needs}
        grids = {value: Grid.of(self.plan.grids[op.spec["out"]], columns[value]) for value, op in makers.items()}
        kept = sum(grid.bytes_of(makers[value].rows) for value, grid in grids.items())
        refuse_beyond(room, kept)
        codes = {value: empty_codes(makers[value].rows, grid) for value, grid in grids.items()}
        self.run(inputs, threads, room=room - kept, coded=Coded(codes))
        run.codes, run.made = codes, frozenset(codes)
        read = {name[0] if isinstance(name, tuple) else name for name in self._assembled(run).floats_read}
        return Coded(codes, frozenset(run.shapes).difference(read), frozenset(codes))

    def given_codes(self, inputs: dict) -> tuple[dict, Coded]:
        """``inputs`` of a run of which some features are Codes, and those of these codes that it takes as they are.

        They are taken where nothing reads the features but as codes on the same grid; else they are decoded.
        """
        features = {entry["value"]: inputs[entry["value"]] for entry in self.plan.inputs if entry["kind"] == "features"}
        given = by_part(features)
        if not any(isinstance(part, Codes) for part in given.values()):
            return inputs, NOT_CODED
        kept: dict = {}
        if not self._ahead:
            run_inputs = {**inputs, **{value: of_each(stand_in, part) for value, part in features.items()}}
            run = self._run_of(run_inputs, self.room(run_inputs.values()))
            makers = kept_codes(self._resolve(run)[0], given, self.plan.grids)
            run.codes, run.made = {value: codes for value, (_, codes) in makers.items()}, frozenset(makers)
            read = self._assembled(run).floats_read
            kept = {value: taken for value, taken in makers.items() if taken[0] not in read}
        as_codes = {name for name, _ in kept.values()}
        parts = {name: (stand_in if name in as_codes else decoded)(part) for name, part in given.items()}
        for value, part in features.items():
            is_pair = isinstance(part, tuple)
            features[value] = tuple(parts[value, n] for n in range(len(part))) if is_pair else parts[value]
        codes = {value: codes for value, (_, codes) in kept.items()}
        return {**inputs, **features}, Coded(codes, frozenset(as_codes), frozenset(kept))

    def codes_returned(self, inputs: dict, threads: int, coded: Coded) -> Codes | None:
        """The codes that the one output of a run is decoded from; None where it is not."""
        made = {op["out"]: op for op in self.plan.ops if op["op"] in ("quantize", "dequantize")}
        last = made.get(self.plan.outputs[0]) if len(self.plan.outputs) == 1 else None
        if last is None or last["op"] != "dequantize" or last["in"][0] not in made:
            return None
        run = self._run_of(self._with_ahead(inputs, threads, self.room(inputs.values())), self.room(inputs.values()))
        ops, _, columns, _ = self._resolve(run)
        (value,) = next(op.reads for op in ops if op.spec is last)
        grid = Grid.of(self.plan.grids[last["in"][0]], columns[value])
        codes = empty_codes(next(op.rows for op in ops if value in op.writes), grid)
        self.run(inputs, threads, coded=coded.with_room(value, codes))
        return codes

    def with_float32(self, inputs: dict) -> dict:
        """Inputs of a run with features, floats of any width, in float32."""
        floats = {entry["value"] for entry in self.plan.inputs if entry["kind"] == "features"}
        return {value: of_each(as_floats, given) if value in floats else given for value, given in inputs.items()}

    def _with_ahead(self, inputs, threads, room):
        """Inputs, and what operations that run ahead make of them."""
        for ahead in self._ahead:
            inputs = {**inputs, ahead.value: ahead.of(inputs, threads, room)}
        return inputs

    def _run_of(self, inputs, room, part=None):
        """The run of arguments by value, with the graphs and weights that the plan makes of others."""
        features = {entry["value"]: inputs[entry["value"]] for entry in self.plan.inputs if entry["kind"] == "features"}
        multiplied = [(self.selected.get(value), by_part({value: features[value]})) for value in self._multiplied]
        sparse = {name for read, parts in multiplied for name, array in parts.items() if is_sparse(array, read)}
        inputs, given = inputs if part is None else part.inputs, {kind: {} for kind in INPUT_KINDS}
        for entry in self.plan.inputs:
            given[entry["kind"]][entry["value"]] = inputs[entry["value"]]
        graphs, types = given["graph"], given["edge_types"]
        edge_weights = {value: weight for value, weight in given["edge_weight"].items() if weight is not None}
        for op in self._before:
            OPERATIONS[op["op"]].prepare(op, graphs, edge_weights, types)
            refuse_beyond(room, 8 * getattr(graphs.get(op.get("out")), "num_src", 0))
        arrays = Arrays(given["array"], self.plan.arrays)
        more = self._times, sparse, arrays, self._matrices, room, self.selected
        run = Run(given["features"], graphs, edge_weights, *more)
        run.edge_types, run.part, run.names = types, part, self._names
        return run

    def room(self, arguments) -> int:
        """Bytes that a run may take."""
        return room_for(self._nbytes, arguments)

    def _assembled(self, run) -> Assembled:
        key = run.key()
        assembled = self._programs.get(key)
        if assembled is None:
            with global_compiler_lock:
                assembled = self._programs.get(key) or self._assemble(run)
                self._programs[key] = assembled
                while len(self._programs) > _KEPT_PROGRAMS:
                    self._programs.popitem(last=False)
        with contextlib.suppress(KeyError):  # another thread's, new, took its place
            self._programs.move_to_end(key)
        return assembled

    def _resolve(self, run):
        return resolve(self.plan, run.shapes, run.graphs, run.edge_weights, run.array_shapes)

    def _assemble(self, run):
        ops, outputs, columns, rows = self._resolve(run)
        refuse_beyond(run.room, LEAST_TILE_ROWS * 4 * max(columns.values(), default=0))
        ops = [op for op in ops if op.writes[0] not in run.made]
        return assemble(schedule(ops, outputs, columns, rows), self.plan, self._kept, run, self.reach.needs)


def names_of(plan: Plan) -> dict:
    """What features, and matrices made of arrays, are called in messages."""
    names = {entry["value"]: argument_name(entry) for entry in plan.inputs}
    for op in plan.ops:
        if op["op"] == "call":
            names.update(dict.fromkeys(written(op), f"the result of {op['function']}"))
        elif op["op"] == "matrix":
            names[op["out"]] = names[op["in"][0]]
    return names


def multiplied(plan: Plan) -> set:
    """Features whose codes are operands of products."""
    views, coded = {entry["value"]: entry["value"] for entry in plan.inputs if entry["kind"] == "features"}, {}
    for op in plan.ops:
        read = op["in"][0] if op["in"] else None
        if op["op"] == "quantize" and read in views:
            coded[op["out"]] = views[read]
        elif op["op"] in ("source", "destination"):  # of features or of codes
            for known in (views, coded):
                if read in known:
                    known[op["out"]] = known[read]
    return {coded[op["in"][0]] for op in plan.ops if op["op"] == "linear" and op["in"][0] in coded}
