"""Sums over in-neighbours weighted with attention."""

from __future__ import annotations

import math

import numpy as np

from ...graph import GraphError
from ...kernels.attend import Attend, Attention, Scratch, attention, sizes_of_scratch
from ...kernels.quads import bytes_at_a_time
from ...spec import FixedGrid
from ..attributes import COUNT, DICT, NUMBER, NUMBERS
from .neighbours import edges_of
from .registry import Operation, operation


@operation("attend", heads=COUNT, slope=NUMBER, vector=NUMBERS, quantizer=DICT)
class AttendNeighbours(Operation):
    """Sums of codes times coded softmax of Σ vector · LeakyReLU(source + destination), a head (arXiv:1710.10903)."""

    gathers = (0, 1)

    def check(self, plan, op, graph, codes, left, right):
        plan.expect(graph, "graph")
        columns, width, heads = plan.expect(codes, "codes"), plan.expect(left, "codes"), op["heads"]
        plan.expect_columns(right, width, "codes")
        for value in (codes, left, right):
            plan.require(type(plan.grids[value]) is FixedGrid, "attention with other scales")
        plan.require(columns % heads == width % heads == 0, f"{heads} heads")
        plan.numbers(op["vector"], (1, width))
        grid = plan.grid(op["quantizer"], 1)
        unsigned = type(grid) is FixedGrid and grid.zero_point[0] == grid.offset[0] == 0
        plan.require(unsigned, "attention is unsigned")
        plan.define(op["out"], "float", columns, grid)

    def resolve(self, resolver, op):
        graph, (codes, left, right) = resolver.graph(op["in"][0]), map(resolver.one, op["in"][1:])
        resolver.expect_nodes(graph.num_src, "source nodes", codes, left)
        resolver.expect_nodes(graph.num_dst, "destination nodes", right)
        resolver.names[op["out"]] = op["out"]
        resolver.emit(op, [codes, left, right], [op["out"]], resolver.columns[codes], graph.num_dst)

    def emit(self, stage, op):
        codes, left, _ = map(stage.places.codes, op.reads)
        graph, heads, grid = op.spec["in"][0], op.spec["heads"], stage.grid(op.writes[0])
        width, top, scale = left.grid.columns, grid.top, float(grid.scale[0])
        stage.check(graph, lambda graph: refuse_overflow(graph, codes.grid.top, top, scale))
        vector = stage.padded(op.spec["out"], op.spec["vector"], width)
        softmax = Attention(heads, width, vector, np.float32(op.spec["slope"]), top, scale, math.lcm(16, heads))
        slot = stage.at_slot(stage.hold(op.writes[0], stage.new_slot()))
        sizes = sizes_of_scratch(codes.grid.width * 8 // codes.grid.bits, width, heads)
        scratch = Scratch(*(stage.area(name, size) for name, size in sizes._asdict().items()))
        operands = map(stage.places.operand, op.reads)
        lanes, is_aligned = (
            bytes_at_a_time(codes.grid.bits, codes.grid.width),
            heads == 1 or op.columns // heads % 16 == 0,
        )
        variant = codes.grid.bits, lanes, left.grid.bits, width > heads, is_aligned
        stage.add(attention, variant, Attend(slot, op.columns, edges_of(stage, graph), *operands, softmax, scratch))
        stage.costs_edges(graph, codes.grid, times=10)

    def reference(self, plan, op, graph, codes, left, right):
        coded = coded_attention(plan, op, graph, left.values(), right.values())
        per_head = codes.codes.shape[1] // op["heads"]
        weights, target = np.repeat(coded, per_head, 1), np.repeat(np.arange(graph.num_dst), graph.in_degrees)
        total, count = np.zeros((2, graph.num_dst, codes.codes.shape[1]), np.int64)
        np.add.at(total, target, weights * codes.codes[graph.indices])
        np.add.at(count, target, weights)
        scale = plan.grids[op["out"]].scale
        return (total - codes.zero.astype(np.float64) * count).astype(np.float32) * (scale * codes.scale)


def coded_attention(plan, op: dict, graph, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Codes of the attention of an ``attend`` operation, (E, heads) int64, for values (N, heads · D) of both ends."""
    heads, target = op["heads"], np.repeat(np.arange(graph.num_dst), graph.in_degrees)
    x = left[graph.indices] + right[target]
    x = np.maximum(x, np.float32(0)) + np.minimum(x, np.float32(0)) * np.float32(op["slope"])
    x = (x * plan.numbers(op["vector"], (1, x.shape[1]))).reshape(len(x), heads, left.shape[1] // heads).sum(-1)
    most = np.full((graph.num_dst, heads), -np.inf, np.float32)
    np.maximum.at(most, target, x)
    x = np.exp(x - most[target])
    total = np.zeros_like(most)
    np.add.at(total, target, x)
    return plan.grids[op["out"]].code(x / total[target]).codes.astype(np.int64)


def refuse_overflow(graph, top_code: int, top: int, scale: float) -> None:
    """Raise GraphError where a node's weighted sum could exceed int32.

    Attention adds up to 1, and a code is at most half a step above it: a node's codes of attention add up to at most
    min(top · degree, 1 / scale + degree / 2).
    """
    degree = graph.max_in_degree
    most = min(top * degree, 1 / scale + degree / 2) * top_code
    if most >= 2**31:
        raise GraphError(f"a node of in-degree {degree} overflows an int32 sum of codes times coded attention.")
