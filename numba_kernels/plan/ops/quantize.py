"""Numbers to codes and back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...fixed_point import normed
from ...kernels.decode import Decode, decode
from ...kernels.encode import Encode, encode
from ...kernels.fields import INTEGER, Coding, Matrix
from ...kernels.fixed import EncodeFixed, FixedNorm, encode_fixed, fixed_norm
from ...kernels.silence import ClearSilent, FindSilent, clear_silent, find_silent
from ...kernels.term import Term, term
from ...spec import CodedRows, FixedGrid, IntegerGrid, OwnGrid
from ..attributes import COUNT, DICT, NUMBERS, PLUS, POWER, SIDE, UNIT, VALUE, choice, record
from .registry import Operation, each_part, operation

_NO_MATRIX = Matrix(0, 0, 0)
_DEAD_ZONE = record(thresholds=NUMBERS, of=choice("rows", "entries"))


def coding(stage, grid) -> Coding:
    """How an integer grid codes, as fields."""
    arrays = stage.at(grid.power), stage.at(grid.multiplier), stage.at(grid.whole)
    return Coding(*arrays, grid.coding.shift, grid.coding.added)


def _emit_codes(stage, out, slot, columns, factor=0, source=_NO_MATRIX):
    """Encode a slot, which was loaded from ``source`` if it says so, as the codes ``out``."""
    stage.places.new_codes(out, stage.grid(out))
    grid = stage.grid(out)
    target = stage.places.target(out, grid, factor)
    if grid.mode == INTEGER:
        fields = EncodeFixed(stage.at_slot(slot), columns, target, coding(stage, grid), source)
        stage.add(encode_fixed, (factor != 0,), fields)
        return
    variant, grids = (target.mode, min(target.width, 64)), stage.area_of_rows("grids", 16)
    stage.add(encode, variant, Encode(stage.at_slot(slot), columns, target, grids, source))


@operation("quantize", quantizer=DICT, columns=COUNT, optional={"norm": record(side=SIDE, power=POWER, plus=PLUS)})
class Quantize(Operation):
    """Codes of floats on a grid; of an integer one, also times degree norms of 15 bits."""

    def check(self, plan, op, value, graph=None):
        grid = plan.grid(op["quantizer"], op["columns"])
        plan.expect_columns(value, op["columns"], "features", "float")
        plan.require(len(op["in"]) == 1 + ("norm" in op), "a norm goes with a graph")
        if "norm" in op:
            plan.expect(graph, "graph")
            plan.require(isinstance(grid, IntegerGrid), "a norm goes with integer arithmetic")
        plan.define(op["out"], "codes", op["columns"], grid)

    def resolve(self, resolver, op):
        for value in resolver.parts(op["in"][0]):
            resolver.expect_width(value, op["columns"])
        if "norm" in op:
            _expect_nodes(resolver, op, op["norm"]["side"])
        resolver.each(op, op["columns"])

    def emit(self, stage, op):
        (value,), (out,) = op.reads, op.writes
        norm = op.spec.get("norm")
        factor = stage.factor(op.factors[0]) if norm is None else stage.norm(op.spec["in"][1], norm)
        if not stage.places.looks_up(value, out, stage.grid(out)):
            source = _NO_MATRIX if value in stage.slots else stage.places.matrix(value)[0]
            _emit_codes(stage, out, stage.slot(value, asks=False), op.columns, factor, source)
        else:
            stage.looked_up[out] = value, stage.places.target(out, stage.grid(out), factor)

    @each_part
    def reference(self, plan, op, values, graph=None):
        grid = plan.grids[op["out"]]
        if graph is None:
            return grid.code(values)
        return grid.code(values, graph.degree_factor(**op["norm"], of_15_bits=True))


def _expect_nodes(resolver, op, side):
    graph = resolver.graph(op["in"][1])
    side, expected = ("source", graph.num_src) if side == "out" else ("destination", graph.num_dst)
    resolver.expect_nodes(expected, f"{side} nodes", *resolver.parts(op["in"][0]))


@operation("fixed_degree", unit=UNIT, side=SIDE, power=POWER, plus=PLUS)
class FixedDegree(Operation):
    """Rows of fixed-point numbers times degree norms of 15 bits."""

    def check(self, plan, op, value, graph):
        plan.expect(graph, "graph")
        plan.define(op["out"], "float", plan.expect(value, "float"))

    def resolve(self, resolver, op):
        _expect_nodes(resolver, op, op["side"])
        value = resolver.one(op["in"][0])
        resolver.names[op["out"]] = op["out"]
        resolver.emit(op, [value], [op["out"]], resolver.columns[value])

    def emit(self, stage, op):
        source, at = stage.slot(op.reads[0]), stage.at_slot
        slot = stage.hold(op.writes[0], stage.over(op.reads[0]))
        factor = stage.norm(op.spec["in"][1], op.spec)
        stage.add(fixed_norm, (), FixedNorm(at(slot), at(source), op.columns, factor, 2.0 ** op.spec["unit"]))

    def reference(self, plan, op, values, graph):
        return normed(values, graph.degree_factor(op["side"], op["power"], op["plus"], True), op["unit"])


@operation("delta", quantizer=DICT, columns=COUNT, state=VALUE, optional={"dead_zone": _DEAD_ZONE})
class Delta(Operation):
    """Codes of what changed against a state, and the state they lead to.

    With a dead zone rows that nowhere changed by a threshold are not sent: they are 0, and of entries those of others
    that did not are. What is written then are "changes", which sums alone read.
    """

    def check(self, plan, op, value, state):
        grid = plan.grid(op["quantizer"], op["columns"])
        plan.require(not isinstance(grid, OwnGrid), "delta coding has no scale per row")
        plan.expect_columns(value, op["columns"], "features", "float")
        if "dead_zone" in op:
            thresholds = plan.numbers(op["dead_zone"]["thresholds"], (1, op["columns"]))
            plan.require((thresholds > 0).all(), "thresholds of a dead zone must be positive")
            plan.require(type(grid) is FixedGrid, "changes in a dead zone need a fixed scale")
            has_zero = (grid.code(np.zeros((1, op["columns"]), np.float32)).values() == 0).all()
            plan.require(op["dead_zone"]["of"] == "rows" or has_zero, "a dead zone of entries needs codes for 0")
        plan.define(op["out"], "changes" if "dead_zone" in op else "codes", op["columns"], grid)
        if state is not None:
            plan.expect_columns(state, op["columns"], "state")
        plan.define(op["state"], "state", op["columns"])

    def resolve(self, resolver, op):
        value, state = resolver.one(op["in"][0]), resolver.names[op["in"][1]]
        resolver.expect_width(value, op["columns"])
        if state is not None:
            resolver.expect_rows(state, resolver.rows[value])
        resolver.names[op["out"]], resolver.names[op["state"]] = op["out"], op["state"]
        resolver.emit(op, [value, state], [op["out"], op["state"]], op["columns"])

    def emit(self, stage, op):
        (value, state), (out, after) = op.reads, op.writes
        columns, at = op.columns, stage.at_slot
        source, change = stage.slot(value), stage.new_slot()
        stage.hold("change", change)
        first = Term(at(change), at(source), columns, 1.0, stage.factor(op.factors[0]), 1)
        stage.add(term, (), first)
        if state is not None:
            stage.add(term, (), Term(at(change), at(stage.slot(state)), columns, -1.0, 0, 0))
        zone = op.spec.get("dead_zone")
        sent = 0 if zone is None else stage.sent_rows(out)
        if zone is not None:
            fields = FindSilent(at(change), columns, stage.thresholds(op.spec), sent)
            stage.add(find_silent, (zone["of"] == "entries",), fields)
        _emit_codes(stage, out, change, columns)
        stage.add(decode, (), Decode(at(change), columns, stage.places.operand(out)))
        if zone is not None:
            stage.add(clear_silent, (), ClearSilent(at(change), columns, sent))
        stage.let_go("change")
        if state is None:
            stage.hold(after, change)
            return
        before = stage.slot(state)
        stage.hold("change", change)
        slot = stage.over(state)
        stage.hold(after, slot)
        if slot != before:
            stage.add(term, (), Term(at(slot), at(before), columns, 1.0, 0, 1))
        stage.add(term, (), Term(at(slot), at(change), columns, 1.0, 0, 0))
        stage.release("change")

    def reference(self, plan, op, values, state):
        state = np.zeros_like(values) if state is None else state
        change, sent = values - state, None
        if "dead_zone" in op:
            reaches = np.abs(change) >= plan.numbers(op["dead_zone"]["thresholds"], (1, op["columns"]))
            change = np.where(reaches, change, np.float32(0)) if op["dead_zone"]["of"] == "entries" else change
            sent = reaches.any(1)
        codes = replace(plan.grids[op["out"]].code(change), sent=sent)
        return codes, state + codes.values()


@operation("dequantize")
class Dequantize(Operation):
    """Values of codes."""

    def check(self, plan, op, value):
        plan.define(op["out"], "float", plan.expect(value, "codes"))

    def emit(self, stage, op):
        slot = stage.hold(op.writes[0], stage.new_slot())
        stage.add(decode, (), Decode(stage.at_slot(slot), op.columns, stage.places.operand(op.reads[0])))

    def reference(self, plan, op, codes):
        return codes.values()


@operation("stack")
class Stack(Operation):
    """Codes of one quantizer, one below the other; they are made where they stand, each in one stack."""

    def check(self, plan, op, *values):
        plan.require(len(values) > 0, "nothing to stack")
        columns, first = plan.expect(values[0], "codes"), plan.grids[values[0]]
        for value in values:
            plan.expect_columns(value, columns, "codes")
            plan.require(plan.grids[value] == first and not isinstance(first, OwnGrid), "other grids are stacked")
        made_here = all(plan.makers[value] in ("quantize", "delta") for value in values)
        plan.require(made_here, "only codes that quantize or delta made are stacked")
        plan.require(len(set(values)) == len(values), "a value is stacked on itself")
        plan.require(plan.stacked.isdisjoint(values), "a value is stacked twice")
        plan.stacked.update(values)
        plan.define(op["out"], "codes", columns, first)

    def resolve(self, resolver, op):
        parts = [resolver.one(value) for value in op["in"]]
        for value in parts[1:]:
            resolver.expect_rows(value, resolver.rows[parts[0]])
        resolver.names[op["out"]] = op["out"]
        resolver.emit(op, parts, [op["out"]], resolver.columns[parts[0]], len(parts) * resolver.rows[parts[0]])

    def emit(self, stage, op):
        """Its parts were made where they stand: nothing is left to do."""

    def reference(self, plan, op, *parts):
        scale = np.concatenate([part.scale for part in parts]) if parts[0].scale.ndim == 2 else parts[0].scale
        return CodedRows(np.concatenate([part.codes for part in parts]), scale, parts[0].zero, parts[0].unit)
