"""Degree norms, scales, biases and ReLU: operations of plans, and ``finish``, which schedules make of a row of them."""

from __future__ import annotations

import numpy as np

from ...kernels.fields import Finishing
from ...kernels.finish import Finish, finish
from ..attributes import NUMBERS, PLUS, POWER, SIDE
from .registry import Operation, operation


@operation("degree", side=SIDE, power=POWER, plus=PLUS)
class Degree(Operation):
    """Rows times a power of (degree + plus); nothing where the edge weight is given."""

    def check(self, plan, op, value, graph, edge_weight=None):
        plan.expect(graph, "graph")
        if edge_weight is not None:
            plan.expect(edge_weight, "edge_weight")
        plan.define(op["out"], "float", plan.expect(value, "features", "float", "state"))

    def resolve(self, resolver, op):
        value, graph = resolver.one(op["in"][0]), resolver.graph(op["in"][1])
        if len(op["in"]) > 2 and op["in"][2] in resolver.edge_weights:
            resolver.names[op["out"]] = value
            return
        side, expected = ("source", graph.num_src) if op["side"] == "out" else ("destination", graph.num_dst)
        resolver.expect_nodes(expected, f"{side} nodes", value)
        resolver.names[op["out"]] = op["out"]
        resolver.emit(op, [value], [op["out"]], resolver.columns[value])

    def reference(self, plan, op, values, graph, edge_weight=None):
        if edge_weight is not None:
            return values
        return values * graph.degree_factor(op["side"], op["power"], op["plus"])[:, None]


class _PerColumn(Operation):
    def check(self, plan, op, value):
        columns = plan.expect(value, "features", "float")
        numbers = plan.numbers(op[self.name], None if columns is None else (1, columns))
        plan.define(op["out"], "float", len(numbers) if columns is None and len(numbers) > 1 else columns)

    def resolve(self, resolver, op):
        columns = resolver.plan.columns[op["out"]]
        if columns is not None:
            resolver.expect_width(resolver.one(op["in"][0]), columns)
        resolver.row_by_row(op)


@operation("scale", scale=NUMBERS)
class Scale(_PerColumn):
    """Columns times numbers."""

    def reference(self, plan, op, values):
        return values * plan.numbers(op["scale"], (1, values.shape[1]))


@operation("bias", bias=NUMBERS)
class Bias(_PerColumn):
    """Columns plus numbers."""

    def reference(self, plan, op, values):
        return values + plan.numbers(op["bias"], (1, values.shape[1]))


@operation("relu")
class Relu(Operation):
    """max(x, 0)."""

    def check(self, plan, op, value):
        plan.define(op["out"], "float", plan.expect(value, "features", "float"))

    def reference(self, plan, op, values):
        return np.maximum(values, np.float32(0))


class FinishRow(Operation):
    """A degree norm, a scale, a bias and a ReLU, as many of them as there are, in this order; of schedules only."""

    def emit(self, stage, op):
        (value,), (out,) = op.reads, op.writes
        source = stage.slot(value)
        slot = stage.hold(out, stage.over(value))
        fields = finishing(stage, op.spec, op.factors[0], op.columns)
        stage.add(finish, (), Finish(stage.at_slot(slot), stage.at_slot(source), op.columns, fields))


def finishing(stage, spec: dict, degree, columns: int) -> Finishing:
    """What ``finish`` says, as a field; ``degree`` is the operation of its norm, or None."""
    bias = stage.padded(spec["bias"]["out"], spec["bias"]["bias"], columns) if "bias" in spec else None
    scale = stage.padded(spec["scale"]["out"], spec["scale"]["scale"], columns) if "scale" in spec else 0
    bias = stage.padded("no bias", 0.0, columns) if bias is None else bias
    return Finishing(stage.factor(degree), scale, bias, 0.0 if "relu" in spec else -np.inf)


FINISH = FinishRow()
