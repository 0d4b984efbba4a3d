"""Sums within and over the heads of a row."""

from __future__ import annotations

from ...kernels.heads import Heads, heads
from ..attributes import COUNT, NUMBERS
from .registry import Operation, operation


class _Heads(Operation):
    def check(self, plan, op, value):
        columns, number = plan.expect(value, "features", "float"), op["heads"]
        whole = columns is not None and columns % number == 0
        plan.require(whole, f"{number!r} heads of {columns} columns")
        plan.define(op["out"], "float", self.width(columns, number))

    def resolve(self, resolver, op):
        resolver.row_by_row(op, lambda widths: self.width(widths[0], op["heads"]))

    def add(self, stage, op, step, numbers, jump, vector):
        source = stage.at_slot(stage.slot(op.reads[0]))
        slot = stage.at_slot(stage.hold(op.writes[0], stage.new_slot()))
        stage.add(heads, (), Heads(slot, source, op.columns, step, numbers, jump, vector))


@operation("head_sums", heads=COUNT, vector=NUMBERS)
class HeadSums(_Heads):
    """A number a head: the sum of its columns times a vector."""

    def check(self, plan, op, value):
        super().check(plan, op, value)
        plan.numbers(op["vector"], (1, plan.columns[value]))

    @staticmethod
    def width(columns, number):
        return number

    def emit(self, stage, op):
        columns = stage.columns(op.reads[0])
        per_head = columns // op.columns
        vector = stage.padded(op.spec["out"], op.spec["vector"], columns)
        self.add(stage, op, per_head, per_head, 1, vector)

    def reference(self, plan, op, values):
        weighted = values * plan.numbers(op["vector"], (1, values.shape[1]))
        return weighted.reshape(len(values), op["heads"], values.shape[1] // op["heads"]).sum(-1)


@operation("head_mean", heads=COUNT)
class HeadMean(_Heads):
    """The mean over heads."""

    @staticmethod
    def width(columns, number):
        return columns // number

    def emit(self, stage, op):
        columns = stage.columns(op.reads[0])
        number = columns // op.columns
        self.add(stage, op, 1, number, op.columns, stage.padded(("mean", number), 1 / number, columns))

    def reference(self, plan, op, values):
        return values.reshape(len(values), op["heads"], values.shape[1] // op["heads"]).mean(1)
