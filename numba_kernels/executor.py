"""Runs a plan on packed codes, stage by stage."""

from __future__ import annotations

import numpy as np

from .assemble import Assembler
from .buffers import Buffers
from .graph import Graph, GraphError
from .matrices import Constants
from .plan import Plan
from .schedule import resolve, schedule
from .stage import run as run_stage

_KEPT_SCHEDULES = 8


class Executor:
    """Runs ``plan``; holds what is derived from it once: constants, schedules for shapes met, memory."""

    def __init__(self, plan: Plan):
        self.plan, self.constants, self.buffers = plan, Constants(plan), Buffers()
        self._schedules = {}
        self._names = {entry["value"]: entry["name"] for entry in plan.inputs}

    def run(self, inputs: dict) -> list:
        """Output arrays for ``inputs``: values by number — float32 arrays (or pairs), Graphs, edge weights."""
        kinds = {entry["value"]: entry["kind"] for entry in self.plan.inputs}
        graphs = self._graphs({value: part for value, part in inputs.items() if kinds[value] == "graph"})
        weights = {value: part for value, part in inputs.items() if kinds[value] == "edge_weight"}
        features, flags = {}, np.zeros((len(inputs), 2), np.int32)
        for n, (value, part) in enumerate(inputs.items()):
            if kinds[value] == "features":
                is_pair = isinstance(part, tuple)
                for m, array in enumerate(part if is_pair else (part,)):
                    features[(value, m) if is_pair else value] = array, flags[n, m:].ctypes.data
        plan = self._schedule({v: inputs[v] for v in inputs if kinds[v] == "features"}, graphs)
        try:
            return self._run_stages(plan, features, graphs, weights, flags, list(inputs))
        finally:
            self.buffers.settle()

    def _run_stages(self, plan, features, graphs, weights, flags, order):
        values = {}
        for number in range(len(plan.stages)):
            assembler = Assembler(plan, number, values, features, graphs, weights, self.constants, self.buffers)
            run_stage(*assembler.assemble())
            if flags.any():
                name = self._names[order[int(flags.any(1).argmax())]]
                raise GraphError(f"{name} holds NaN or infinity; clean it before running the model.")
            for value in [value for value in values if max(plan.read_in[value], default=-1) <= number]:
                if value not in plan.outputs:
                    self.buffers.give_back(values.pop(value))
        return [self._output(value, values, features) for value in plan.outputs]

    @staticmethod
    def _output(value, values, features):
        """A float value as an array of its own."""
        whole, rows = (value[1], value[2]) if isinstance(value, tuple) and value[0] == "head" else (value, None)
        if whole in features:
            return features[whole][0][:rows].copy()
        return values[whole].array[:rows]

    def _schedule(self, features, graphs):
        shapes = {
            value: tuple(array.shape for array in part) if isinstance(part, tuple) else part.shape
            for value, part in features.items()
        }
        sizes = [(value, g.num_src, g.num_dst, g.is_block) for value, g in graphs.items() if isinstance(g, Graph)]
        key = tuple(shapes.items()), tuple(sizes)
        if key not in self._schedules:
            planned = schedule(*resolve(self.plan, shapes, graphs))
            while len(self._schedules) >= _KEPT_SCHEDULES:
                del self._schedules[next(iter(self._schedules))]
            self._schedules[key] = planned
        return self._schedules[key]

    def _graphs(self, given):
        """Graphs by value, those that the plan takes out of lists as well; checked where the plan says so."""
        graphs = dict(given)
        for op in self.plan.ops:
            if op["op"] == "item":
                listed, index = graphs[op["in"][0]], op["index"]
                if isinstance(listed, Graph) or index >= len(listed):
                    raise GraphError(
                        f"the model reads graph {index} of a list of blocks; pass a list with at least that many."
                    )
                graphs[op["out"]] = listed[index]
            elif op["op"] == "check_in_degrees" and graphs[op["in"][0]].has_zero_in_degree:
                raise GraphError(
                    "There are 0-in-degree nodes in the graph, whose output would be invalid. Add self-loops with "
                    "`dgl.add_self_loop(g)`, or construct the layer with allow_zero_in_degree=True to let zeros "
                    "through."
                )
        return graphs
