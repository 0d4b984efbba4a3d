"""Readouts of the graphs of a batch."""

from __future__ import annotations

import numpy as np

from ...kernels.readout import REDUCTIONS, Readout, readout
from ..attributes import choice
from .registry import Operation, operation


@operation("readout", reduce=choice(*REDUCTIONS))
class ReadOut(Operation):
    """Sums, means or maxima over the nodes of each graph of a batch."""

    gathers = (0,)
    reads_sources = None

    def check(self, plan, op, graph, value):
        plan.expect(graph, "graph")
        plan.define(op["out"], "float", plan.expect(value, "features", "float"))

    def resolve(self, resolver, op):
        graph, value = resolver.graph(op["in"][0]), resolver.one(op["in"][1])
        resolver.expect_nodes(graph.num_dst, "nodes", value)
        resolver.names[op["out"]] = op["out"]
        resolver.emit(op, [value], [op["out"]], resolver.columns[value], graph.batch_size)

    def emit(self, stage, op):
        slot = stage.at_slot(stage.hold(op.writes[0], stage.new_slot()))
        matrix, _ = stage.places.matrix(op.reads[0])
        starts = stage.graph_array(op.spec["in"][0], "batch_starts")
        stage.add(readout, (op.spec["reduce"],), Readout(slot, op.columns, matrix, starts))

    def reference(self, plan, op, graph, values):
        starts, result = graph.batch_starts, []
        reduce = {"sum": np.sum, "mean": np.mean, "max": np.max}[op["reduce"]]
        for first, last in zip(starts[:-1], starts[1:]):
            empty = np.zeros(values.shape[1], np.float32)
            result.append(reduce(values[first:last], axis=0) if last > first else empty)
        return np.array(result, np.float32).reshape(graph.batch_size, values.shape[1])
