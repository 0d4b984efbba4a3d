"""Runs a plan on packed codes, stage by stage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..graph import Graph, GraphError
from ..plan.plan import INPUT_KINDS, Plan
from ..plan.resolve import BEFORE, resolve, whole
from ..plan.schedule import Schedule, schedule
from .assemble import Assembler, is_sparse
from .buffers import Buffers, aligned_empty
from .matrices import Constants, Floats
from .places import STREAM_FROM
from .program import Argument
from .stage import launch

_KEPT_SCHEDULES = 8


@dataclass
class Prepared:
    """Stages ready to launch on one graph and one shape of features."""

    key: tuple
    graphs: list  # kept alive, as long as their identities are part of the key
    launches: list
    rows: dict  # of outputs


class Executor:
    """Runs ``plan``; holds what is derived from it: constants, schedules for shapes met, the last stages prepared.

    Memory between stages is laid out when stages are prepared, and kept for the next run on the same graph.
    """

    def __init__(self, plan: Plan):
        self.plan, self.constants, self.buffers = plan, Constants(plan), Buffers()
        self._schedules, self._prepared = {}, None
        self._names = {entry["value"]: entry["name"] for entry in plan.inputs}

    def __getstate__(self):
        return {"plan": self.plan}  # prepared stages hold addresses

    def __setstate__(self, state):
        self.__init__(**state)

    def release(self):
        """Free the memory kept for the next run."""
        self._prepared, self.buffers = None, Buffers()

    def run(self, inputs: dict, batch_size: int | None = None, out: np.ndarray | None = None) -> list:
        """Output arrays for ``inputs``: values by number — float32 arrays (or pairs), Graphs, edge weights and types.

        With ``batch_size`` stages work on as many rows at a time; features can then be anything that is sliced by rows.
        ``out`` takes the place of the one output.
        """
        given = {kind: {} for kind in INPUT_KINDS}
        for entry in self.plan.inputs:
            given[entry["kind"]][entry["value"]] = inputs[entry["value"]]
        weights = {value: array for value, array in given["edge_weight"].items() if array is not None}
        graphs = self._graphs(given["graph"], weights, given["edge_types"])
        prepared, plan = self._prepare(given["features"], graphs, weights)
        arrays = _parts(given["features"])
        flags = {value: np.zeros(1, np.int32) for value in arrays}
        outputs = {}
        for value, rows in prepared.rows.items():
            shape = rows, plan.columns[value]
            if out is not None and out.shape != shape:
                raise GraphError(f"out must have shape {shape}, got {out.shape}.")
            outputs[value] = aligned_empty(shape, np.float32) if out is None else out
        for stage, planned in zip(prepared.launches, plan.stages):
            step = batch_size or max(planned.rows, 1)
            for start in range(0, planned.rows, step):
                rows = start, min(start + step, planned.rows)
                read = arrays if batch_size is None else _rows_read(planned, arrays, rows)
                launch(*stage, launch_arguments(read, flags, outputs, 0 if batch_size is None else start), rows)
                self._refuse_flagged(flags)
        return [self._output(value, outputs, arrays) for value in plan.outputs]

    def _refuse_flagged(self, flags):
        for value, flag in flags.items():
            if flag[0]:
                name = self._names[value[0] if isinstance(value, tuple) else value]
                raise GraphError(f"{name} holds NaN or infinity; clean it before running the model.")

    def _prepare(self, features, graphs, weights) -> tuple[Prepared, Schedule]:
        """Stages for these arguments: those of the last run, if it was on the same graph and shapes."""
        shapes = {
            value: tuple(array.shape for array in part) if isinstance(part, tuple) else part.shape
            for value, part in features.items()
        }
        plain = {value: graph for value, graph in graphs.items() if isinstance(graph, Graph)}
        sizes = [
            (value, g.num_src, g.num_dst, g.num_edges, g.is_block, len(g.batch_starts)) for value, g in plain.items()
        ]
        arrays = _parts(features)
        sparse = {value for value, array in arrays.items() if is_sparse(array)}
        plan = self._schedule((tuple(shapes.items()), tuple(sizes), frozenset(weights)), shapes, graphs, weights)
        key = tuple(shapes.items()), tuple(map(id, plain.values())), frozenset(sparse)
        if self._prepared is not None and self._prepared.key == key and not weights:
            return self._prepared, plan
        self._prepared = None
        self.buffers.begin()
        values = {value: Floats(Argument("in", value), array.shape[1]) for value, array in arrays.items()}
        prepared = Prepared(key, list(plain.values()), [], {})
        for number, stage in enumerate(plan.stages):
            assembler = Assembler(plan, number, values, sparse, graphs, weights, self.constants, self.buffers)
            prepared.launches.append(assembler.assemble())
            prepared.rows.update({value: stage.rows for op in stage.ops for value in op.writes if value in plan.kept})
            for value in [value for value in values if max(plan.read_in[value], default=-1) <= number]:
                self.buffers.give_back(values.pop(value))
        self.buffers.trim()
        if not weights:
            self._prepared = prepared
        return prepared, plan

    def _schedule(self, key, shapes, graphs, weights):
        if key not in self._schedules:
            planned = schedule(*resolve(self.plan, shapes, graphs, weights))
            while len(self._schedules) >= _KEPT_SCHEDULES:
                del self._schedules[next(iter(self._schedules))]
            self._schedules[key] = planned
        return self._schedules[key]

    @staticmethod
    def _output(value, outputs, features):
        """A float value as an array of its own."""
        name, rows = whole(value), value[2] if whole(value) != value else None
        return np.array(features[name][:rows], np.float32) if name in features else outputs[name][:rows]

    def _graphs(self, given, weights, types):
        """Graphs by value, those that the plan makes of others as well; ``weights`` get those it makes of others."""
        graphs = dict(given)
        for op in self.plan.ops:
            if op["op"] in BEFORE:
                source = graphs[op["in"][0]]
                if op["op"] == "edge_norm":
                    if op["in"][1] in weights:
                        weights[op["out"]] = source.normed(weights[op["in"][1]])
                elif op["op"] == "check_in_degrees":
                    _check_in_degrees(source)
                else:
                    graphs[op["out"]] = _DERIVED[op["op"]](op, source, types)
        return graphs


def _item(op, graphs, types):
    if not isinstance(graphs, list) or op["index"] >= len(graphs):
        raise GraphError(
            f"the model reads graph {op['index']} of a list of blocks; pass a list with at least that many."
        )
    return graphs[op["index"]]


def _relation(op, graph, types):
    etype = tuple(op["etype"])
    if not isinstance(graph, dict) or etype not in graph:
        known = ", ".join(map(str, graph)) if isinstance(graph, dict) else "one type"
        raise GraphError(f"the model reads edges of type {etype}, the graph has {known}.")
    return graph[etype]


def _edges_by_type(op, graph, types):
    if not isinstance(graph, Graph):
        raise GraphError("the model reads edge types of one graph here; pass a single graph.")
    return graph.by_type(types[op["in"][1]], op["count"])


_DERIVED = {"item": _item, "relation": _relation, "edges_by_type": _edges_by_type}


def _check_in_degrees(graph):
    if getattr(graph, "has_zero_in_degree", False):
        raise GraphError(
            "There are 0-in-degree nodes in the graph, whose output would be invalid. Add self-loops with "
            "`dgl.add_self_loop(g)`, or construct the layer with allow_zero_in_degree=True to let zeros through."
        )


def launch_arguments(features: dict, flags: dict, outputs: dict, first: int = 0) -> dict:
    """What a launch fills in for arrays by value: their addresses, flags', and whether to write past the caches.

    Feature arrays hold the rows from ``first`` on.
    """
    arguments = {
        Argument("in", value): array.ctypes.data - first * array.strides[0] for value, array in features.items()
    }
    arguments.update({Argument("flag", value): flag.ctypes.data for value, flag in flags.items()})
    for value, array in outputs.items():
        is_aligned = array.ctypes.data % 64 == 0 and array.shape[1] % 16 == 0
        arguments[Argument("out", value)] = array.ctypes.data
        arguments[Argument("stream", value)] = int(is_aligned and array.nbytes > STREAM_FROM)
    return arguments


def _rows_read(stage, features, rows):
    """The features that a stage reads, converted, between two rows; the whole of what it reads out."""
    read = {value for op in stage.ops for value in map(whole, op.reads)} & set(features)
    whole_ones = {value for op in stage.ops if op.name == "readout" for value in op.reads} & read
    if whole_ones:
        raise GraphError("features that are read out as they are do not come in batches; call the model itself.")
    return {value: np.ascontiguousarray(features[value][slice(*rows)], np.float32) for value in read}


def _parts(features):
    """Feature arrays by value, or by (value, 0) and (value, 1) the parts of a pair."""
    parts = {}
    for value, given in features.items():
        parts.update({(value, n): part for n, part in enumerate(given)} if isinstance(given, tuple) else {value: given})
    return parts
