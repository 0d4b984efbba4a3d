"""Functions of rows, and of several values of the same rows."""

from __future__ import annotations

import numpy as np

from ...kernels.maps import MAPS, Map, map
from ...kernels.term import Pairwise, Place, Term, pairwise, place, term
from ..attributes import NUMBER, choice, several
from .registry import Operation, operation


@operation("map", function=choice(*MAPS), parameter=NUMBER)
class MapRows(Operation):
    """A function of numbers or of rows; its parameter is a slope, an exponential's factor, or an ε beside a divisor."""

    def check(self, plan, op, value):
        plan.define(op["out"], "float", plan.expect(value, "features", "float"))

    def emit(self, stage, op):
        source = stage.slot(op.reads[0])
        slot = stage.hold(op.writes[0], stage.over(op.reads[0]))
        fields = Map(stage.at_slot(slot), stage.at_slot(source), op.columns, np.float32(op.spec["parameter"]))
        stage.add(map, (op.spec["function"],), fields)

    def reference(self, plan, op, values):
        return _of_rows(op["function"], np.float32(op["parameter"]), values)


def _of_rows(function, parameter, x):
    zero, one = np.float32(0), np.float32(1)
    if function == "leaky_relu":
        return np.maximum(x, zero) + np.minimum(x, zero) * parameter
    if function == "elu":
        return np.maximum(x, zero) + parameter * (np.exp(np.minimum(x, zero)) - one)
    if function == "sigmoid":
        return one / (one + np.exp(np.minimum(-x, np.float32(88))))
    if function == "tanh":
        return np.tanh(x)
    wide = x.astype(np.float64)
    if function == "standardise":
        centered = wide - wide.mean(1, keepdims=True)
        result = centered / np.sqrt((centered**2).mean(1, keepdims=True) + float(parameter))
    elif function == "normalize":
        result = wide / np.maximum(np.sqrt((wide**2).sum(1, keepdims=True)), float(parameter))
    else:
        wide = wide - wide.max(1, keepdims=True, initial=-np.inf)
        total = np.exp(wide).sum(1, keepdims=True)
        result = np.exp(wide) / total if function == "softmax" else wide - np.log(total)
    return result.astype(np.float32)


@operation("concat")
class Concat(Operation):
    """Values side by side."""

    def check(self, plan, op, *values):
        widths = [plan.expect(value, "features", "float") for value in values]
        plan.require(bool(values), "nothing to put side by side")
        plan.define(op["out"], "float", None if None in widths else sum(widths))

    def resolve(self, resolver, op):
        resolver.row_by_row(op, sum)

    def emit(self, stage, op):
        slot, offset = stage.hold(op.writes[0], stage.new_slot()), 0
        for value in op.reads:
            columns = stage.columns(value)
            at, source = stage.at_slot(slot), stage.at_slot(stage.slot(value))
            stage.add(place, (), Place(at, source, columns, offset, op.columns))
            offset += columns
        stage.widen(op.columns)

    def reference(self, plan, op, *values):
        return np.concatenate(values, axis=1)


def _check_alike(plan, op, values):
    known = {plan.expect(value, "features", "float") for value in values} - {None}
    plan.require(len(values) > 0 and len(known) <= 1, f"{op['op']} of widths {sorted(known)}")
    plan.define(op["out"], "float", known.pop() if known else None)


class _Pairwise(Operation):
    """A function of two, of the first value and one after another."""

    def check(self, plan, op, *values):
        _check_alike(plan, op, values)

    def emit(self, stage, op):
        first, *others = op.reads
        slot, at = stage.hold(op.writes[0], stage.new_slot()), stage.at_slot
        stage.add(term, (), Term(at(slot), at(stage.slot(first)), op.columns, 1.0, 0, 1))
        for value in others:
            stage.add(pairwise, (self.name,), Pairwise(at(slot), at(stage.slot(value)), op.columns))


@operation("maximum")
class Maximum(_Pairwise):
    """The largest of several values, number by number."""

    def reference(self, plan, op, *values):
        return np.maximum.reduce(values)


@operation("multiply")
class Multiply(_Pairwise):
    """The product of several values, number by number."""

    def reference(self, plan, op, *values):
        return np.multiply.reduce(values)


@operation("combine", coefficients=several(NUMBER))
class Combine(Operation):
    """Σ coefficient · value."""

    def check(self, plan, op, *values):
        plan.require(len(values) == len(op["coefficients"]) > 0, "combine needs a coefficient a value")
        _check_alike(plan, op, values)

    def emit(self, stage, op):
        first, at = op.reads[0], stage.at_slot
        terms = [
            (coefficient, stage.slot(value), stage.factor(factor))
            for coefficient, value, factor in zip(op.spec["coefficients"], op.reads, op.factors)
        ]
        slot = stage.over(first) if op.reads.count(first) == 1 else stage.new_slot()
        stage.hold(op.writes[0], slot)
        for position, (coefficient, source, factor) in enumerate(terms):
            if source != slot or (coefficient, factor) != (1, 0):
                fields = Term(at(slot), at(source), op.columns, coefficient, factor, position == 0)
                stage.add(term, (), fields)

    def reference(self, plan, op, *terms):
        total = None
        for coefficient, value in zip(op["coefficients"], terms):
            value = value if coefficient == 1 else np.float32(coefficient) * value
            total = value if total is None else total + value
        return total
